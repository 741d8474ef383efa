"""Where work is done that would hold up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Threads:
    """A pool of threads for an event loop. most: how many."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="call")

    async def run(self, work: Callable[[], Result], *, given_up: Callable[[], None] = lambda: None) -> Result:
        """What the work returns or raises.

        Cancelled, it calls `given_up`, and waits all the same: a thread can't be stopped.
        """
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            given_up()
            await asyncio.wait([running])
            running.exception()  # nobody else looks, and the loop would log what it says
            raise
        return running.result()

    def close(self) -> None:
        """Takes no more work; what runs goes on."""
        self._pool.shutdown(wait=False)
