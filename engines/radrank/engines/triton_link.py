"""The way to a Triton: one channel for each address, its retries and deadlines, and what its errors mean here."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from radrank.core.errors import DeadlineTooShort, InvalidQuery, MissingExtra, Overloaded, RadrankError, Unavailable
from radrank.core.timing import Deadline

LONGEST_SECONDS = 30.0
"""Of one call, where the caller has no deadline or a later one."""

_RESERVE_SHARE, _RESERVE_SECONDS = 0.1, 0.1  # of what is left: kept for the reply, or for one without re-ranking
_RETRY_AFTER = 0.1  # seconds that a caller is told to wait where Triton's queue is full

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # pixels go to the address that is named, whatever the environment says
    ("grpc.enable_retries", 0),  # gRPC's own would be unseen, and ours is one
    ("grpc.use_local_subchannel_pool", 1),  # no other channel's wait for its next try bears on this one
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also how long an attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # a restarted Triton may have another address
    # A host that vanished is noticed by what it does not acknowledge. Triton allows no pings more often than this.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 2_000),
)

_READY: int = grpc.ChannelConnectivity.READY.value[0]

_log = logging.getLogger(__name__)


class Lost(Unavailable):
    """Triton did not answer; another try may."""


class Refused(Exception):
    """Triton answered with an error that another try would not cure. Its text is left out: it may quote a tensor."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


class Link:
    """A Triton's address, connected. All engines of one address share it."""

    def __init__(self, address: str, ca: Path | None) -> None:
        self.address = address
        self._epoch = object()
        self._key, self._owners = (address, ca), 0
        self._messages, services = protocol()
        self._channel: Any = (
            grpc.insecure_channel(address, _OPTIONS)
            if ca is None
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(_read(ca)), _OPTIONS)
        )
        self._stub = services.GRPCInferenceServiceStub(self._channel)
        self._is_lost = False

    @classmethod
    def to(cls, address: str, ca: Path | None) -> Link:
        """The link to this address, one owner more. ca: PEM file of who signed its certificate, None for no TLS."""
        with _guard:
            link = _links.get((address, ca)) or _links.setdefault((address, ca), cls(address, ca))
            link._owners += 1
            return link

    def release(self) -> None:
        """One owner less; after the last the channel is closed."""
        with _guard:
            self._owners -= 1
            if self._owners:
                return
            del _links[self._key]
        self._channel.close()

    def call(self, method: str, request: Any) -> Any:
        """One call, which has the time that the running deadline leaves.

        Raises Lost, Overloaded, DeadlineTooShort, Unavailable where it took too long, and Refused.
        """
        seconds = _seconds(Deadline.current())
        try:
            answer = getattr(self._stub, method)(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self._meant(error.code(), seconds) from None
        if self._is_lost:
            self._is_lost = False
            _log.info("the Triton at %s answers again", self.address)
        return answer

    @property
    def epoch(self) -> object:
        """Another object after every failure and every connection: what was learnt before may have changed."""
        # gRPC's public way, `subscribe`, is told by a thread, after the next connection may have been used. The state
        # itself is read in under a microsecond, and a connection that ended stays ended until a call asks for another.
        if self._channel._channel.check_connectivity_state(False) != _READY:
            self._epoch = object()
        return self._epoch

    def version(self) -> str:
        """Of the server."""
        return str(self.call("ServerMetadata", self._messages.ServerMetadataRequest()).version)

    def _meant(self, code: grpc.StatusCode, seconds: float) -> RadrankError | Refused:
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if seconds < LONGEST_SECONDS:
                return DeadlineTooShort(0.0)
            return Unavailable(f"the models' Triton did not answer within {seconds:g} s")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(_RETRY_AFTER)
        self._epoch = object()
        if code is grpc.StatusCode.CANCELLED:
            return Unavailable("the way to the models' Triton is closed; try again in a moment")
        if code is not grpc.StatusCode.UNAVAILABLE:
            return Refused(code)
        if not self._is_lost:
            self._is_lost = True
            _log.warning("the Triton at %s does not answer", self.address)
        return Lost("the models' Triton does not answer; try again in a moment")


_links: dict[tuple[str, Path | None], Link] = {}
_guard = threading.Lock()


def protocol() -> tuple[ModuleType, ModuleType]:
    """The messages of KServe v2, and its services. Raises MissingExtra."""
    try:
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except ImportError as error:
        raise MissingExtra("tritonclient", "triton") from error
    return service_pb2, service_pb2_grpc


def _seconds(deadline: Deadline) -> float:
    """What a call may take, so that there is time to tell of it."""
    left = deadline.left
    if left is None:
        return LONGEST_SECONDS
    if left <= 0.0:
        raise DeadlineTooShort(0.0)
    return min(LONGEST_SECONDS, left - min(_RESERVE_SECONDS, _RESERVE_SHARE * left))


def _read(ca: Path) -> bytes:
    try:
        return ca.read_bytes()
    except OSError as error:
        raise InvalidQuery("engines.triton_ca", f"{ca} can't be read: {error.strerror}") from None
