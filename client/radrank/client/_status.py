"""From gRPC statuses to the client's errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc

from radrank.client import errors
from radrank.client.errors import ClientError

# How gRPC's own transport words a server that isn't there. What a radrank server says while it starts or stops differs.
_TRANSPORT = re.compile(r"failed to connect|connection refused|socket closed|dns|name resol|handshake|tcp|goaway", re.I)
_TOO_LARGE = re.compile(r"message (?:is )?larger than max", re.I)
_RETRY = re.compile(r"try again in ([0-9.]*[0-9]) s")
_PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6

_BY_CODE: Mapping[str, type[ClientError]] = {
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "OUT_OF_RANGE": errors.InvalidArgument,
    "NOT_FOUND": errors.NotFound,
    "UNAUTHENTICATED": errors.Refused,
    "PERMISSION_DENIED": errors.Refused,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAVAILABLE": errors.Unavailable,
}
_NAMES: Mapping[int, str] = {status.value[0]: status.name for status in grpc.StatusCode}


def from_status(code: int | str, message: str, *, target: str = "", pushback: str = "") -> ClientError:
    """The error for a gRPC status, given by number or name. `pushback` is in milliseconds, as the server sent it."""
    name = code if isinstance(code, str) else _NAMES.get(code, "UNKNOWN")
    message = " ".join(message.split()) or name.lower().replace("_", " ")
    if name == "RESOURCE_EXHAUSTED":
        return _exhausted(message, pushback)
    if name == "UNAVAILABLE" and _TRANSPORT.search(message):
        message = f"no radrank server answers at {target}; is it running? start it with: radrank serve"
    if name == "DEADLINE_EXCEEDED" and message.lower() == "deadline exceeded":
        message = f"no answer from {target} in time; a longer timeout may help" if target else message
    return _BY_CODE.get(name, errors.ServerError)(message, code=name)


def _exhausted(message: str, pushback: str) -> ClientError:
    if _TOO_LARGE.search(message):
        return errors.InvalidArgument("the message is larger than one call may carry", code="RESOURCE_EXHAUSTED")
    said = _RETRY.search(message)
    seconds = int(pushback) / 1000 if pushback.isdecimal() else float(said[1]) if said else None
    return errors.Overloaded(message, retry_after=seconds)


def from_rpc(error: grpc.RpcError, target: str) -> ClientError:
    """The error for what a call to `target` raised."""
    code: Callable[[], grpc.StatusCode] | None = getattr(error, "code", None)
    if code is None:
        return errors.ServerError(f"the call to {target} failed")
    trailing = getattr(error, "trailing_metadata", lambda: ())() or ()
    pushback = next((str(value) for key, value in trailing if key == _PUSHBACK), "")
    return from_status(code().name, error.details() or "", target=target, pushback=pushback)


@contextmanager
def translated(target: str) -> Iterator[None]:
    """What gRPC raises inside becomes a ClientError."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error, target) from error
