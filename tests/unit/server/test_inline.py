"""Short work: in the loop where it is short, in a thread where the loop has to see who comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from radrank.core import timing
from radrank.core.errors import Overloaded
from radrank.server import inline as module
from radrank.server.admission import Admission
from radrank.server.inline import Inline
from radrank.server.threads import Threads

ENOUGH = timing._ENOUGH
EVERY = module._OTHER_WAY


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


def in_loop(inline: Inline, does: Callable[[], None] = lambda: None) -> bool:
    """Whether the next piece of work is done in the loop's own thread."""

    def work() -> bool:
        does()
        return threading.current_thread() is threading.main_thread()

    return asyncio.run(inline.run(work))


def learnt(inline: Inline, clock: Clock, *, loop: float = 0.001, thread: float = 0.001) -> None:
    """Makes it know what work takes here and there, in seconds."""
    for where, seconds in (("loop", loop), ("thread", thread)):
        for _ in range(ENOUGH):
            inline._timed(where, lambda seconds=seconds: clock.takes(seconds))


def test_threads_do_what_nobody_knows_yet_then_the_loop_tries(inline, clock):
    done = [in_loop(inline, lambda: clock.takes(0.001)) for _ in range(ENOUGH + 8)]
    assert done == [False] * ENOUGH + [True] * 8


def test_what_most_takes_long_in_a_thread_the_loop_does_not_even_try(inline, clock):
    assert not any(in_loop(inline, lambda: clock.takes(0.1)) for _ in range(3 * EVERY))


@pytest.mark.parametrize(("loop", "pays"), [(0.001, True), (0.005, False)])
def test_the_loop_does_what_is_short_there_and_one_in_so_many_goes_the_other_way(inline, clock, loop, pays):
    learnt(inline, clock, loop=loop)
    assert [in_loop(inline) for _ in range(EVERY * 2)] == ([pays] * (EVERY - 1) + [not pays]) * 2


def test_a_long_one_now_and_then_changes_nothing(inline, clock):
    learnt(inline, clock)
    clock.takes(1.0)
    inline._timed("loop", lambda: clock.takes(1.0))
    inline._timed("thread", lambda: clock.takes(1.0))
    assert in_loop(inline)


def test_what_is_short_again_comes_back_into_the_loop(inline, clock):
    learnt(inline, clock, loop=0.005)
    assert not in_loop(inline)
    for _ in range(EVERY * 2 * ENOUGH):
        in_loop(inline, lambda: clock.takes(0.001))
    assert in_loop(inline)


def test_while_more_come_than_go_the_loop_stays_free(inline, clock):
    learnt(inline, clock)
    admission = inline._admission
    with ExitStack() as places:
        done = []
        for come in [0] * EVERY + [1, 1, 0, 0]:
            for _ in range(come):
                places.enter_context(admission.place())
            done.append(in_loop(inline))
    assert done == [True] * (EVERY - 1) + [False, False, False, True, True]


def test_after_a_refusal_the_loop_stays_free_for_a_while(clock):
    threads = Threads(1)
    admission = Admission(in_flight=1, workers=1)
    inline = Inline(admission, threads)
    learnt(inline, clock)
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


def test_they_are_done_in_the_order_of_arrival(inline, clock):
    learnt(inline, clock)

    async def run() -> list[int]:
        order: list[int] = []
        await asyncio.gather(*(inline.run(lambda n=n: order.append(n)) for n in range(40)))
        return order

    assert asyncio.run(run()) == list(range(40))
