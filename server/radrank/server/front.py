"""Between gRPC's event loop and the services, which are plain functions of a request and its caller.

Around every call: the access log, the mapping of errors, the bearer token; a place and a turn for what computes. Short
work is done in the event loop, the rest in threads; messages are parsed and written where the work is done.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from radrank.core.errors import InvalidQuery
from radrank.core.timing import Deadline
from radrank.server.admission import Admission
from radrank.server.calls import Caller
from radrank.server.helpers.pool import Helpers
from radrank.server.inline import Inline
from radrank.server.statuses import Refused, Status, status_of
from radrank.server.streams import Stream, Streams
from radrank.server.threads import Threads

COMPUTING = frozenset(("Search", "Embed", "Screen", "ModelInfer"))
"""Calls that need a place. What only looks something up, and readiness, is always answered."""

_SHORT_BYTES = 65_536  # past it a request alone takes long to parse

AddTo = Callable[[Any, Any], None]
"""What gRPC generates for a service: adds a servicer to a server."""
IsShort = Callable[[Any], bool]
"""Of a request: whether answering it may be short work."""

_access = logging.getLogger("radrank.access")
_arrived: ContextVar[int] = ContextVar("arrived")


def never(_request: object) -> bool:
    """No request of this service is short work."""
    return False


class Front(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    """Finds for each call what answers it."""

    def __init__(
        self, *, admission: Admission, streams: Streams, threads: Threads, helpers: Helpers, token: str | None
    ) -> None:
        self._admission = admission
        self._streams = streams
        self._threads = threads
        self._inline = Inline(admission, threads, helpers)
        self._token = None if token is None else f"Bearer {token}".encode()
        self._handlers: dict[str, Any] = {}
        self._refusing: dict[str, Any] = {}  # of those that need a place

    def add(self, add_to: AddTo, servicer: object, *, is_short: IsShort = never) -> None:
        """Adds a service whose methods take (request, caller), and (requests, caller) where only requests are a stream;
        where replies are one too, each request has its own. Asynchronous generators stay gRPC's.
        """
        added = _Added()
        add_to(servicer, added)
        for name, handler in added.handlers.items():
            self._handlers[name] = self._handler(name, handler, is_short)
            if not handler.request_streaming and _computes(name):
                self._refusing[name] = self._refusal(name)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        _arrived.set(time.perf_counter_ns())
        name = handler_call_details.method
        # Who may not ask has no part in who gets a place.
        if name in self._refusing and (
            not self._may(handler_call_details.invocation_metadata) or self._admission.full()
        ):
            return self._refusing[name]
        return self._handlers.get(name)

    def _handler(self, name: str, handler: Any, is_short: IsShort) -> Any:
        if not handler.request_streaming:
            method = _Method(name, handler.unary_unary, handler, is_short)
            return grpc.unary_unary_rpc_method_handler(self._single(method))
        if not handler.response_streaming:
            method = _Method(name, handler.stream_unary, handler, is_short)
            return grpc.stream_unary_rpc_method_handler(self._collecting(method))
        behaviour = handler.stream_stream
        if inspect.isasyncgenfunction(behaviour):
            return grpc.stream_stream_rpc_method_handler(
                self._native(name, behaviour), handler.request_deserializer, handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(self._each(_Method(name, behaviour, handler, is_short)))

    def _single(self, method: _Method) -> Any:
        computes = _computes(method.name)

        async def call(raw: bytes, context: Any) -> bytes:
            caller = _caller(context)
            async with self._answered(method.name, context):
                if not computes:
                    return await self._threads.run(partial(method.answer_raw, raw, caller))
                with self._admission.place():
                    return await self._computed(method, raw, caller)

        return call

    def _refusal(self, name: str) -> Any:
        """Refuses a call before its message is read. To gRPC it has a stream: only those wait for no message.

        Who sent no token hears of that first.
        """

        async def call(_requests: object, context: Any) -> None:
            async with self._answered(name, context):
                raise self._admission.refusal()

        return grpc.stream_stream_rpc_method_handler(call)

    def _collecting(self, method: _Method) -> Any:
        async def call(_requests: object, context: Any) -> bytes:
            caller = _caller(context)

            def given_up() -> None:
                caller.waits = False

            async with self._answered(method.name, context):
                with self._streams.place(context) as stream:
                    requests = _pulled(stream, method, asyncio.get_running_loop())
                    return await self._threads.run(partial(method.answer, requests, caller), given_up=given_up)

        return call

    def _each(self, method: _Method) -> Any:
        async def call(_requests: object, context: Any) -> None:
            caller = _caller(context)
            async with self._answered(method.name, context):
                with self._streams.place(context) as stream:
                    while (raw := await stream.next()) is not None:
                        asked = replace(caller, arrived_ns=time.perf_counter_ns())
                        await context.write(await self._computed(method, raw, asked))

        return call

    def _native(self, name: str, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def call(requests: Any, context: Any) -> None:
            async with self._answered(name, context):
                async for reply in behaviour(requests, context):
                    await context.write(reply)

        return call

    async def _computed(self, method: _Method, raw: bytes, caller: Caller) -> bytes:
        """In the loop where that pays, else in a thread when it is the call's turn."""
        if len(raw) > _SHORT_BYTES:
            work = partial(method.answer_raw, raw, caller)
        else:
            request = method.parse(raw)
            work = partial(method.answer, request, caller)
            if method.is_short(request):
                return await self._inline.run(work)
        async with self._admission.turn():
            return await self._threads.run(work)

    @asynccontextmanager
    async def _answered(self, method: str, context: Any) -> AsyncIterator[None]:
        """A call from its token to its line in the access log, which has nothing of what was sent or answered."""
        start = time.perf_counter()
        refusal: Status | None = None
        code = grpc.StatusCode.OK
        try:
            self._check_token(context)
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was
            refusal = status_of(error)
            code = refusal.code
        finally:
            milliseconds = (time.perf_counter() - start) * 1_000
            _access.info(
                "%s %s %.1f ms",
                method,
                code.name,
                milliseconds,
                extra={"method": method, "code": code.name, "milliseconds": round(milliseconds, 3)},
            )
        if refusal is not None:
            await context.abort(refusal.code, refusal.message, refusal.metadata)

    def _check_token(self, context: Any) -> None:
        if not self._may(context.invocation_metadata()):
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "authorization: send the metadata `Bearer <token>`")

    def _may(self, metadata: Any) -> bool:
        """Whether a caller has sent the token, where there is one."""
        if self._token is None:
            return True
        sent = next((value for key, value in metadata if key == "authorization"), "")
        given = sent if isinstance(sent, bytes) else sent.encode("utf-8", "replace")
        return hmac.compare_digest(given, self._token)


class _Method:
    """One method of a service, from bytes to bytes. name: with its service, as a call has it."""

    def __init__(self, name: str, behaviour: Callable[[Any, Caller], Any], handler: Any, is_short: IsShort) -> None:
        self.name = name
        self.is_short = is_short
        self._behaviour = behaviour
        self._deserialize: Callable[[bytes], Any] = handler.request_deserializer
        self._serialize: Callable[[Any], bytes] = handler.response_serializer

    def parse(self, raw: bytes) -> Any:
        """Raises InvalidQuery."""
        try:
            return self._deserialize(raw)
        except DecodeError:
            raise InvalidQuery(
                "request", "is not a message of this method: do both sides have the same .proto?"
            ) from None

    def answer_raw(self, raw: bytes, caller: Caller) -> bytes:
        return self.answer(self.parse(raw), caller)

    def answer(self, request: Any, caller: Caller) -> bytes:
        with caller.deadline.running():
            return self._serialize(self._behaviour(request, caller))


class _Added:
    """Stands for a server where generated code adds its methods."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.handlers.update({f"/{service}/{method}": handler for method, handler in handlers.items()})

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """They are the same."""


def _computes(name: str) -> bool:
    return name.rpartition("/")[2] in COMPUTING


def _caller(context: Any) -> Caller:
    return Caller(deadline=Deadline(context.time_remaining()), peer=context.peer(), arrived_ns=_arrived.get())


def _pulled(stream: Stream, method: _Method, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """The requests of a stream, for a thread: read in the loop as they are wanted."""
    while (raw := asyncio.run_coroutine_threadsafe(stream.rest(), loop).result()) is not None:
        yield method.parse(raw)
