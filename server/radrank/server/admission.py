"""How much may run at once: past it calls are refused, so that a queue never grows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from radrank.core.errors import DeadlineTooShort, Overloaded
from radrank.core.timing import Deadline, RecentTimes

_CALL = "call"
_SHORTEST_RETRY = 0.01  # seconds


class Turns:
    """A few at a time, in the order in which they came: past a semaphore's waiters newcomers push in. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._guard = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float | None) -> bool:
        """Whether it became the caller's turn within so many seconds; None waits for ever."""
        with self._guard:
            if self._free:
                self._free -= 1
                return True
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        if called.acquire(timeout=-1 if timeout is None else timeout):
            return True
        with self._guard:
            if called in self._waiting:
                self._waiting.remove(called)
                return False
        return True  # its turn came at the last moment

    def release(self) -> None:
        """Ends a turn: the next is that of who waits longest."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Admission:
    """Places for calls in flight, and turns for those of them that compute.

    in_flight: calls that compute or wait for their turn; workers: calls that compute side by side
    """

    def __init__(self, *, in_flight: int, workers: int) -> None:
        self._places = threading.BoundedSemaphore(in_flight)
        self._turns = Turns(workers)
        self._ahead = in_flight / workers
        self._recent = RecentTimes()

    @contextmanager
    def admitted(self, deadline: Deadline) -> Iterator[None]:
        """A call from its arrival to its reply. Raises Overloaded at once, or DeadlineTooShort where no turn came."""
        if not self._places.acquire(blocking=False):
            # By then those who hold a place now have had their turn.
            raise Overloaded(max(_SHORTEST_RETRY, self._ahead * self._recent.quantile(_CALL, 0.5)))
        try:
            with self.turn(deadline):
                yield
        finally:
            self._places.release()

    @contextmanager
    def turn(self, deadline: Deadline) -> Iterator[None]:
        """One piece of work of a caller that has its place already, such as a stream; its deadline runs meanwhile."""
        left = deadline.left
        if not self._turns.acquire(None if left is None else max(0.0, left)):
            raise DeadlineTooShort(self._recent.quantile(_CALL, 0.5))
        start = time.perf_counter()
        try:
            with deadline.running():
                yield
        finally:
            self._turns.release()
            self._recent.add(_CALL, time.perf_counter() - start)
