"""What stands around every call: the access log, the mapping of errors, the bearer token.

Each is a context manager around a call of whichever of gRPC's four kinds; health checks pass by all of them.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import grpc

from radrank.core.timing import Deadline
from radrank.server.admission import Admission
from radrank.server.statuses import status_of

HEALTH = "/grpc.health.v1.Health/"
COMPUTING = frozenset(("Search", "Embed", "Screen", "ModelInfer"))

Guard = Callable[[str, grpc.ServicerContext], AbstractContextManager[None]]

_access = logging.getLogger("radrank.access")


class Around(grpc.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Runs calls inside a guard, which gets the method's full name and the call's context."""

    def __init__(self, guard: Guard, *, only: Callable[[str], bool] = lambda _: True) -> None:
        """only: tells by a method's full name whether it is guarded."""
        self._guard = guard
        self._only = only
        self._guarded: dict[str, tuple[Any, Any]] = {}  # by method: gRPC asks at every call

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler, method = continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(HEALTH) or not self._only(method):
            return handler
        kept = self._guarded.get(method)
        if kept is None or kept[0] is not handler:
            kept = self._guarded[method] = (handler, self._around(handler, method))
        return kept[1]

    def _around(self, handler: Any, method: str) -> Any:
        guard = self._guard

        def single(behaviour: Any) -> Any:
            def call(request: Any, context: grpc.ServicerContext) -> Any:
                with guard(method, context):
                    return behaviour(request, context)

            return call

        def streamed(behaviour: Any) -> Any:
            def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
                with guard(method, context):
                    yield from behaviour(request, context)

            return call

        name = f"{_kind(handler.request_streaming)}_{_kind(handler.response_streaming)}"
        wrap = streamed if handler.response_streaming else single
        return getattr(grpc, f"{name}_rpc_method_handler")(
            wrap(getattr(handler, name)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def interceptors(token: str | None, admission: Admission) -> list[grpc.ServerInterceptor[Any, Any]]:
    """All of them, outermost first."""
    guards: list[Guard] = [access_log, errors_mapped]
    if token is not None:
        guards.append(bearer(token))
    return [*(Around(guard) for guard in guards), Around(admitted(admission), only=computes)]


def computes(method: str) -> bool:
    """Whether calls of this method need a place. What only looks something up, and readiness, is always answered."""
    return method.rpartition("/")[2] in COMPUTING


def admitted(admission: Admission) -> Guard:
    """Lets pass what there is a place for, when it is its turn."""

    def guard(_method: str, context: grpc.ServicerContext) -> AbstractContextManager[None]:
        return admission.admitted(Deadline(context.time_remaining()))

    return guard


@contextmanager
def access_log(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Method, code and milliseconds of every call; nothing of what was sent or answered."""
    start = time.perf_counter()
    failed = True
    try:
        yield
        failed = False
    finally:
        milliseconds = (time.perf_counter() - start) * 1_000
        code = _code(context, failed=failed)
        _access.info(
            "%s %s %.1f ms",
            method,
            code,
            milliseconds,
            extra={"method": method, "code": code, "milliseconds": round(milliseconds, 3)},
        )


@contextmanager
def errors_mapped(_method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """What a call raises becomes its status."""
    try:
        yield
    except Exception as error:
        if context.code() is not None or not context.is_active():  # type: ignore[attr-defined] # missing in the stubs
            raise  # aborted already, or the caller has gone: there is nobody to tell
        status = status_of(error)
        context.set_trailing_metadata(status.metadata)
        context.abort(status.code, status.message)


def bearer(token: str) -> Guard:
    """Lets pass who sends `authorization: Bearer <token>`."""
    expected = f"Bearer {token}".encode()

    @contextmanager
    def guard(_method: str, context: grpc.ServicerContext) -> Iterator[None]:
        sent = next((value for key, value in context.invocation_metadata() if key == "authorization"), "")
        given = sent if isinstance(sent, bytes) else sent.encode("utf-8", "replace")
        if not hmac.compare_digest(given, expected):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: send the metadata `Bearer <token>`")
        yield

    return guard


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _code(context: Any, *, failed: bool) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    if not failed:
        return grpc.StatusCode.OK.name
    return (grpc.StatusCode.UNKNOWN if context.is_active() else grpc.StatusCode.CANCELLED).name
