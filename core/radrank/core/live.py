"""Values that are swapped while they are in use: whoever leased one finishes on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """A value with several owners; `close` is called when the last of them releases it. It starts with one owner."""

    def __init__(self, value: T, close: Callable[[T], None]) -> None:
        self.value = value
        self._close = close
        self._owners = 1
        self._guard = threading.Lock()

    def take(self) -> Self:
        """One owner more."""
        with self._guard:
            assert self._owners, "a closed value can't be taken"
            self._owners += 1
        return self

    def release(self) -> None:
        """One owner less."""
        with self._guard:
            self._owners -= 1
            last = self._owners == 0
        if last:
            self._close(self.value)


class Live(Generic[T]):
    """The value in force. A swap waits for no lease, and a lease for no swap."""

    def __init__(self, value: Shared[T]) -> None:
        self._current = value
        self._guard = threading.Lock()

    @property
    def now(self) -> T:
        """The value in force, kept open by nobody: for what stays true of it when it is closed."""
        return self._current.value

    @contextmanager
    def lease(self) -> Iterator[T]:
        """The value in force now, kept open until the lease ends."""
        with self._guard:  # between reading and taking, a swap could close it
            held = self._current.take()
        try:
            yield held.value
        finally:
            held.release()

    def swap(self, value: Shared[T]) -> None:
        """Puts another value in force; the old one is closed when its last lease ends."""
        with self._guard:
            before, self._current = self._current, value
        before.release()

    def close(self) -> None:
        """Gives up the value in force. No lease may follow."""
        with self._guard:
            self._current.release()
