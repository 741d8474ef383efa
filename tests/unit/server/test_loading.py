from __future__ import annotations

import threading

import pytest

from helpers.doubles import DoubleBundle, record, study
from radrank.core.archive import Archive
from radrank.core.errors import Mismatch
from radrank.server import loading
from radrank.server.home import Home, database_of
from radrank.server.settings import load


@pytest.fixture
def home(tmp_path):
    """An archive of five studies without a snapshot."""
    root = tmp_path / "home"
    archive = Archive(database_of(root))
    archive.upsert([record(study(n)) for n in range(5)], encoder="e" * 64)
    archive.close()
    return root


@pytest.fixture
def opened(home, monkeypatch):
    """Opens the home with engines that warm up this way."""

    def open_with(warm_up) -> loading.Opened:
        bundle = DoubleBundle()
        bundle.warm_up = warm_up
        monkeypatch.setattr(loading, "open_bundle", lambda *_: bundle)
        return loading.Opened(load(bundle=home.parent, archive=home, index="exact"))

    return open_with


def test_engines_warm_up_while_the_snapshot_is_opened(opened, monkeypatch):
    there = threading.Event()

    class Noted(loading.Library):
        def __init__(self, *parts: object) -> None:
            super().__init__(*parts)
            there.set()

    monkeypatch.setattr(loading, "Library", Noted)
    waited: list[bool] = []
    with opened(lambda: waited.append(there.wait(20))) as both:
        library = both.library()
        assert waited == [True]  # and the library is handed out only when the engines are warm
        library.close()


def test_engines_that_fail_to_warm_up_leave_nothing_open(opened, home):
    def failing() -> None:
        raise Mismatch("golden queries", "their ranks", "others")

    before = set(threading.enumerate())
    with opened(failing) as both, pytest.raises(Mismatch, match="golden"):
        both.library()
    assert not set(threading.enumerate()) - before
    Home(home).close()
