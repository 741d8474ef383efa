"""What a serving process hears."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from radrank.server.app import run
from radrank.server.library import Library
from radrank.server.settings import Settings

HEARD = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of the tests are there again afterwards."""
    before = {number: signal.getsignal(number) for number in HEARD}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_is_heard_whichever_thread_the_kernel_gives_it_to():
    chosen = threading.Event()

    def load() -> Library:
        time.sleep(0.5)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        raise RuntimeError("heard" if chosen.wait(10) else "not heard")

    with pytest.raises(RuntimeError, match=r"^heard"):
        run(Settings(listen="127.0.0.1:0"), load, announce=lambda *_: None, reselect=chosen.set)
