"""The way from a call to the library: shut while the server starts and stops, and narrow for long-lived streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from radrank.core.errors import Overloaded, Unavailable
from radrank.server.library import Library

_RETRY_SECONDS = 1.0


class Gate:
    """Shut until a library is behind it. streams: how many long-lived streams may be open at once."""

    def __init__(self, *, streams: int) -> None:
        self._library: Library | None = None
        self._streams = threading.BoundedSemaphore(streams)
        self._open: set[OpenStream] = set()
        self._guard = threading.Lock()

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
    def stream(self, context: grpc.ServicerContext) -> Iterator[OpenStream]:
        """A stream's own place: without a limit, idle streams would hold every thread. Raises Overloaded."""
        if not self._streams.acquire(blocking=False):
            raise Overloaded(_RETRY_SECONDS)
        stream = OpenStream(context)
        with self._guard:
            self._open.add(stream)
        try:
            yield stream
        finally:
            with self._guard:
                self._open.discard(stream)
            self._streams.release()

    def drain(self) -> None:
        """Ends streams: those that wait for their caller now, the others after the request that they answer."""
        with self._guard:
            streams = tuple(self._open)
        for stream in streams:
            stream.end()


class OpenStream:
    """A stream that is open. `ending`: it shall take no more requests."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._guard = threading.Lock()
        self._busy = False
        self.ending = False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While a request is answered."""
        with self._guard:
            self._busy = True
        try:
            yield
        finally:
            with self._guard:
                self._busy = False

    def end(self) -> None:
        with self._guard:
            self.ending = True
            if not self._busy:
                self._context.cancel()  # type: ignore[no-untyped-call]  # nothing else wakes a thread that waits for its caller
