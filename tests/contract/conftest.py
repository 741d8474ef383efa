from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def kserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same, with engines to be served as models."""
    from helpers.kserve import served_bundle

    with serving(tmp_path_factory.mktemp("kserve") / "home", STUDIES, bundle=served_bundle()) as server:
        yield server


@pytest.fixture(scope="session", params=["sync", "asyncio"])
def client(kserve: Running, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Both of tritonclient's clients of it."""
    from helpers.kserve import client_of

    with client_of(request.param, kserve.address) as made:
        yield made
