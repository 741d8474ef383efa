"""From a server's address to a report: requests are made, rates are run, files are written."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from radrank.bench.load.arrivals import poisson
from radrank.bench.load.channels import Channels
from radrank.bench.load.ledger import Watch
from radrank.bench.load.loops import closed_loop, open_loop
from radrank.bench.load.questions import serialised
from radrank.bench.load.report import Report, save
from radrank.bench.load.results import AUTO, CLOSED, Plan, Run, summed
from radrank.bench.load.scheduling import NORMAL, prompt
from radrank.bench.load.sweep import sweep
from radrank.client.client import Client
from radrank.core.errors import InvalidQuery
from radrank.v1 import retrieval_pb2

PACKAGES = ("radrank", "grpcio", "protobuf", "hdrhistogram", "numpy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """rates: words of --rate, none for a closed loop of `clients`. deadline: seconds. The rest: `bench load --help`."""

    server: str
    token: str | None = None
    ca: Path | None = None
    rates: tuple[str, ...] = ()
    clients: int | None = None
    kind: str = "text"
    queries: Path | None = None
    target: str | None = None
    reranker: str | None = None
    k: int = 10
    candidates: int = 0
    allow_degraded: bool = False
    seconds: float = 30.0
    warm_up: float = 3.0
    deadline: float = 10.0
    objective_ms: float = 50.0
    in_flight: int = 1000
    channels: int = 4
    seed: int = 0
    out: Path
    command: str = ""

    def __post_init__(self) -> None:
        if bool(self.rates) == (self.clients is not None):
            raise InvalidQuery("rate", "give either rates (an open loop) or clients (a closed one)")


class Progress:
    """Shows nothing. What a session tells while it runs."""

    def started(self, plan: Plan) -> Watch | None:  # noqa: ARG002 - for those who show it
        """A run begins; what is returned is given glances of it."""
        return None

    def ended(self, run: Run) -> None:
        """A run is over."""


def load(options: Options, progress: Progress | None = None) -> Report:
    """Runs everything that is asked for; the files are written anew after each run.

    Raises ClientError where the server does not answer as it should before the first run, InvalidQuery, NotFound.
    """
    progress = progress or Progress()
    with ExitStack() as stack:
        # Before anything of gRPC starts a thread. Clients of a closed loop get no such favour: they share the cores.
        scheduling = stack.enter_context(prompt()) if options.rates else NORMAL
        session = _Session(options, scheduling, stack)
        about = session.about()
        report = Report(about=about, objective_ms=options.objective_ms, runs=())
        for run in session.runs(progress):
            report = Report(about=about, objective_ms=options.objective_ms, runs=(*report.runs, run))
            save(report, options.out)
        return report


class _Session:
    def __init__(self, options: Options, scheduling: str, stack: ExitStack) -> None:
        self._options = options
        self._scheduling = scheduling
        self._started = datetime.now(UTC)
        with Client(options.server, token=options.token, ca=options.ca, timeout=60.0) as client:
            client.wait_until_serving(10.0)
            self._requests = serialised(
                client,
                options.kind,
                options.queries,
                allow_degraded=options.allow_degraded,
                k=options.k,
                candidates=options.candidates,
                reranker=options.reranker,
                target=options.target,
            )
        self._channels = stack.enter_context(
            Channels(
                options.server,
                token=options.token,
                ca=options.ca,
                count=options.channels,
                deadline=options.deadline,
            )
        )
        self._first = retrieval_pb2.SearchResponse.FromString(self._channels.ask(self._requests[0]))

    def runs(self, progress: Progress) -> Iterator[Run]:
        options = self._options
        if options.clients is not None:
            plan = self._plan(asked=CLOSED, clients=options.clients)
            yield self._run(plan, progress, self._closed)
            return
        first = self._first_rate() if AUTO in options.rates else 0.0
        yield from sweep(options.rates, partial(self._at_rate, progress), options.objective_ms, first=first)

    def _at_rate(self, progress: Progress, asked: str, rate: float) -> Run:
        return self._run(self._plan(asked=asked, rate=rate), progress, self._open)

    def _first_rate(self) -> float:
        """Half of what one client that waits for its answers gets: a rate that the server ought to keep up with."""
        taken = []
        for request in islice(cycle(self._requests), _ALONE):
            start = time.perf_counter()
            self._channels.ask(request)
            taken.append(time.perf_counter() - start)
        return 0.5 / median(taken)

    def _plan(self, *, asked: str, rate: float | None = None, clients: int | None = None) -> Plan:
        seconds = self._options.seconds
        if asked == AUTO and rate is not None:
            seconds = max(seconds, _LEAST_PLANNED / rate)  # of fewer, one late reply decides
        return Plan(asked=asked, rate=rate, clients=clients, seconds=seconds, warm_up=self._options.warm_up)

    def _run(self, plan: Plan, progress: Progress, loop: Callable[..., Any]) -> Run:
        ledger = loop(plan, watch=progress.started(plan), warm_up=plan.warm_up)
        run = summed(plan, ledger, scheduling=self._scheduling)
        progress.ended(run)
        return run

    def _open(self, plan: Plan, **common: Any) -> Any:
        assert plan.rate is not None
        times = poisson(plan.rate, plan.warm_up + plan.seconds, seed=self._options.seed)
        limit, deadline = self._options.in_flight, self._options.deadline
        return open_loop(self._channels, self._requests, times, in_flight=limit, deadline=deadline, **common)

    def _closed(self, plan: Plan, **common: Any) -> Any:
        assert plan.clients is not None
        return closed_loop(self._channels, self._requests, clients=plan.clients, seconds=plan.seconds, **common)

    def about(self) -> dict[str, Any]:
        """What the report says beside its figures."""
        made = self._first.provenance
        options = self._options
        settings = {
            "loop": "closed" if options.clients is not None else "open, Poisson arrivals",
            "rates": list(options.rates),
            **{name: getattr(options, name) for name in _SETTINGS},
            "deadline_ms": options.deadline * 1e3,
            "distinct_requests": len(set(self._requests)),
            "tls": options.ca is not None,
        }
        return {
            "command": options.command,
            "started": self._started.isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
            "machine": {"system": platform.system(), "cores": os.cpu_count(), "processor": _processor()},
            "server": {"address": options.server} | {name: getattr(made, name) for name in _PROVENANCE},
            "settings": settings,
        }


_SETTINGS = (
    "clients",
    "kind",
    "target",
    "reranker",
    "k",
    "candidates",
    "allow_degraded",
    "seconds",
    "warm_up",
    "in_flight",
    "channels",
    "seed",
)
_ALONE = 20
_LEAST_PLANNED = 300
_PROVENANCE = ("snapshot_sha256", "bundle_sha256", "reranker", "precision", "runtime", "archive_sequence")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return "not installed"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
