"""The way from a call to the library: shut while the server starts and stops, and narrow for long-lived streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from radrank.core.errors import Overloaded, Unavailable
from radrank.server.library import Library

_RETRY_SECONDS = 1.0


class Gate:
    """Shut until a library is behind it. streams: how many long-lived streams may be open at once."""

    def __init__(self, *, streams: int) -> None:
        self._library: Library | None = None
        self._streams = threading.BoundedSemaphore(streams)

    def open(self, library: Library) -> None:
        self._library = library

    def shut(self) -> None:
        self._library = None

    @property
    def library(self) -> Library:
        """Raises Unavailable while the gate is shut."""
        library = self._library
        if library is None:
            raise Unavailable("the server is starting or stopping; try again in a moment")
        return library

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream's own place: without a limit, idle streams would hold every thread. Raises Overloaded."""
        if not self._streams.acquire(blocking=False):
            raise Overloaded(_RETRY_SECONDS)
        try:
            yield
        finally:
            self._streams.release()
