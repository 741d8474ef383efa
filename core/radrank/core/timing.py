"""How long things take: laps of one request, and what requests took lately."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_YEAR = 365 * 24 * 3600.0
_KEPT, _ENOUGH = 128, 16  # calls that are remembered, and how many make a quantile worth believing


class Stopwatch:
    """Laps in microseconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter_ns()

    def lap(self) -> int:
        now = time.perf_counter_ns()
        lap, self._last = now - self._last, now
        return lap // 1_000


class RecentTimes:
    """What the last calls of each kind took, in seconds. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken: defaultdict[Hashable, deque[float]] = defaultdict(deque)
        self._in_order: defaultdict[Hashable, list[float]] = defaultdict(list)

    def add(self, kind: Hashable, seconds: float) -> None:
        with self._guard:
            taken, in_order = self._taken[kind], self._in_order[kind]
            if len(taken) == _KEPT:
                del in_order[bisect_left(in_order, taken.popleft())]
            taken.append(seconds)
            insort(in_order, seconds)

    def quantile(self, kind: Hashable, share: float) -> float:
        """Seconds within which this share of the last calls ended; 0.0 while there are few to tell it from."""
        with self._guard:
            in_order = self._in_order[kind]
            n = len(in_order)
            return in_order[min(int(share * n), n - 1)] if n >= _ENOUGH else 0.0


class Deadline:
    """A moment by which an answer is wanted. seconds: from now; None, or longer than a year, for no deadline."""

    def __init__(self, seconds: float | None) -> None:
        # gRPC tells of a call without a deadline that it has some hundred billion years.
        self._end = None if seconds is None or seconds > _YEAR else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds, below zero when it has passed; None without a deadline."""
        return None if self._end is None else self._end - time.monotonic()

    def leaves(self, seconds: float) -> bool:
        """Whether there are that many."""
        left = self.left
        return left is None or left > seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meanwhile it is what this thread works against: `current()` for whatever is called, however deep."""
        token = _running.set(self)
        try:
            yield
        finally:
            _running.reset(token)

    @staticmethod
    def current() -> Deadline:
        """That of the work that this thread does; NO_DEADLINE where nobody said."""
        return _running.get()


NO_DEADLINE = Deadline(None)
_running: ContextVar[Deadline] = ContextVar("deadline", default=NO_DEADLINE)
