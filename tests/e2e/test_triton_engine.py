"""The real server process with its engines on a real Triton: the same answers, and what happens when that is killed."""

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from helpers.bundles import with_one_weight_changed
from helpers.process import started
from helpers.triton import Triton, free_ports, needs_triton, triton
from radrank.client.client import Client
from radrank.client.errors import ClientError, Unavailable
from radrank.datasets import open_dataset
from radrank.engines.kserve.exported import SEARCH
from radrank.export.triton import write_repository
from radrank.export.triton_models import TritonSettings

pytestmark = needs_triton

SECONDS = 3.0
"""What a call may take, by its deadline."""
TEXT = "right pleural effusion"


@dataclass(kw_only=True)
class Host:
    """A Triton on one address, with the bundle's models alone."""

    ports: tuple[int, int, int]
    triton: Triton | None = None
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    def start(self, repository: Path) -> None:
        names = [path.name for path in repository.iterdir() if path.is_dir() and path.name != SEARCH]
        options = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in names))
        self.triton = self._running.enter_context(triton(repository, *options, ports=self.ports))

    def kill(self) -> None:
        assert self.triton is not None
        self.triton.kill()
        self._running.close()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Its processes do not run, and its connections stay open."""
        assert self.triton is not None
        os.killpg(self.triton.popen.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.triton.popen.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def study() -> str:
    """A study of the archive with images and a report."""
    return next(one.study_id for one in open_dataset("demo", None) if one.images and one.report)


@pytest.fixture(scope="module")
def repository(demo_bundle, demo_home, tmp_path_factory) -> Path:
    return exported(demo_bundle, demo_home, tmp_path_factory.mktemp("repository") / "demo")


def exported(bundle: Path, home: Path, to: Path) -> Path:
    return write_repository(bundle, home, to, TritonSettings(backend="python"), step=lambda _: None).path


@pytest.fixture(scope="module")
def host(repository) -> Iterator[Host]:
    made = Host(ports=free_ports())
    made.start(repository)
    yield made
    made.kill()


@contextmanager
def client_of(bundle: Path, home: Path, to: Path, **settings: str) -> Iterator[Client]:
    """Of a server of a copy of this home."""
    copy = Path(shutil.copytree(home, to, ignore=shutil.ignore_patterns(".lock")))
    with started(bundle, copy, settings) as server, Client(server.address, timeout=60) as client:
        yield client
        assert server.popen.poll() is None


def on(address: str) -> dict[str, str]:
    return {"RADRANK_ENGINES__RUNTIME": "triton", "RADRANK_ENGINES__TRITON": address}


@pytest.fixture(scope="module")
def local(demo_bundle, demo_home, tmp_path_factory) -> Iterator[Client]:
    with client_of(demo_bundle, demo_home, tmp_path_factory.mktemp("local") / "home") as client:
        yield client


@pytest.fixture(scope="module")
def remote(demo_bundle, demo_home, host, tmp_path_factory) -> Iterator[Client]:
    to = tmp_path_factory.mktemp("remote") / "home"
    with client_of(demo_bundle, demo_home, to, **on(host.address)) as client:
        yield client


def outcome(client: Client, **query) -> str:
    """ "ranked", "degraded", or an error's code."""
    try:
        found = client.search(**{"k": 5, "timeout": SECONDS} | query)
    except ClientError as error:
        return error.code
    return "degraded" if found.degraded else "ranked"


def seconds_until(wanted: str, client: Client, **query) -> float:
    """Until a search ends so. What comes before must be UNAVAILABLE."""
    start = time.monotonic()
    while time.monotonic() - start < 20.0:
        found = outcome(client, **query)
        if found == wanted:
            return time.monotonic() - start
        assert found == "UNAVAILABLE"
        time.sleep(0.05)
    raise AssertionError(f"no search was {wanted}")


def test_it_answers_as_with_local_engines(local, remote):
    studies = [study for study in open_dataset("demo", None) if study.images and study.report][:3]
    rerankers = (*local.stats().rerankers, "off")
    assert len(rerankers) >= 4
    for study, target, reranker in product(studies, ("image", "report"), rerankers):
        for query in ({"text": study.report}, {"image": study.images[0].read()}, {"study": study.study_id}):
            here, there = (each.search(**query, target=target, reranker=reranker, k=20) for each in (local, remote))
            assert [hit.study_id for hit in there.hits] == [hit.study_id for hit in here.hits]
            assert [hit.score for hit in there.hits] == pytest.approx([hit.score for hit in here.hits], abs=1e-5)
            assert not there.degraded
    made, other = there.provenance, here.provenance
    assert re.fullmatch(r"triton \d+\.\d+\.\d+", remote.search(text=TEXT).provenance.runtime)
    assert (made.bundle_sha256, made.reranker_sha256) == (other.bundle_sha256, other.reranker_sha256)


def test_killed_in_mid_run_it_is_unavailable_degrades_and_recovers(host, remote, repository, study):
    ended, told, longest = threading.Event(), Counter(), [0.0]

    def ask(**query) -> None:
        while not ended.is_set():
            start = time.monotonic()
            told[next(iter(query)), outcome(remote, **query)] += 1
            longest[0] = max(longest[0], time.monotonic() - start)

    queries = ({"text": TEXT}, {"text": TEXT}, {"study": study, "allow_degraded": True})
    threads = [threading.Thread(target=ask, kwargs=query) for query in queries]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    host.kill()  # in the midst of them
    time.sleep(1.0)
    ended.set()
    for thread in threads:
        thread.join()
    assert set(told) == {("text", "ranked"), ("text", "UNAVAILABLE"), ("study", "ranked"), ("study", "degraded")}
    assert longest[0] < SECONDS

    with pytest.raises(Unavailable, match="Triton does not answer"):
        remote.search(text=TEXT, timeout=SECONDS)
    assert outcome(remote, study=study) == "UNAVAILABLE"
    unranked, plain = (remote.search(study=study, **how) for how in ({"allow_degraded": True}, {"reranker": "off"}))
    assert (unranked.degraded, plain.degraded) == (True, False)
    assert [hit.study_id for hit in unranked.hits] == [hit.study_id for hit in plain.hits]

    host.start(repository)
    assert seconds_until("ranked", remote, text=TEXT) < 1.5
    assert outcome(remote, study=study, allow_degraded=True) == "ranked"


def test_a_triton_that_stands_still_is_not_waited_for_past_the_deadline(host, remote, study):
    assert outcome(remote, text=TEXT) == "ranked"
    with host.standing_still():
        start = time.monotonic()
        assert outcome(remote, text=TEXT, timeout=0.5) == "DEADLINE_EXCEEDED"
        assert outcome(remote, study=study, allow_degraded=True, timeout=0.5) == "degraded"
        assert time.monotonic() - start < 2.0
    assert outcome(remote, text=TEXT) == "ranked"


def test_a_triton_with_another_model_is_not_believed(demo_bundle, demo_home, host, remote, repository, study, tmp_path):
    model = f"reranker_{remote.stats().default_reranker}"
    other = with_one_weight_changed(demo_bundle, tmp_path / "other", f"{model}.onnx")
    host.kill()
    host.start(exported(other, demo_home, tmp_path / "repository"))
    seconds_until("ranked", remote, text=TEXT, reranker="off")
    with pytest.raises(Unavailable, match=f"{model}: its Triton serves another model"):
        remote.search(text=TEXT, timeout=SECONDS)
    assert outcome(remote, text=TEXT, allow_degraded=True) == "degraded"
    said = failed_start(demo_bundle, demo_home, tmp_path / "home", host.address)
    assert f"{model} on the Triton at {host.address}" in said
    assert f"radrank export triton --bundle {demo_bundle} --snapshot" in said
    host.kill()
    said = failed_start(demo_bundle, demo_home, tmp_path / "again", host.address)
    assert f"error: engines.triton: no Triton is ready at {host.address}" in said
    host.start(repository)
    assert seconds_until("ranked", remote, text=TEXT) < 1.5


def failed_start(bundle: Path, home: Path, to: Path, address: str) -> str:
    """What `radrank serve` says when it does not start."""
    copy = shutil.copytree(home, to, ignore=shutil.ignore_patterns(".lock"))
    command = [sys.executable, "-m", "radrank.client.cli", "serve", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [*command, "--bundle", str(bundle), "--archive", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | on(address),
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr
