"""Places and turns: in the order of arrival, given up in time, and never lost."""

from __future__ import annotations

import asyncio

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
