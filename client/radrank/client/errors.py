"""Everything the client raises on purpose.

ClientError(message, code)
├── InvalidArgument            the message names the field that is wrong; also raised before anything is sent
├── NotFound                   no such study in the archive
├── Refused                    the token is absent, wrong, or may not do this
├── FailedPrecondition         the server's files do not fit together; its operator must act
├── Overloaded(retry_after)    too much is in flight; try again after `retry_after` seconds, where the server says
├── DeadlineExceeded           no answer within the timeout
├── Unavailable                not running, not reachable, starting or stopping
└── ServerError                anything else; the message may carry the server's id of the incident

`str(error)` is one line that may be shown to a person. Errors of a call have the `grpc.RpcError` as `__cause__`.
"""

from __future__ import annotations


class ClientError(Exception):
    """The root of what the client raises on purpose. `code` is the name of a gRPC status, such as "NOT_FOUND"."""

    def __init__(self, message: str, *, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code


class InvalidArgument(ClientError):
    """The request can't be answered as it is."""

    def __init__(self, message: str, *, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message, code=code)


class NotFound(ClientError):
    """The archive has no such study."""


class Refused(ClientError):
    """The server does not let this caller do this (UNAUTHENTICATED or PERMISSION_DENIED)."""


class FailedPrecondition(ClientError):
    """The server is up but its bundle, snapshot or archive do not fit together."""


class Overloaded(ClientError):
    """Too much is in flight. `retry_after` is in seconds, None where the server names none."""

    def __init__(self, message: str, *, code: str = "RESOURCE_EXHAUSTED", retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class DeadlineExceeded(ClientError):
    """No answer came within the timeout."""


class Unavailable(ClientError):
    """Nobody answers at the target, or the server is starting or stopping."""


class ServerError(ClientError):
    """The server failed in a way that the caller can't cure."""
