"""Requests of Triton's python backend, each answered on its own: arrays in, arrays or an error out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from numpy.typing import NDArray

from radrank.core.timing import NO_DEADLINE, Deadline
from radrank.server.statuses import status_of

Feed = Mapping[str, NDArray[Any]]
Answer = Callable[[Feed, Deadline], Feed]
"""Outputs by name. What it raises becomes the request's error."""

_CODES: Mapping[grpc.StatusCode, str] = {  # Triton has no other names for them
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARG",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "UNAVAILABLE",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
}


def responses(backend: Any, requests: Sequence[Any], answer: Answer) -> list[Any]:
    """An InferenceResponse for every InferenceRequest, in their order."""
    return [_response(backend, request, answer) for request in requests]


def _response(backend: Any, request: Any, answer: Answer) -> Any:
    try:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        found = answer(feed, _deadline(request))
        asked = request.requested_output_names()
        tensors = [backend.Tensor(name, array) for name, array in found.items() if name in asked]
        return backend.InferenceResponse(output_tensors=tensors)
    except Exception as error:  # noqa: BLE001 - one request's fault is its own reply
        return backend.InferenceResponse(output_tensors=[], error=_error(backend, error))


def _error(backend: Any, error: Exception) -> Any:
    """As the gRPC server tells it: an unknown error's text stays in the log."""
    status = status_of(error)
    return backend.TritonError(status.message, getattr(backend.TritonError, _CODES.get(status.code, "INTERNAL")))


def _deadline(request: Any) -> Deadline:
    """From the request's own timeout, in microseconds; 0 where the caller gave none."""
    microseconds = request.timeout()
    return Deadline(microseconds / 1e6) if microseconds else NO_DEADLINE
