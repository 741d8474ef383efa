"""What was sent and what came back, written down while a run lasts and read when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from radrank.bench.load.channels import OK

GLANCE_SECONDS = 0.5


class Reply(NamedTuple):
    """due: when the request was planned to be sent (open loop) or was sent (closed loop). Times in seconds."""

    due: float
    ended: float
    code: str
    degraded: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """A run in progress. p99_ms: of the OK replies since the last glance, None without any."""

    elapsed: float
    sent: int
    ok: int
    failed: int
    skipped: int
    in_flight: int
    p99_ms: float | None


Watch: TypeAlias = Callable[[Glance], None]


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Appending is all that a run does, from any thread; lists need no lock for that.

    start: when the measured part begins; what was due before is warm-up
    lags: seconds from planned to handed to gRPC, for every measured request of an open loop
    skipped: when requests were due that were not sent, since too many were in flight
    cpu: processor seconds of this process
    """

    start: float
    sent: int = 0
    replies: list[Reply] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.sent - len(self.replies)


@contextmanager
def watched(ledger: Ledger, watch: Watch | None) -> Iterator[None]:
    """Gives `watch` a glance every half second, from a thread of its own, and counts the processor time."""
    over = threading.Event()

    def glances() -> None:
        assert watch is not None
        seen = ok = 0
        while not over.wait(GLANCE_SECONDS):
            fresh = ledger.replies[seen:]
            waits = [reply.ended - reply.due for reply in fresh if reply.code == OK]
            seen, ok = seen + len(fresh), ok + len(waits)
            watch(
                Glance(
                    elapsed=time.perf_counter() - ledger.start,
                    sent=ledger.sent,
                    ok=ok,
                    failed=seen - ok,
                    skipped=len(ledger.skipped),
                    in_flight=ledger.in_flight,
                    p99_ms=float(np.percentile(waits, 99)) * 1e3 if waits else None,
                )
            )

    thread = threading.Thread(target=glances, name="glances", daemon=True)
    if watch is not None:
        thread.start()
    before = time.process_time()
    try:
        yield
    finally:
        ledger.cpu = time.process_time() - before
        over.set()
        if watch is not None:
            thread.join()
