"""Short work, computed in the event loop itself: handing it to a thread and back costs more than it takes.

Python runs one thread at a time, and numpy gives its lock away at every larger array. Where nothing runs outside that
lock for long, threads only hand it around, from core to core; one loop that does it all answers more, and sooner.

But while the loop computes it sees nobody come, and gRPC keeps who does in a queue that nobody bounds. So now and then
a thread computes instead while the loop looks who is there, and goes on doing so while they get more, or are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from radrank.core.timing import RecentTimes
from radrank.server.admission import Admission
from radrank.server.threads import Threads

Result = TypeVar("Result")

_LONGEST = 0.002  # seconds that the loop may be held up: past it, what threads do side by side pays
_MOST = 0.9  # of the last pieces of work took no longer
_LOOK = 32  # one in so many is not done in the loop
_CROWDED = 0.1  # seconds after a refusal, for which there may be more to refuse
_SHORT = "short"


class Inline:
    """One piece of work after another, in the order of arrival."""

    def __init__(self, admission: Admission, threads: Threads) -> None:
        self._admission = admission
        self._threads = threads
        self._one = asyncio.Lock()
        self._recent = RecentTimes()
        self._in_turn = 0
        self._taken: int | None = None

    @property
    def pays(self) -> bool:
        """Whether such work is short as a rule; not before some of it was timed."""
        return 0.0 < self._recent.quantile(_SHORT, _MOST) <= _LONGEST

    def timed(self, work: Callable[[], Result]) -> Result:
        """Does the work, and notes what it took of a processor: in a thread it may wait for others, too."""
        start = time.thread_time()
        try:
            return work()
        finally:
            self._recent.add(_SHORT, time.thread_time() - start)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What the work returns or raises."""
        async with self._one:
            with self._admission.timing():
                timed = partial(self.timed, work)
                return await self._threads.run(timed) if self._looks() else timed()

    def _looks(self) -> bool:
        """Whether the loop shall be free to see who comes: now and then, and on while more come than go."""
        taken, refused = self._admission.taken, self._admission.refused
        more = self._taken is not None and taken > self._taken
        self._in_turn = (self._in_turn + 1) % _LOOK
        if self._in_turn and not more and time.perf_counter() - refused > _CROWDED:
            self._taken = None
            return False
        self._taken = taken
        return True
