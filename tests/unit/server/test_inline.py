"""Short work: in the loop where it is short, in a thread where the loop has to see who comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from radrank.core.errors import Overloaded
from radrank.server import inline as module
from radrank.server.admission import Admission
from radrank.server.inline import Inline
from radrank.server.threads import Threads

ENOUGH = 16
"""Timings that a quantile is believed from."""


class Clock:
    """Of all threads: moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for name in ("thread_time", "perf_counter"):
        monkeypatch.setattr(module.time, name, made)
    return made


@pytest.fixture
def inline() -> Iterator[Inline]:
    threads = Threads(2)
    yield Inline(Admission(in_flight=64, workers=2), threads)
    threads.close()


def in_loop(inline: Inline) -> bool:
    """Whether the next piece of work is done in the loop's own thread."""

    async def ran() -> bool:
        return await inline.run(lambda: threading.current_thread() is threading.main_thread())

    return asyncio.run(ran())


@pytest.mark.parametrize(("seconds", "pays"), [(0.001, True), (0.01, False)])
def test_it_pays_where_such_work_is_short(inline, clock, seconds, pays):
    for _ in range(ENOUGH - 1):
        inline.timed(lambda: clock.takes(seconds))
        assert not inline.pays
    inline.timed(lambda: clock.takes(seconds))
    assert inline.pays is pays


def test_a_long_one_now_and_then_changes_nothing_and_more_do(inline, clock):
    for _ in range(18):
        inline.timed(lambda: clock.takes(0.001))
    inline.timed(lambda: clock.takes(1.0))
    assert inline.pays
    for _ in range(2):
        inline.timed(lambda: clock.takes(1.0))
    assert not inline.pays


def test_one_in_so_many_is_done_in_a_thread(inline):
    assert [in_loop(inline) for _ in range(32)] == ([True] * 15 + [False]) * 2


def test_while_more_come_than_go_the_loop_stays_free(inline):
    admission = inline._admission
    with ExitStack() as places:
        taken = []
        for come in [0] * 15 + [1, 1, 1, 0, 0]:
            for _ in range(come):
                places.enter_context(admission.place())
            taken.append(in_loop(inline))
    assert taken == [True] * 15 + [False, False, False, True, True]


def test_after_a_refusal_the_loop_stays_free_for_a_while(clock):
    threads = Threads(1)
    admission = Admission(in_flight=1, workers=1)
    inline = Inline(admission, threads)
    clock.takes(1.0)
    with admission.place():
        with pytest.raises(Overloaded), admission.place():
            pass
        assert not in_loop(inline)
        clock.takes(1.0)
        assert in_loop(inline)
    threads.close()


def test_what_it_raises_is_the_callers_and_the_next_is_done(inline):
    def broken() -> None:
        raise ValueError("broken")

    async def run() -> int:
        with pytest.raises(ValueError, match="broken"):
            await inline.run(broken)
        return await inline.run(lambda: 7)

    assert asyncio.run(run()) == 7


def test_they_are_done_in_the_order_of_arrival(inline):
    async def run() -> list[int]:
        order: list[int] = []
        await asyncio.gather(*(inline.run(lambda n=n: order.append(n)) for n in range(40)))
        return order

    assert asyncio.run(run()) == list(range(40))
