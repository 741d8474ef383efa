"""Places and turns: in the order of arrival, given up in time, and never lost."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from radrank.core.errors import Overloaded
from radrank.server.admission import Admission


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    async def run() -> list[int]:
        admission, order = Admission(in_flight=8, workers=1), []

        async def take(number: int) -> None:
            async with admission.turn():
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(take(number) for number in range(8)))
        return order

    assert asyncio.run(run()) == list(range(8))


def test_who_gives_up_leaves_no_gap():
    async def run() -> None:
        admission = Admission(in_flight=8, workers=1)

        async def take() -> None:
            async with admission.turn():
                await asyncio.sleep(3600)

        holder, waiting = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        for task in (waiting, holder):
            task.cancel()
            await asyncio.wait([task])
        async with asyncio.timeout(5), admission.turn():
            pass

    asyncio.run(run())


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_so_many_run_at_once(workers):
    async def run() -> int:
        admission = Admission(in_flight=20, workers=workers)
        running = most = 0

        async def work() -> None:
            nonlocal running, most
            async with admission.turn():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.001)
                running -= 1

        await asyncio.gather(*(work() for _ in range(20)))
        return most

    assert asyncio.run(run()) == workers


def test_past_its_places_a_call_is_refused_and_told_when_to_come_again():
    admission = Admission(in_flight=1, workers=1)
    with admission.place():
        with pytest.raises(Overloaded) as refused, admission.place():
            pass
        assert refused.value.retry_after > 0
        assert admission.taken == 1
    with admission.place():
        pass
    assert admission.taken == 0


def test_who_is_refused_waits_for_those_before_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("radrank.server.admission.time.perf_counter", lambda: now[0])
    admission = Admission(in_flight=1, workers=1)
    for _ in range(16):
        with admission.timing():
            now[0] += 0.25
    with admission.place(), pytest.raises(Overloaded) as refused, admission.place():
        pass
    assert refused.value.retry_after == pytest.approx(0.25)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What time it is for admission, to be set."""
    now = [100.0]
    monkeypatch.setattr("radrank.server.admission.time.perf_counter", lambda: now[0])
    return now


def given(admission: Admission, held: ExitStack, calls: int) -> int:
    """How many of so many calls get a place, which they keep."""
    found = 0
    for _ in range(calls):
        if not admission.full():
            held.enter_context(admission.place())
            found += 1
    return found


def test_once_calls_are_too_many_fewer_have_a_place(clock):
    admission = Admission(in_flight=16, workers=2)
    with ExitStack() as held:
        assert given(admission, held, 17) == 16
    for _ in range(8):  # two seconds in which half of the calls are refused
        with ExitStack() as held:
            assert given(admission, held, 8) == 4
        clock[0] += 0.25


def test_while_few_are_refused_more_places_are_given_step_by_step(clock):
    admission, most = Admission(in_flight=16, workers=2), []
    with ExitStack() as held:
        given(admission, held, 17)
    for _ in range(5):
        for _ in range(40):
            with ExitStack() as held:
                assert given(admission, held, 4) == 4
        with ExitStack() as held:
            most.append(given(admission, held, 20))
        clock[0] += 0.25
    assert most == [4, 7, 10, 13, 16]


def test_when_too_many_are_refused_again_it_begins_anew(clock):
    admission = Admission(in_flight=16, workers=2)
    with ExitStack() as held:
        given(admission, held, 17)
    for calls, wanted in [(4, 4), (14, 7), (14, 4), (4, 4), (14, 7)]:
        with ExitStack() as held:
            assert given(admission, held, calls) == wanted
        clock[0] += 0.25


@pytest.mark.parametrize("calls", [17, 40])
def test_when_nobody_came_for_a_while_all_places_are_given_again(clock, calls):
    admission = Admission(in_flight=16, workers=2)
    with ExitStack() as held:
        given(admission, held, calls)
    clock[0] += 60
    with ExitStack() as held:
        assert given(admission, held, 16) == 16


@pytest.mark.parametrize(("in_flight", "workers", "few"), [(1, 1, 1), (2, 4, 2), (8, 4, 4), (64, 2, 16)])
def test_fewer_are_never_fewer_than_can_run(clock, in_flight, workers, few):
    admission = Admission(in_flight=in_flight, workers=workers)
    with ExitStack() as held:
        given(admission, held, in_flight + 1)
    with ExitStack() as held:
        assert given(admission, held, in_flight) == few


def test_who_asked_and_finds_the_place_taken_is_refused(clock):
    admission = Admission(in_flight=1, workers=1)
    assert not admission.full()
    assert not admission.full()
    with admission.place(), pytest.raises(Overloaded), admission.place():
        pass
    assert admission.refused == clock[0]
