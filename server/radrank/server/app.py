"""The gRPC server: its port, its health, its start and its end."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from radrank.core.errors import InvalidQuery
from radrank.server import kserve
from radrank.server.admission import Admission
from radrank.server.gate import Gate
from radrank.server.interceptors import interceptors
from radrank.server.kserve.arrivals import Arrivals
from radrank.server.library import Library
from radrank.server.servicers import ArchiveServicer, RetrievalServicer
from radrank.server.settings import Settings
from radrank.server.statuses import trace
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

SERVICES = (
    retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"].full_name,
    archive_pb2.DESCRIPTOR.services_by_name["Archive"].full_name,
)

_SPARE = 16  # threads beside those of admitted calls
_REFUSED = 1_000  # calls that may wait for their refusal: past it gRPC itself refuses

_log = logging.getLogger(__name__)


class Server:
    """Listens from the start, so that health can be asked; answers searches once a library is given."""

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self._gate = Gate(streams=limits.streams)
        admission = Admission(in_flight=limits.in_flight, workers=limits.workers)
        self._health = health.HealthServicer()
        self._settings = settings
        self._grpc = grpc.server(
            # A thread for all that may be open, and some to refuse the rest and to answer health checks at any time.
            ThreadPoolExecutor(limits.in_flight + limits.streams + _SPARE, thread_name_prefix="call"),
            interceptors=[Arrivals(kserve.INFER), *interceptors(settings.token(), admission)],
            maximum_concurrent_rpcs=limits.in_flight + limits.streams + _REFUSED,
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port fails, instead of taking half of the calls
            ],
        )
        retrieval = RetrievalServicer(self._gate, admission)
        retrieval_pb2_grpc.add_RetrievalServicer_to_server(retrieval, self._grpc)  # type: ignore[no-untyped-call]
        archive_pb2_grpc.add_ArchiveServicer_to_server(ArchiveServicer(self._gate), self._grpc)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._services: tuple[str, ...] = SERVICES
        if kserve.is_installed():
            added = kserve.add_to(self._grpc, gate=self._gate, admission=admission, search=retrieval.Search)
            self._services = (*SERVICES, added)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    def start(self) -> str:
        """Binds and listens; returns the address, with the port that was chosen where 0 was asked for."""
        listen = self._settings.listen
        try:
            port = self._bind(listen)
        except RuntimeError:
            raise InvalidQuery("listen", f"{listen} can't be bound: is another server running there?") from None
        self._grpc.start()
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    def serve(self, library: Library) -> None:
        """Answers from this library from now on."""
        self._gate.open(library)
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> None:
        """Takes no more calls, and lets running ones finish for `grace` seconds."""
        self._health.enter_graceful_shutdown()
        stopped = self._grpc.stop(grace)
        self._gate.drain()
        stopped.wait()
        self._gate.shut()

    def _bind(self, listen: str) -> int:
        certificates = self._settings.certificates()
        if certificates is None:
            return self._grpc.add_insecure_port(listen)
        return self._grpc.add_secure_port(listen, grpc.ssl_server_credentials([certificates]))

    def _set_health(self, status: Any) -> None:
        for name in ("", *self._services):
            self._health.set(name, status)


def run(
    settings: Settings,
    load: Callable[[], Library],
    announce: Callable[[str, Library], None],
    reselect: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what runs; a second signal ends the process at once.

    load: opens and warms what is served, and may take its time; its errors are raised here
    reselect: called on SIGHUP, looks for better engines while calls go on
    announce: called with the address when the server is SERVING
    """
    # Signals and the loader both speak through this queue: the main thread must be free to hear a signal at any time.
    events: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
    libraries: list[Library] = []
    server = Server(settings)
    _on_signals(lambda: events.put("stop"))
    signal.signal(signal.SIGHUP, lambda _number, _frame: events.put("reselect"))
    address = server.start()
    if settings.is_exposed:
        _log.warning("%s can be reached from other machines without a token and TLS: set token_file and [tls]", address)

    def loaded() -> None:
        try:
            library = load()
            libraries.append(library)
            server.serve(library)
            announce(address, library)
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            events.put(error)

    loader = threading.Thread(target=loaded, name="load", daemon=True)
    loader.start()
    while (event := events.get()) == "reselect":
        try:
            reselect()
        except Exception as error:  # noqa: BLE001 - what serves goes on serving
            _log.error("engines were not chosen anew: %s", trace(error))
    _log.info("stopping: running calls have %g s to finish", settings.drain_seconds)
    server.stop(settings.drain_seconds)
    loader.join(settings.drain_seconds)
    for library in libraries:
        library.close()
    if isinstance(event, BaseException):
        raise event


def _on_signals(stop: Callable[[], None]) -> None:
    asked: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if asked:
            os._exit(128 + number)  # every acknowledged write is on disk already
        asked.append(number)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
