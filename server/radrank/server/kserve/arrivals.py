"""When a call arrived: it may wait for a thread and for its turn before a servicer sees it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any

import grpc

_arrived: ContextVar[int] = ContextVar("arrived")


class Arrivals(grpc.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Notes when calls of one method arrive. It must be the first of all interceptors. method: its full name."""

    def __init__(self, method: str) -> None:
        self._method = method

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        now = time.perf_counter_ns()  # here, before the call waits for a thread
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method != self._method:
            return handler
        behaviour = handler.unary_unary

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            _arrived.set(now)
            return behaviour(request, context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def arrival_ns() -> int:
    """`time.perf_counter_ns()` of the arrival of the call that this thread answers; now, where nobody noted it."""
    return _arrived.get(None) or time.perf_counter_ns()
