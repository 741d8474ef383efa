"""One table from core's errors to gRPC statuses."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import grpc
from google.rpc import error_details_pb2, status_pb2

from radrank.core import errors

STATUS: Mapping[type[errors.RadrankError], grpc.StatusCode] = {
    errors.InvalidQuery: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineTooShort: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Corrupt: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Mismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MissingExtra: grpc.StatusCode.FAILED_PRECONDITION,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What a caller is told. retry_after: seconds to wait before another try."""

    code: grpc.StatusCode
    message: str
    retry_after: float | None = None

    @property
    def number(self) -> int:
        """The code as google.rpc.Status has it."""
        value: int = self.code.value[0]
        return value

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Trailing: the delay as google.rpc.RetryInfo has it, as gRPC's own retries obey it (gRFC A6), and in plain."""
        if self.retry_after is None:
            return ()
        details, delay = status_pb2.Status(code=self.number, message=self.message), error_details_pb2.RetryInfo()
        delay.retry_delay.FromNanoseconds(round(self.retry_after * 1e9))
        details.details.add().Pack(delay)
        milliseconds = str(round(self.retry_after * 1_000))
        return (
            ("retry-after-ms", milliseconds),
            ("grpc-retry-pushback-ms", milliseconds),
            ("grpc-status-details-bin", details.SerializeToString()),
        )


class Refused(Exception):
    """A call that is answered with a code of its own."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def status_of(error: Exception) -> Status:
    """The status of an error. An unknown one gets an opaque id; its text is neither told nor logged."""
    if isinstance(error, Refused):
        return Status(error.code, str(error))
    for kind in type(error).__mro__:
        if kind in STATUS:
            return Status(STATUS[kind], str(error), getattr(error, "retry_after", None))
    incident = secrets.token_hex(6)
    _log.error("incident %s: %s", incident, trace(error))
    return Status(grpc.StatusCode.INTERNAL, f"internal error; the server's log has it as incident {incident}")


def trace(error: BaseException) -> str:
    """Types and source lines of an error and its causes, without their messages: those may quote a report."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 8:
        frames = traceback.extract_tb(current.__traceback__)
        path = " > ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        parts.append(f"{type(current).__name__} at {path}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; caused by ".join(parts)
