"""Short work: in the loop where it is short, with a helper or in a thread where the loop has to see who comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from radrank.core import timing
from radrank.core.errors import Overloaded
from radrank.server import inline as module
from radrank.server.admission import Admission
from radrank.server.helpers.pool import Helpers
from radrank.server.inline import Inline
from radrank.server.suspension import waited
from radrank.server.threads import Threads

ENOUGH = timing._ENOUGH
EVERY = module._OTHER_WAY
SEEKS = module._SEEKS


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
        monkeypatch.setattr(time, name, made)
    return made


@pytest.fixture
def inline() -> Iterator[Inline]:
    threads = Threads(2)
    yield Inline(Admission(in_flight=64, workers=2), threads, Helpers(0))
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
            inline._recent.add(where, seconds)
    clock.takes(1.0)


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
    inline._recent.add("loop", 1.0)
    inline._recent.add("thread", 1.0)
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
    inline = Inline(admission, threads, Helpers(0))
    learnt(inline, clock)
    with admission.place():
        with pytest.raises(Overloaded), admission.place():
            pass
        assert not in_loop(inline)
        clock.takes(1.0)
        assert in_loop(inline)
    threads.close()


class Wanted(Helpers):
    """Helpers that are at work, and remember whether they were open."""

    def __init__(self) -> None:
        super().__init__(0)
        self.were_open: list[bool] = []

    @property
    def wanted(self) -> bool:
        return True

    def helps(self) -> None:
        """As a search does that re-ranks."""
        self.were_open.append(self.open)
        if self.open:
            waited(asyncio.sleep(0))


@pytest.fixture
def helped(clock: Clock) -> Iterator[Inline]:
    threads = Threads(1)
    made = Inline(Admission(in_flight=64, workers=1), threads, Wanted())
    learnt(made, clock)
    yield made
    threads.close()


def shared(inline: Inline, pieces: int) -> list[bool]:
    """Whether a helper has its part, of pieces of work one after another."""
    before = len(inline._helpers.were_open)
    with inline._admission.place():
        assert all(in_loop(inline, inline._helpers.helps) for _ in range(pieces))
    return inline._helpers.were_open[before:]


def test_helpers_share_the_work_while_there_are_others_and_for_a_while_after(helped):
    then_seldom = [True] * SEEKS + ([False] * (SEEKS - 1) + [True]) * 2
    assert shared(helped, 3 * SEEKS) == then_seldom
    with helped._admission.place():
        assert shared(helped, 3 * SEEKS) == [True] * 3 * SEEKS
    assert shared(helped, 3 * SEEKS) == then_seldom


def test_while_a_helper_computes_the_loop_begins_the_next(helped):
    said: list[str] = []

    def work(name: str) -> None:
        said.append(f"{name} begins")
        helped._helpers.helps()
        said.append(f"{name} ends")

    async def run() -> None:
        await asyncio.gather(*(helped.run(lambda name=name: work(name)) for name in "abc"))

    with helped._admission.place():
        asyncio.run(run())
    assert said.index("b begins") < said.index("a ends")


def test_a_helper_that_is_at_work_spares_the_threads(helped):
    with helped._admission.place():
        assert all(in_loop(helped, helped._helpers.helps) for _ in range(3 * EVERY))


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
