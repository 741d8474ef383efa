"""Work in threads: its result, its error, and its end where nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from radrank.server.threads import Threads


def test_what_the_work_returns_and_raises():
    def broken() -> None:
        raise ValueError("broken")

    async def run() -> None:
        threads = Threads(1)
        assert await threads.run(lambda: threading.current_thread().name.startswith("call"))
        with pytest.raises(ValueError, match="broken"):
            await threads.run(broken)
        threads.close()

    asyncio.run(run())


def test_cancelled_it_says_so_and_ends_when_the_thread_does():
    async def run() -> list[str]:
        threads, go_on, order = Threads(1), threading.Event(), []

        def work() -> None:
            assert go_on.wait(20)
            order.append("done")

        async def call() -> None:
            try:
                await threads.run(work, given_up=lambda: order.append("given up"))
            finally:
                order.append("over")

        task = asyncio.create_task(call())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()
        return order

    assert asyncio.run(run()) == ["given up", "done", "over"]


def test_what_a_given_up_thread_raises_is_not_logged(caplog):
    async def run() -> None:
        threads, go_on = Threads(1), threading.Event()

        def work() -> None:
            assert go_on.wait(20)
            raise ValueError("a secret word")

        task = asyncio.create_task(threads.run(work))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()

    asyncio.run(run())
    assert "secret" not in caplog.text
