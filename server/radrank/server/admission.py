"""How much may run at once: past it calls are refused, so that a queue never grows. All in one event loop.

While more is asked for than can be done, all places are always taken, and each of them only makes the others wait. So
from a refusal on only a few are given, enough to keep all cores at work, and more again, step by step, while less than
a share of the calls is refused: where it is only a little too much, all places serve more calls than a few do.
"""

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
_FEW = 1 / 4  # of the places, while calls are too many
_WINDOW = 0.25  # seconds after which it is seen whether they still are
_STILL = 1 / 6  # of the calls in that time: so many refused, a fifth more than can be done, and they are
_STEPS = 4  # back to all places


class Admission:
    """Places for calls in flight, and turns for those of them that compute in a thread.

    in_flight: calls that compute or wait for their turn; workers: threads that compute side by side
    taken: places that are; asked: how often one was asked for; refused: `time.perf_counter()` of the last refusal
    """

    def __init__(self, *, in_flight: int, workers: int) -> None:
        self._most, self._few = in_flight, max(min(workers, in_flight), math.ceil(_FEW * in_flight))
        self._places = in_flight  # that are given now
        self._turns = asyncio.Semaphore(workers)  # turns come in the order in which they were asked for
        self._ahead = in_flight / workers
        self._recent = RecentTimes()
        self._refusals = 0
        self._window = (0.0, 0, 0)  # when it began, and what had been asked and refused by then
        self.taken = 0
        self.asked = 0
        self.refused = -math.inf

    def full(self) -> bool:
        """Asks for a place: whether there is none. Who is told so must be refused."""
        self.asked += 1
        now = time.perf_counter()
        if self._places < self._most:
            self._look(now)
        if self.taken < self._places:
            return False
        self._refuse(now)
        return True

    @contextmanager
    def place(self) -> Iterator[None]:
        """A call from its arrival to its reply, once it has asked. Raises Overloaded where others were sooner."""
        if self.taken >= self._places:
            self._refuse(time.perf_counter())
            raise self.refusal()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def refusal(self) -> Overloaded:
        """Says when to come again: by then those who hold a place now have had their turn."""
        return Overloaded(max(_SHORTEST_RETRY, self._ahead * self._recent.quantile(_CALL, 0.5)))

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

    def _look(self, now: float) -> None:
        """Whether calls are still too many, once in a while."""
        since, asked, refusals = self._window
        windows = int((now - since) / _WINDOW)
        if windows == 0:
            return
        step = math.ceil((self._most - self._few) / _STEPS)
        if self._refusals - refusals < _STILL * (self.asked - asked):
            places = self._places + windows * step
        else:
            places = self._few + (windows - 1) * step  # in all but the first of them nobody asked
        self._places = min(self._most, places)
        self._window = now, self.asked, self._refusals

    def _refuse(self, now: float) -> None:
        self._refusals += 1
        self.refused = now
        if self._places == self._most:
            self._places = self._few
            self._window = now, self.asked, self._refusals
