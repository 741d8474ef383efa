"""Short work, computed in the event loop itself: handing it to a thread and back costs more than it takes.

Python runs one thread at a time, and numpy gives its lock away at every larger array. Where nothing runs outside that
lock for long, threads only hand it around, from core to core; one loop that does it all answers more, and sooner.

Processes have a lock each: where several searches are under way, helpers do the longest part of them (`helpers`).

While the loop computes it sees nobody come, and gRPC keeps who does in a queue that nobody bounds. So now and then, and
before every piece of work while calls are being refused, the loop first takes in all that wait there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from radrank.core.timing import RecentTimes
from radrank.server.admission import Admission
from radrank.server.helpers.pool import Helpers
from radrank.server.suspension import Suspendable
from radrank.server.threads import Threads

Result = TypeVar("Result")

_SHORT = 0.0025  # seconds of a processor that such work takes in the loop as a rule: past it threads answer more
_LONGEST = 0.01  # seconds that most of it takes in a thread: past it the loop does not even try
_MOST = 0.9
_OTHER_WAY = 32  # one in so many is done the other way, so that both are known
_SOMETIMES = 16  # one in so many lets the loop see who comes
_CROWDED = 0.1  # seconds after a refusal, for which there may be more to refuse
_QUIET = 8  # turns of the loop without a call, after which no more wait
_TAKING = 0.02  # seconds that the loop takes calls in at most: then it is the turn of those that it has
_ALONE, _SHARED, _THREAD = "alone", "shared", "thread"  # in the loop without and with helpers, and beside it


class Inline:
    """Does short work where it takes least. In the loop it is one piece after another, in the order of arrival."""

    def __init__(self, admission: Admission, threads: Threads, helpers: Helpers) -> None:
        self._admission = admission
        self._threads = threads
        self._helpers = helpers
        self._one = asyncio.Lock()
        self._recent = RecentTimes()
        self._counts = {_ALONE: 0, _SHARED: 0}
        self._lonely = 0  # pieces of work since the last that was not alone

    async def run(self, work: Callable[[], Result]) -> Result:
        """What the work returns or raises."""
        how = _SHARED if self._shares() else _ALONE
        self._counts[how] += 1
        other_way, pays = self._counts[how] % _OTHER_WAY == 0, self._pays(how)
        if not pays and not (other_way and self._bearable):
            async with self._admission.turn():
                return await self._in_thread(work)
        async with AsyncExitStack() as alone:
            await alone.enter_async_context(self._one)
            await self._take_in()
            with self._admission.timing():
                if pays and other_way and self._admission.taken <= 1:  # beside others a thread would wait for its turns
                    return await self._in_thread(work)
                return await self._in_loop(work, how, alone)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        def timed() -> Result:
            start = time.thread_time()  # of a processor, whomever it had to wait for
            try:
                return work()
            finally:
                self._recent.add(_THREAD, time.thread_time() - start)

        return await self._threads.run(timed)

    async def _in_loop(self, work: Callable[[], Result], how: str, alone: AsyncExitStack) -> Result:
        running = Suspendable(work)
        self._helpers.open = how == _SHARED
        try:
            running.start()
            await alone.aclose()  # while a helper computes, the next piece of work may begin
            return await running.rest()
        finally:
            self._recent.add(how, running.seconds)

    @property
    def _bearable(self) -> bool:
        """Whether the loop may try. Only threads do what nobody knows yet."""
        return 0.0 < self._recent.quantile(_THREAD, _MOST) <= _LONGEST

    def _pays(self, how: str) -> bool:
        """Known of both ways apart: what is too long for the loop alone may be short where helpers have their part."""
        return self._bearable and self._recent.quantile(how, 0.5) <= _SHORT

    def _shares(self) -> bool:
        """Whether a helper has its part: where there are others, who are seen only while the loop does not compute."""
        self._lonely = 0 if self._admission.taken > 1 else self._lonely + 1
        return self._lonely < _SOMETIMES or self._lonely % _SOMETIMES == 0

    async def _take_in(self) -> None:
        """Lets gRPC hand over the calls that wait there: it needs several turns of the loop for each."""
        crowded = time.perf_counter() - self._admission.refused < _CROWDED
        if not crowded and sum(self._counts.values()) % _SOMETIMES:
            return
        quiet, end = 0, time.perf_counter() + _TAKING
        while quiet < _QUIET and time.perf_counter() < end:
            before = self._admission.asked
            await asyncio.sleep(0)
            quiet = 0 if self._admission.asked > before else quiet + 1
