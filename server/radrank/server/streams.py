"""Long-lived streams: how many may be open, and how they end with the server. All in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from radrank.core.errors import Overloaded, Unavailable

_RETRY_SECONDS = 1.0
_HEARD = 0.002  # seconds


class Streams:
    """Places for streams. most: how many may be open at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Stream] = set()

    @contextmanager
    def place(self, context: Any) -> Iterator[Stream]:
        """A stream's own, of a grpc.aio.ServicerContext. Raises Overloaded."""
        if len(self._open) >= self._most:
            raise Overloaded(_RETRY_SECONDS)
        stream = Stream(context)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    def drain(self) -> None:
        """Ends streams: those that wait for their caller now, the others after the request that they answer."""
        for stream in tuple(self._open):
            stream.end()


class Stream:
    """The requests of a stream that is open."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._ending = False
        self._reading: asyncio.Future[Any] | None = None

    async def next(self) -> bytes | None:
        """The next request, None after the last. Raises Unavailable where the server ends the stream."""
        if not self._ending:
            self._reading = asyncio.ensure_future(self._context.read())
            try:
                return _message(await self._reading)
            except asyncio.CancelledError:
                if not self._ending:
                    raise
            finally:
                self._reading = None
        raise Unavailable("the server is stopping; open the stream again in a moment")

    async def rest(self) -> bytes | None:
        """As `next`, of a stream that is one piece of work: what has begun may end after the server's last call."""
        raw = _message(await self._context.read())
        if raw is None:
            # A stream that is cancelled ends like any other; that it was, is told a moment later.
            await asyncio.sleep(_HEARD)
        return raw

    def end(self) -> None:
        """It shall take no more requests."""
        self._ending = True
        if self._reading is not None:
            self._reading.cancel()


def _message(read: Any) -> bytes | None:
    return None if read is grpc.aio.EOF else read  # type: ignore[attr-defined] # missing in the stubs
