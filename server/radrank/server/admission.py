"""How much may run at once: past it calls are refused, so that a queue never grows. All in one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from radrank.core.errors import Overloaded
from radrank.core.timing import RecentTimes

_CALL = "call"
_SHORTEST_RETRY = 0.01  # seconds


class Admission:
    """Places for calls in flight, and turns for those of them that compute in a thread.

    in_flight: calls that compute or wait for their turn; workers: threads that compute side by side
    taken: places that are; asked: how often one was asked for; refused: `time.perf_counter()` of the last refusal
    """

    def __init__(self, *, in_flight: int, workers: int) -> None:
        self._places = in_flight
        self._turns = asyncio.Semaphore(workers)  # turns come in the order in which they were asked for
        self._ahead = in_flight / workers
        self._recent = RecentTimes()
        self.taken = 0
        self.asked = 0
        self.refused = -math.inf

    @contextmanager
    def place(self) -> Iterator[None]:
        """A call from its arrival to its reply. Raises Overloaded."""
        self.asked += 1
        if self.taken >= self._places:
            self.refused = time.perf_counter()
            # By then those who hold a place now have had their turn.
            raise Overloaded(max(_SHORTEST_RETRY, self._ahead * self._recent.quantile(_CALL, 0.5)))
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One piece of work of a caller that has its place already, such as a stream. Who gives up is cancelled."""
        async with self._turns:
            with self.timing():
                yield

    @contextmanager
    def timing(self) -> Iterator[None]:
        """A piece of work: how long they take tells who is refused when to come again."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._recent.add(_CALL, time.perf_counter() - start)
