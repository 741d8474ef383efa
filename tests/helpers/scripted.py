"""A gRPC server whose searches do what a script says, to be loaded with requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from radrank.v1 import retrieval_pb2, types_pb2

_SERVING = b"\x08\x01"


@dataclass(frozen=True, kw_only=True)
class Act:
    """What becomes of a search: it takes `seconds`, and then fails with `code` or is answered."""

    seconds: float = 0.0
    code: grpc.StatusCode = grpc.StatusCode.OK
    degraded: bool = False


Script: TypeAlias = Callable[[int], Act]
"""By the search's number, from 0."""


@dataclass
class Scripted:
    """Where it listens, and how many searches it has seen, and has had at once."""

    address: str = ""
    searches: int = 0
    at_once: int = 0
    most_at_once: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> int:
        with self.guard:
            self.searches, self.at_once = self.searches + 1, self.at_once + 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return self.searches - 1

    def end(self) -> None:
        with self.guard:
            self.at_once -= 1


@contextmanager
def scripted(script: Script, *, workers: int = 16) -> Iterator[Scripted]:
    """Serves until the context ends; searches that still run are let go."""
    made = Scripted()
    provenance = types_pb2.Provenance(bundle_sha256="b" * 64, precision="fp32")

    def search(request: bytes, context: grpc.ServicerContext) -> bytes:
        act = script(made.begin())
        try:
            made.over.wait(act.seconds)
            if act.code is not grpc.StatusCode.OK:
                context.abort(act.code, "as the script says")
            return retrieval_pb2.SearchResponse(degraded=act.degraded, provenance=provenance).SerializeToString()
        finally:
            made.end()

    server = grpc.server(futures.ThreadPoolExecutor(workers))
    for service, method, handler in (
        ("radrank.v1.Retrieval", "Search", search),
        ("grpc.health.v1.Health", "Check", lambda request, context: _SERVING),
    ):
        handlers = {method: grpc.unary_unary_rpc_method_handler(handler)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        made.over.set()
        server.stop(0).wait()
