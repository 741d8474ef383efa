"""What tests of the whole way share: a bundle and an archive made from the demo data set, once a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import once
from helpers.once import made_once
from radrank.core.graph import GraphSettings
from radrank.engines import runtimes


class Silent:
    """A pipeline's Reporter that shows nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def say(self, text: str) -> None:
        pass


@pytest.fixture(autouse=True, scope="session")
def _plain_engines() -> Iterator[None]:
    """Bundles are opened hundreds of times: on the runtime that is always there, where a test does not name another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "PREFERENCE", tuple(each for each in runtimes.PREFERENCE if each[0] != "openvino"))
        yield


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        once.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        once.end()


@pytest.fixture(scope="session")
def demo_run() -> Path:
    """A run over the demo data set: the real way at its real size, with few and short epochs."""
    return made_once("demo", _train) / "run"


@pytest.fixture(scope="session")
def demo_bundle(demo_run: Path) -> Path:
    """The bundle of the demo run, with the re-rankers that `radrank demo build` trains."""
    from radrank.export.bundles import write_bundle
    from radrank.training.runs import Run

    return made_once("exported", lambda to: write_bundle(Run(path=demo_run), to / "bundle", default="sage")) / "bundle"


@pytest.fixture(scope="session")
def demo_home(demo_bundle: Path) -> Path:
    """An archive of the demo studies, built by the command that a user calls. Copy it to change it."""

    def build(to: Path) -> None:
        command = [sys.executable, "-m", "radrank.client.cli", "index", "build", "--dataset", "demo"]
        places = ["--bundle", demo_bundle, "--archive", to / "archive"]
        subprocess.run([*command, *places], check=True, capture_output=True, timeout=600)

    return made_once("indexed", build) / "archive"


def _train(to: Path) -> None:
    from radrank.training.heads import HeadSettings
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_heads, run_rerankers
    from radrank.training.reranker import SERVED
    from radrank.training.tower import TowerSettings

    run = run_heads(
        to / "run",
        dataset="demo",
        root=None,
        backbone="compact",
        weights=None,
        settings=HeadSettings(projection=48, hidden=128, epochs=12),
        tower=TowerSettings(epochs=0),
        reporter=Silent(),
    )
    rerankers = RerankerSettings(candidates=30, epochs=1, most=50, folds=2, width=16)
    run_rerankers(run, list(SERVED), settings=rerankers, graph=GraphSettings(), reporter=Silent())
    assert all(run.reranker(kind)[1]["best_epoch"] for kind in SERVED), "untrained ones rank as the encoder does"
