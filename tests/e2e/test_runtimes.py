"""The real server process on "auto": what it chooses, what it says of that, and how it chooses anew."""

from __future__ import annotations

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.doubles import picture
from helpers.feeds import model_of
from helpers.made_up import tiny_bundle
from helpers.process import started
from radrank.bench.footprint import make_home
from radrank.client.client import Client
from radrank.client.results import SearchResult
from radrank.engines.conversions import keep

AUTO = {"RADRANK_ENGINES__RUNTIME": "auto", "CUDA_VISIBLE_DEVICES": ""}
QUERIES = {"image_encoder": {"image": picture(1, side=64)}, "text_encoder": {"text": "the left lungs are large"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "home"
    make_home(path, tiny_bundle(), 60, threads=1, bar=lambda label, total: nullcontext(lambda done: None))
    return path


def test_auto_serves_on_the_best_there_is_and_log_and_replies_name_it(home, tmp_path):
    log = tmp_path / "log"
    settings = AUTO | {"RADRANK_ENGINES__PLANS": str(tmp_path / "plans")}
    with started(tiny_bundle(), home, settings, log=log) as server, Client(server.address, timeout=60) as client:
        plain = {name: client.search(**query, reranker="off").provenance for name, query in QUERIES.items()}
        reranked = {name: client.search(**query, reranker="sage").provenance for name, query in QUERIES.items()}
    said = log.read_text()
    chosen = {
        name: (runtime, precision) for name, runtime, precision in re.findall(r"(\w+) runs on (.+), (\w+): ", said)
    }
    assert {name: (made.runtime, made.precision) for name, made in plain.items()} == {
        name: chosen[name] for name in QUERIES
    }
    for name, made in reranked.items():
        both = chosen[name], chosen["reranker_sage"]
        assert made.runtime == ", ".join(runtime for runtime, _ in both)
        assert made.precision == ", ".join(dict.fromkeys(precision for _, precision in both))
    assert {runtime.split()[0] for runtime, _ in map(chosen.get, QUERIES)} == {
        "openvino" if find_spec("openvino") else "onnxruntime-cpu"
    }
    assert "WARNING" not in said


def test_sighup_takes_up_what_was_made_since_while_searches_go_on_and_none_fails(home, tmp_path):
    log, plans, enough = tmp_path / "log", tmp_path / "plans", threading.Event()
    settings = AUTO | {"RADRANK_ENGINES__PRECISION": "int8", "RADRANK_ENGINES__PLANS": str(plans)}
    with (
        started(tiny_bundle(), home, settings, log=log) as server,
        Client(server.address, timeout=60) as client,
        ThreadPoolExecutor(4) as pool,
    ):

        def search(name: str) -> SearchResult:
            return client.search(**QUERIES[name], reranker="off")

        def searches(name: str) -> list[SearchResult]:
            found = [search(name)]
            while not enough.is_set():
                found.append(search(name))
            return found

        before = {name: search(name) for name in QUERIES}
        for model in map(model_of, QUERIES):  # the same weights: no answer may change
            keep(plans, model, "int8", "for this test", model.path.read_bytes())
        running = [(name, pool.submit(searches, name)) for name in QUERIES for _ in range(2)]
        server.popen.send_signal(signal.SIGHUP)
        for _ in range(2400):
            if chosen_anew := log.read_text().count(", int8: top-10") == len(QUERIES):
                break
            time.sleep(0.05)
        enough.set()
        said = [line for line in log.read_text().splitlines() if "radrank.access" not in line]
        assert chosen_anew, said[-10:]
        for name, found in running:
            assert all(result.hits == before[name].hits for result in found.result())
        for name, result in before.items():
            assert (result.provenance.precision, search(name).provenance.precision) == ("fp32", "int8")
        assert server.end(signal.SIGTERM) == 0
