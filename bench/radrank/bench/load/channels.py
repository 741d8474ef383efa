"""Channels to the server that carry requests made beforehand, as bytes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from radrank.client._status import translated
from radrank.client.client import MESSAGE_BYTES
from radrank.client.errors import Unavailable
from radrank.v1 import retrieval_pb2

SEARCH = f"/{retrieval_pb2.DESCRIPTOR.services_by_name['Retrieval'].full_name}/Search"
CONNECT_SECONDS = 10.0
OK = "OK"


class Channels:
    """`count` connections; calls take turns on them. Neither requests nor replies are (de)serialised here.

    deadline: seconds that a call may take, from its sending
    """

    def __init__(self, target: str, *, token: str | None, ca: Path | None, count: int, deadline: float) -> None:
        self._target = target
        self._deadline = deadline
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels = [_channel(target, ca) for _ in range(count)]
        self._methods = [channel.unary_unary(SEARCH, None, None) for channel in self._channels]
        self._held: list[Any] = []

    def __enter__(self) -> Self:
        try:
            for channel in self._channels:
                grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            self.close()
            raise Unavailable(f"no radrank server answers at {self._target}; start it with: radrank serve") from None
        # While a call is open gRPC keeps the channel's polling thread. Starting one anew delays a send by 0.3 ms.
        self._held = [
            channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"", metadata=self._metadata)
            for channel in self._channels
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what is in flight and closes all channels."""
        for call in self._held:
            call.cancel()
        for channel in self._channels:
            channel.close()

    def future(self, number: int, request: bytes) -> Any:
        """Starts the call of this number and returns gRPC's future of it."""
        method: Any = self._methods[number % len(self._methods)]
        return method.future(request, timeout=self._deadline, metadata=self._metadata)

    def call(self, number: int, request: bytes) -> tuple[str, bytes]:
        """Waits for the call's (code, reply); the reply is empty where the code is not OK."""
        method: Any = self._methods[number % len(self._methods)]
        try:
            return OK, method(request, timeout=self._deadline, metadata=self._metadata)
        except grpc.RpcError as error:
            return error.code().name, b""

    def ask(self, request: bytes) -> bytes:
        """The reply to one request; raises the ClientError that says why there is none."""
        method: Any = self._methods[0]
        with translated(self._target):
            reply: bytes = method(request, timeout=self._deadline, metadata=self._metadata)
        return reply


def is_degraded(reply: bytes) -> bool:
    """Whether an OK reply is in the encoder's own order, since there was no time to re-rank."""
    return retrieval_pb2.SearchResponse.FromString(reply).degraded


def _channel(target: str, ca: Path | None) -> grpc.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.use_local_subchannel_pool", 1),  # otherwise all channels of a process share one connection
        ("grpc.enable_retries", 0),  # a request sent twice would be counted once
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ]
    if ca is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes()), options)
