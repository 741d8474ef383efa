from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.serving import STUDIES, Running, serving


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server with 24 studies, for tests that change it."""
    with serving(tmp_path / "home", STUDIES) as server:
        yield server


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same, for tests that change nothing."""
    with serving(tmp_path_factory.mktemp("standing") / "home", STUDIES) as server:
        yield server
