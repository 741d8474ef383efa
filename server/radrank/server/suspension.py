"""Plain code that leaves the event loop to others while it waits.

A search is plain code, called alike from threads, from Triton's Python and from the loop. Where the loop runs it as a
greenlet, `waited` may be called at any depth of it: what SQLAlchemy's asyncio extension does, for the same reason.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

Result = TypeVar("Result")


class Suspendable(Generic[Result]):
    """A piece of work for the event loop: `start`, then `rest`, which gives its result. Both raise what it raises.

    seconds: of a processor that it has taken so far, without what others did while it waited
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._greenlet = _Suspendable(work)
        self._last: Any = None  # what it waits for, then its result
        self.seconds = 0.0

    @property
    def waits(self) -> bool:
        """Whether it has begun, and has not ended."""
        return bool(self._greenlet)

    def start(self) -> None:
        """Runs it until it ends or waits."""
        self._go_on(self._greenlet.switch)

    async def rest(self) -> Result:
        """Runs it to its end."""
        while self.waits:
            try:
                value = await self._last
            except BaseException as error:  # noqa: BLE001 - it is the work's own affair, a cancellation too
                self._go_on(self._greenlet.throw, error)
            else:
                self._go_on(self._greenlet.switch, value)
        found: Result = self._last
        return found

    def _go_on(self, enter: Callable[..., Any], *values: object) -> None:
        start = time.thread_time()
        try:
            self._last = enter(*values)
        finally:
            self.seconds += time.thread_time() - start


class _Suspendable(greenlet):
    """Tells such a piece of work from all other code."""


def is_suspendable() -> bool:
    """Whether the code that asks may call `waited`."""
    return isinstance(getcurrent(), _Suspendable)


def waited(awaitable: Awaitable[Result]) -> Result:
    """What it gives or raises; the event loop goes on meanwhile."""
    parent = getcurrent().parent
    assert parent is not None, "only suspendable work can wait"
    found: Result = parent.switch(awaitable)
    return found
