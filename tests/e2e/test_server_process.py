"""The real server process, started as a user starts it, on a free port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path

import grpc
import numpy as np
import pytest

from helpers.doubles import picture
from helpers.process import Process, started
from radrank.client.client import Client
from radrank.client.errors import ClientError, InvalidArgument
from radrank.client.requests import NewImage, NewStudy
from radrank.v1 import retrieval_pb2, retrieval_pb2_grpc

WORDS = "a wholly invented sentence about nothing that any phantom shows"


@pytest.fixture
def home(demo_home: Path, tmp_path: Path) -> Path:
    """A copy of the demo archive, to be changed."""
    return copied(demo_home, tmp_path / "home")


def copied(home: Path, to: Path) -> Path:
    return Path(shutil.copytree(home, to, ignore=shutil.ignore_patterns(".lock")))


def ids(result) -> list[str]:
    return [hit.study_id for hit in result.hits]


def each_kind(client: Client) -> list[dict]:
    """A query by an image, by words, by an embedding and by a study."""
    study = ids(client.search(text="right pleural effusion", k=1))[0]
    return [
        {"image": client.get_study(study, previews=True).images[0].preview},
        {"text": "right pleural effusion"},
        {"embedding": client.embed(texts=["a small nodule"])[0], "modality": "report"},
        {"study": study},
    ]


def test_the_printed_line_can_be_pasted(demo_bundle, home):
    with started(demo_bundle, home) as server:
        pasted = re.search(r"radrank (search .*)", server.printed[1])
        assert pasted
        assert f"--server {server.address}" in pasted[1]
        found = subprocess.run(
            f"{sys.executable} -m radrank.client.cli {pasted[1]} --json",
            shell=True,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert found.returncode == 0, found.stderr
        assert '"rank"' in found.stdout


def test_every_direction_with_every_reranker_and_without(demo_bundle, home):
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        rerankers = (*client.stats().rerankers, "off")
        for query, target, reranker in product(each_kind(client), ("image", "report"), rerankers):
            result = client.search(**query, target=target, reranker=reranker, k=5)
            assert len(result.hits) == 5
            again = client.search(**query, target=target, reranker=reranker, k=5)
            assert ids(again) == ids(result)


def test_a_query_gets_the_same_reply_alone_among_others_and_from_a_replica(demo_bundle, home, tmp_path):
    places = {"RADRANK_LIMITS__IN_FLIGHT": "32"}
    with (
        started(demo_bundle, copied(home, tmp_path / "replica")) as replica,
        started(demo_bundle, home, places) as server,
        Client(replica.address, timeout=60) as other,
        Client(server.address, timeout=60) as client,
    ):
        rerankers = client.stats().rerankers
        asked = [query | {"reranker": name} for query, name in product(each_kind(client), rerankers)]

        def reply(query, of=client):
            found = of.search(**query)
            return found.hits, found.provenance

        alone = [reply(query) for query in asked]
        assert [told.reranker for _, told in alone] == [*rerankers] * 4
        assert len({hits for hits, _ in alone}) == len(asked), "each query has an answer of its own"
        assert [reply(query, other) for query in asked] == alone
        for at_once in (8, 32):
            with ThreadPoolExecutor(at_once) as pool:
                assert list(pool.map(reply, asked * 4)) == alone * 4


def test_a_stream_gives_what_single_searches_give(demo_bundle, home):
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        texts = ["cardiomegaly", "normal chest", "left pneumothorax", "opacity in the right lung"]
        streamed = dict(client.search_stream([(text, {"text": text, "k": 5}) for text in [*texts, " "]]))
        assert isinstance(streamed.pop(" "), InvalidArgument)
        assert {text: ids(result) for text, result in streamed.items()} == {
            text: ids(client.search(text=text, k=5)) for text in texts
        }


def helper_of(server: Process) -> int:
    """The process that re-ranks beside the server's own, once it is ready to."""
    (children,) = {path.read_text() for path in Path(f"/proc/{server.popen.pid}/task").glob("*/children")} - {""}
    helper = int(children)
    while read_by(helper) < 2**20:  # it opens its models
        time.sleep(0.05)
    return helper


def read_by(pid: int) -> int:
    """Bytes, of files and pipes."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def test_side_by_side_searches_are_helped_and_give_what_single_ones_give(demo_bundle, home):
    with (
        started(demo_bundle, home, {"RADRANK_LIMITS__HELPERS": "1"}) as server,
        Client(server.address, timeout=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        studies = ids(client.search(text="chest", reranker="off", k=100))
        alone = {study: client.search(study=study, reranker="sage", k=10) for study in studies}
        helper = helper_of(server)
        before = read_by(helper)

        def search(study: str):
            return client.search(study=study, reranker="sage", k=10)

        for _ in range(20):  # on a busy machine threads may have the first hundreds
            for study, found in zip(studies, pool.map(search, studies), strict=True):
                assert found.hits == alone[study].hits
            if read_by(helper) - before > 50 * 2_000:
                break
        else:
            pytest.fail("the helper had no part in it")
        server.end(signal.SIGKILL)
        for _ in range(100):
            if not Path(f"/proc/{helper}").exists():
                break
            time.sleep(0.05)
        else:
            pytest.fail("the helper outlived its server")


def test_a_burst_is_answered_or_refused_at_once_and_leaves_nothing_behind(demo_bundle, home):
    in_flight = 8
    limits = {"RADRANK_LIMITS__IN_FLIGHT": str(in_flight), "RADRANK_LIMITS__WORKERS": "2"}
    with (
        started(demo_bundle, home, limits) as server,
        Client(server.address, timeout=60) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        studies = ids(client.search(text="chest", k=50))
        for study in studies:
            client.search(study=study)  # until the event loop does them
        search = retrieval_pb2_grpc.RetrievalStub(channel).Search

        def at_once(queries: list[dict]) -> list[grpc.Future]:
            """Calls that have all come before the server sees the first."""
            server.popen.send_signal(signal.SIGSTOP)
            calls = [search.future(retrieval_pb2.SearchRequest(query=query, k=10), timeout=20) for query in queries]
            time.sleep(0.3)
            server.popen.send_signal(signal.SIGCONT)
            return calls

        start = time.monotonic()
        calls = at_once([{"study": {"study_id": study}} for study in studies] * 8)
        codes = Counter(call.code() for call in calls)  # waits for it
        assert time.monotonic() - start < 10
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > len(calls) / 2, "they waited unseen"
        for call in calls:
            if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert int(dict(call.trailing_metadata())["grpc-retry-pushback-ms"]) >= 10
        time.sleep(1.5)  # until all places are given again
        calls = at_once([{"text": f"{number} small nodules"} for number in range(in_flight)])
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}, "a place was not given back"


def test_an_acknowledged_study_survives_sigkill(demo_bundle, home):
    new = NewStudy(
        study_id="E2E-1",
        images=[NewImage(content=picture(4711, side=256), view="pa")],
        findings=WORDS,
        labels=["opacity"],
        normal=False,
    )
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        reply = client.upsert([new])
        before = ids(client.search(text=WORDS, target="report", reranker="off", k=10))
        assert before[0] == "E2E-1"
        server.end(signal.SIGKILL)
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        assert ids(client.search(text=WORDS, target="report", reranker="off", k=10)) == before
        found = client.search(image=picture(4711, side=256), target="image", reranker="off", k=1).hits[0]
        assert (found.study_id, round(found.cosine, 3)) == ("E2E-1", 1.0)
        assert client.get_study("E2E-1").findings == WORDS
        assert client.stats().sequence == reply.sequence


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_leaves_with_zero_as_soon_as_nothing_runs(demo_bundle, home, number):
    with (
        started(demo_bundle, home, {"RADRANK_LIMITS__HELPERS": "1"}) as server,
        Client(server.address, timeout=60) as client,
    ):
        results: list[list[str]] = []
        threads = [
            threading.Thread(target=lambda: results.append(ids(client.search(text="opacity", k=5)))) for _ in range(4)
        ]
        client.wait_until_serving()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        helper_of(server)
        start = time.monotonic()
        assert server.end(number) == 0
        assert time.monotonic() - start < 4.0
        assert len(results) == 4


def test_a_second_signal_ends_it_at_once(demo_bundle, home):
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        sent, leave = threading.Event(), threading.Event()

        def studies():
            yield NewStudy(study_id="E2E-2", findings=WORDS)
            sent.set()
            leave.wait(60)

        def upsert():
            with suppress(ClientError):
                client.upsert(studies())

        held = threading.Thread(target=upsert)
        held.start()
        assert sent.wait(20)
        time.sleep(0.5)  # until the server reads it
        server.popen.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.popen.wait(1.0)
        assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM
        leave.set()
        held.join()


def test_embeddings_ask_like_what_they_were_made_of(demo_bundle, home):
    with started(demo_bundle, home) as server, Client(server.address, timeout=60) as client:
        vector = client.embed(texts=["large right pneumothorax"])[0]
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)
        by_vector = client.search(embedding=vector, modality="report", target="image", k=5)
        assert ids(by_vector) == ids(client.search(text="large right pneumothorax", target="image", k=5))
