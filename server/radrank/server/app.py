"""The gRPC server: its port, its health, its start and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from radrank.core import heap
from radrank.core.errors import InvalidQuery
from radrank.server import kserve
from radrank.server.admission import Admission
from radrank.server.front import Front
from radrank.server.gate import Gate
from radrank.server.health import HealthServicer
from radrank.server.helpers.pool import Helpers
from radrank.server.library import Library
from radrank.server.servicers import ArchiveServicer, RetrievalServicer
from radrank.server.settings import Settings
from radrank.server.statuses import trace
from radrank.server.streams import Streams
from radrank.server.threads import Threads
from radrank.v1 import archive_pb2, archive_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

Result = TypeVar("Result")

SERVICES = (
    retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"].full_name,
    archive_pb2.DESCRIPTOR.services_by_name["Archive"].full_name,
)

_SPARE = 16  # threads beside those that compute: for what looks something up or changes the archive
_REFUSED = 1_000  # calls that may wait for their refusal: past it gRPC itself refuses
_LAST_SECONDS = 5.0  # for threads whose callers have gone
_LOOK = 0.25  # seconds after which the main thread looks whether a signal came

_log = logging.getLogger(__name__)


class Server:
    """Listens from the start, so that health can be asked; answers searches once a library is given.

    gRPC's event loop has a thread of its own; the methods here may be called from any other.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gate = Gate()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_say_where)
        self._thread = threading.Thread(target=self._loop.run_forever, name="front", daemon=True)
        self._listening: _Listening | None = None

    def start(self) -> str:
        """Binds and listens; returns the address, with the port that was chosen where 0 was asked for."""
        self._thread.start()
        self._listening = self._in_loop(_listen(self._settings, self._gate))
        return self._listening.address

    def serve(self, library: Library) -> None:
        """Answers from this library from now on."""
        self._gate.open(library)
        if self._listening is not None and not self._loop.is_closed():
            self._in_loop(self._listening.serve())

    def stop(self, grace: float) -> None:
        """Takes no more calls, and lets running ones finish for `grace` seconds."""
        if self._loop.is_closed():
            return
        if self._listening is not None:
            self._in_loop(self._listening.stop(grace))
        self._gate.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Listening:
    """What of a server lives in the event loop."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        limits = settings.limits
        self._streams = Streams(limits.streams)
        self._threads = Threads(limits.workers + limits.streams + _SPARE)
        self._helpers = Helpers(limits.helpers, log_style=settings.logs.format)
        front = Front(
            admission=Admission(in_flight=limits.in_flight, workers=limits.workers),
            streams=self._streams,
            threads=self._threads,
            helpers=self._helpers,
            token=settings.token(),
        )
        self._retrieval = retrieval = RetrievalServicer(gate, self._helpers.rerank)
        self._gate = gate
        front.add(retrieval_pb2_grpc.add_RetrievalServicer_to_server, retrieval, is_short=retrieval.is_short)
        front.add(archive_pb2_grpc.add_ArchiveServicer_to_server, ArchiveServicer(gate))
        services: tuple[str, ...] = SERVICES
        if kserve.is_installed():
            services = (*services, kserve.add_to(front, gate, retrieval))
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflecting = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined] # exported on Python 3 only
        front.add(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflecting)
        self._health = HealthServicer(("", *services))
        self._grpc = grpc.aio.server(
            handlers=[front],
            maximum_concurrent_rpcs=limits.in_flight + limits.streams + _REFUSED,
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port fails, instead of taking half of the calls
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self.address = self._bound(settings)

    async def start(self) -> None:
        await self._grpc.start()

    async def serve(self) -> None:
        self._health.set(serving=True)
        if self._retrieval.reranks_here():
            engines = self._gate.library.engines
            self._helpers.start(engines.path, engines.sha256)

    async def stop(self, grace: float) -> None:
        self._health.end()
        stopping = asyncio.create_task(self._grpc.stop(grace))
        await asyncio.sleep(0)  # no new calls from here on
        self._streams.drain()
        await stopping
        await self._helpers.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_LAST_SECONDS)
        self._threads.close()

    def _bound(self, settings: Settings) -> str:
        listen, certificates = settings.listen, settings.certificates()
        try:
            if certificates is None:
                port = self._grpc.add_insecure_port(listen)
            else:
                port = self._grpc.add_secure_port(listen, grpc.ssl_server_credentials([certificates]))
        except RuntimeError:
            raise InvalidQuery("listen", f"{listen} can't be bound: is another server running there?") from None
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


async def _listen(settings: Settings, gate: Gate) -> _Listening:
    made = _Listening(settings, gate)
    await made.start()
    return made


def _say_where(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """As the loop would log it, without an error's text: that may quote a report."""
    error = context.get("exception")
    _log.error("in the event loop: %s", context["message"] if error is None else trace(error))


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
            gc.collect()
            heap.give_back()  # what was read to be packed or checked
            gc.freeze()  # what is loaded stays: looking through it again and again would stop all calls meanwhile
            server.serve(library)
            announce(address, library)
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            events.put(error)

    loader = threading.Thread(target=loaded, name="load", daemon=True)
    loader.start()
    while (event := _heard(events)) == "reselect":
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


def _heard(events: queue.SimpleQueue[str | BaseException]) -> str | BaseException:
    """The next event. Called in the main thread, where Python runs what signals set off."""
    while True:
        # The kernel may hand a signal to any thread, which does not wake this one: it looks by itself.
        with suppress(queue.Empty):
            return events.get(timeout=_LOOK)


def _on_signals(stop: Callable[[], None]) -> None:
    asked: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if asked:
            os._exit(128 + number)  # every acknowledged write is on disk already
        asked.append(number)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
