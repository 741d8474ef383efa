"""Plain code that waits, and leaves the event loop to others."""

from __future__ import annotations

import asyncio

import pytest

from radrank.server.suspension import Suspendable, is_suspendable, waited


async def ended(work):
    running = Suspendable(work)
    running.start()
    return await running.rest()


def test_work_that_waits_for_nothing_ends_at_once():
    async def run():
        running = Suspendable(lambda: 7)
        running.start()
        return running.waits, await running.rest()

    assert asyncio.run(run()) == (False, 7)


def test_while_one_waits_at_any_depth_others_get_on():
    said = []

    def inner(name: str, seconds: float) -> str:
        said.append(f"{name} begins")
        waited(asyncio.sleep(seconds))
        said.append(f"{name} goes on")
        return name

    def work(name: str, seconds: float) -> str:
        return inner(name, seconds) + inner(name, 0.0)

    async def run():
        return await asyncio.gather(ended(lambda: work("a", 0.05)), ended(lambda: work("b", 0.0)))

    assert asyncio.run(run()) == ["aa", "bb"]
    assert said[:2] == ["a begins", "b begins"]
    assert said.index("b goes on") < said.index("a goes on")


def test_what_is_waited_for_may_fail_and_the_work_may_catch_it():
    async def fails() -> None:
        raise LookupError("nothing there")

    def work() -> str:
        try:
            waited(fails())
        except LookupError as error:
            return str(error)
        return "found"

    assert asyncio.run(ended(work)) == "nothing there"


@pytest.mark.parametrize("waits", [False, True])
def test_what_the_work_raises_is_raised(waits):
    def work() -> None:
        if waits:
            waited(asyncio.sleep(0))
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(ended(work))


def test_a_cancellation_reaches_the_work_which_leaves_its_contexts():
    left = []

    def work() -> None:
        try:
            waited(asyncio.sleep(60))
        finally:
            left.append("the context")

    async def run() -> None:
        task = asyncio.create_task(ended(work))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert left == ["the context"]


def test_seconds_are_its_own_alone():
    def spin() -> None:
        for _ in range(200_000):
            pass

    def work() -> None:
        waited(asyncio.sleep(0.01))

    async def run() -> float:
        running = Suspendable(work)
        running.start()
        spin()
        await running.rest()
        return running.seconds

    assert asyncio.run(run()) < 0.003


def test_only_such_work_can_wait():
    found = []

    async def run() -> None:
        found.append(is_suspendable())
        await ended(lambda: found.append(is_suspendable()))
        await asyncio.to_thread(lambda: found.append(is_suspendable()))

    asyncio.run(run())
    assert found == [False, True, False]
