"""What tests of the whole way share: a bundle and an archive made from the demo data set, once a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from radrank.core.graph import GraphSettings


class Silent:
    """A pipeline's Reporter that shows nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def say(self, text: str) -> None:
        pass


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the demo data set: the real way at its real size, with few and short epochs."""
    from radrank.training.heads import HeadSettings
    from radrank.training.layers import KINDS
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_heads, run_rerankers
    from radrank.training.tower import TowerSettings

    out = tmp_path_factory.mktemp("demo") / "run"
    heads = HeadSettings(projection=48, hidden=128, epochs=12)
    run = run_heads(
        out,
        dataset="demo",
        root=None,
        backbone="compact",
        weights=None,
        settings=heads,
        tower=TowerSettings(epochs=0),
        reporter=Silent(),
    )
    rerankers = RerankerSettings(candidates=30, epochs=1, most=50, folds=2, width=16)
    run_rerankers(run, list(KINDS), settings=rerankers, graph=GraphSettings(), reporter=Silent())
    assert all(run.reranker(kind)[1]["best_epoch"] for kind in KINDS), "untrained ones rank as the encoder does"
    return out


@pytest.fixture(scope="session")
def demo_bundle(demo_run: Path) -> Path:
    """The bundle of the demo run, with all three re-rankers."""
    from radrank.export.bundles import write_bundle
    from radrank.training.runs import Run

    return write_bundle(Run(path=demo_run), demo_run.parent / "bundle", default="sage")


@pytest.fixture(scope="session")
def demo_home(demo_bundle: Path) -> Path:
    """An archive of the demo studies, built by the command that a user calls. Copy it to change it."""
    home = demo_bundle.parent / "archive"
    command = [sys.executable, "-m", "radrank.client.cli", "index", "build", "--dataset", "demo"]
    subprocess.run([*command, "--bundle", demo_bundle, "--archive", home], check=True, capture_output=True, timeout=600)
    return home
