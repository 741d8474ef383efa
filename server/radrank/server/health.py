"""grpc.health.v1.Health. grpcio-health-checking's own for asyncio forgets all who watch when one of them leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Response = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """All services share one status. names: theirs, and "" for the whole server."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._serving = self._ended = False
        self._changed = asyncio.Event()

    def set(self, *, serving: bool) -> None:
        """Tells those who watch, too."""
        self._serving = serving and not self._ended
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Not serving from now on, and nothing to watch any more: who watches would hold up the server's end."""
        self._ended = True
        self.set(serving=False)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return self._status(request.service)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        told = None
        while True:
            # All seen at once: while one status is written, the next may come.
            changed, status, ended = self._changed, self._status(request.service), self._ended
            if status != told:
                await context.write(status)
                told = status
            if ended:
                return
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._names:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if self._serving else _Response.NOT_SERVING)
