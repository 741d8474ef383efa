"""Short work: in the loop, which leaves a part of it to helpers, and in a thread where it turns out not to be short."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from radrank.core import timing
from radrank.server import inline as module
from radrank.server.admission import Admission
from radrank.server.helpers.pool import Helpers
from radrank.server.inline import Inline
from radrank.server.suspension import waited
from radrank.server.threads import Threads

ENOUGH = timing._ENOUGH
EVERY = module._OTHER_WAY
SOMETIMES = module._SOMETIMES


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


def learnt(
    inline: Inline, clock: Clock, *, loop: float = 0.001, shared: float | None = None, thread: float = 0.001
) -> None:
    """Makes it know what work takes here and there, in seconds. shared: in the loop with helpers, if not as without"""
    for where, seconds in (("alone", loop), ("shared", loop if shared is None else shared), ("thread", thread)):
        for _ in range(ENOUGH):
            inline._recent.add(where, seconds)
    clock.takes(1.0)


def test_threads_do_what_nobody_knows_yet_then_the_loop_tries(inline, clock):
    done = [in_loop(inline, lambda: clock.takes(0.001)) for _ in range(ENOUGH + 8)]
    assert done == [False] * ENOUGH + [True] * 8


def test_what_most_takes_long_in_a_thread_the_loop_does_not_even_try(inline, clock):
    assert not any(in_loop(inline, lambda: clock.takes(0.1)) for _ in range(3 * EVERY))


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with helpers"])
@pytest.mark.parametrize(("loop", "pays"), [(0.001, True), (0.005, False)])
def test_the_loop_does_what_is_short_there_and_one_in_so_many_goes_the_other_way(
    inline, clock, monkeypatch, loop, pays, shares
):
    learnt(inline, clock, loop=loop)
    monkeypatch.setattr(inline, "_shares", lambda: shares)
    assert [in_loop(inline) for _ in range(EVERY * 2)] == ([pays] * (EVERY - 1) + [not pays]) * 2


def test_what_is_too_long_for_the_loop_alone_is_done_there_where_helpers_have_their_part(inline, clock):
    learnt(inline, clock, loop=0.005, shared=0.001)
    inline._lonely = SOMETIMES
    assert not in_loop(inline)
    with inline._admission.place(), inline._admission.place():
        assert in_loop(inline)


def test_beside_others_none_goes_the_other_way(inline, clock):
    learnt(inline, clock)
    with inline._admission.place(), inline._admission.place():
        assert all(in_loop(inline) for _ in range(3 * EVERY))


def test_a_long_one_now_and_then_changes_nothing(inline, clock):
    learnt(inline, clock)
    inline._recent.add("shared", 1.0)
    inline._recent.add("thread", 1.0)
    assert in_loop(inline)


def test_what_is_short_again_comes_back_into_the_loop(inline, clock):
    learnt(inline, clock, loop=0.005)
    assert not in_loop(inline)
    for _ in range(EVERY * 2 * ENOUGH):
        in_loop(inline, lambda: clock.takes(0.001))
    assert in_loop(inline)


async def many(admission: Admission, said: list[str]) -> None:
    """Calls that gRPC hands over one by one, each after some turns of the loop."""
    for _ in range(5):
        for _ in range(4):
            await asyncio.sleep(0)
        assert not admission.full()
        with admission.place():
            said.append("came")


def order_of(inline: Inline) -> list[str]:
    """What is done first while calls wait in gRPC: that they come, or the next piece of work."""
    said: list[str] = []

    async def run() -> None:
        waiting = asyncio.create_task(many(inline._admission, said))
        await inline.run(lambda: said.append("computed"))
        await waiting

    asyncio.run(run())
    return said


def test_while_calls_are_refused_the_loop_takes_in_all_that_wait_before_it_computes(inline, clock):
    learnt(inline, clock)
    assert order_of(inline)[0] == "computed"
    inline._admission.refused = clock.now
    assert order_of(inline) == ["came"] * 5 + ["computed"]
    clock.takes(1.0)
    assert order_of(inline)[0] == "computed"


def test_one_in_so_many_takes_them_in_though_nobody_was_refused(inline, clock):
    learnt(inline, clock)
    first = [order_of(inline)[0] for _ in range(2 * SOMETIMES)]
    assert first == (["computed"] * (SOMETIMES - 1) + ["came"]) * 2


def test_calls_without_end_do_not_keep_it_from_its_work(inline, clock):
    learnt(inline, clock)
    inline._admission.refused = clock.now

    async def run() -> int:
        ended = False

        async def endless() -> None:
            while not ended:
                inline._admission.asked += 1
                clock.takes(0.0001)
                await asyncio.sleep(0)

        waiting = asyncio.create_task(endless())
        found = await inline.run(lambda: 7)
        ended = True
        await waiting
        return found

    assert asyncio.run(run()) == 7


class Helping(Helpers):
    """Helpers that remember whether they were open."""

    def __init__(self) -> None:
        super().__init__(0)
        self.were_open: list[bool] = []

    def helps(self) -> None:
        """As a search does that re-ranks."""
        self.were_open.append(self.open)
        if self.open:
            waited(asyncio.sleep(0))


@pytest.fixture
def helped(clock: Clock) -> Iterator[Inline]:
    threads = Threads(1)
    made = Inline(Admission(in_flight=64, workers=1), threads, Helping())
    learnt(made, clock)
    yield made
    threads.close()


def shared(inline: Inline, pieces: int, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a helper has its part, of pieces of work one after another."""
    monkeypatch.setattr(module, "_OTHER_WAY", 10**9)
    before = len(inline._helpers.were_open)
    with inline._admission.place():
        for _ in range(pieces):
            in_loop(inline, inline._helpers.helps)
    return inline._helpers.were_open[before:]


def test_helpers_have_their_part_while_there_are_others_and_for_a_while_after(helped, monkeypatch):
    then_seldom = [True] * SOMETIMES + ([False] * (SOMETIMES - 1) + [True]) * 2
    assert shared(helped, 3 * SOMETIMES, monkeypatch) == then_seldom
    with helped._admission.place():
        assert shared(helped, 3 * SOMETIMES, monkeypatch) == [True] * 3 * SOMETIMES
    assert shared(helped, 3 * SOMETIMES, monkeypatch) == then_seldom


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
