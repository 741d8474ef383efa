"""What a run came to. Latencies are in milliseconds here, and in microseconds in their histograms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram

from radrank.bench.load.channels import OK
from radrank.bench.load.ledger import Ledger, Reply

LONGEST_US = 60_000_000
DIGITS = 3
LAG = "lag"
LAG_LIMIT_MS = 1.0

AUTO, CLOSED = "auto", "closed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Percentiles of `count` times, in milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rate, or one number of clients.

    asked: the word of --rate that this run is for, CLOSED for a closed loop
    planned: requests of the measured part; always ok + the sum of errors + skipped + lost
    errors: by gRPC code; lost: neither answered nor failed a second after the deadline
    offered: planned per second, None for a closed loop; achieved: OK replies that came in the measured part, per second
    degraded: share of the OK replies, None without any
    latency: by code, from the planned time (closed loop: from the sending)
    lag: how late this process handed requests to gRPC; None for a closed loop
    p99_of_planned: as if all that was not answered OK had taken forever; None for forever
    void: why the run counts for nothing, "" where it counts
    histograms: by code, and LAG; in microseconds, longer ones than LONGEST_US counted as that
    """

    name: str
    asked: str
    rate: float | None
    clients: int | None
    seconds: float
    warm_up: float
    planned: int
    ok: int
    errors: Mapping[str, int]
    skipped: int
    lost: int
    offered: float | None
    achieved: float
    degraded: float | None
    latency: Mapping[str, Latency]
    lag: Latency | None
    p99_of_planned: float | None
    cpu_seconds: float
    scheduling: str
    void: str
    histograms: Mapping[str, HdrHistogram] = field(repr=False, compare=False)

    def meets(self, objective_ms: float) -> bool:
        """The run counts, and 99 in 100 of all planned requests were answered OK within the objective."""
        return not self.void and self.p99_of_planned is not None and self.p99_of_planned <= objective_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run is asked to do. One of rate (per second) and clients is None."""

    asked: str
    rate: float | None = None
    clients: int | None = None
    seconds: float
    warm_up: float

    @property
    def name(self) -> str:
        return f"clients-{self.clients}" if self.rate is None else f"rate-{self.rate:.6g}"


def histogram(seconds: Iterable[float]) -> HdrHistogram:
    """These times in microseconds."""
    made = HdrHistogram(1, LONGEST_US, DIGITS)
    for value, count in Counter(min(round(one * 1e6), LONGEST_US) for one in seconds).items():
        made.record_value(value, count)
    return made


def latency(of: HdrHistogram) -> Latency:
    """The histogram's summary; of one with a count above zero."""
    # A bucket's upper end may pass the largest time in it.
    values = {p: min(value, of.max_value) / 1e3 for p, value in of.get_percentile_to_value_dict(_PERCENTILES).items()}
    p50, p90, p99, p99_9 = (values[p] for p in _PERCENTILES)
    return Latency(
        count=of.total_count,
        mean=of.get_mean_value() / 1e3,
        p50=p50,
        p90=p90,
        p99=p99,
        p99_9=p99_9,
        max=of.max_value / 1e3,
    )


_PERCENTILES = [50, 90, 99, 99.9]


def summed(plan: Plan, ledger: Ledger, *, scheduling: str) -> Run:
    """The run that a ledger tells of."""
    end = ledger.start + plan.seconds
    measured = [reply for reply in ledger.replies if reply.due >= ledger.start]
    by_code: dict[str, list[Reply]] = {}
    for reply in measured:
        by_code.setdefault(reply.code, []).append(reply)
    answered = by_code.get(OK, [])
    histograms = {
        code: histogram(reply.ended - reply.due for reply in replies) for code, replies in sorted(by_code.items())
    }
    latencies = {code: latency(one) for code, one in histograms.items()}
    skipped = sum(due >= ledger.start for due in ledger.skipped)
    is_open = plan.rate is not None
    planned = len(ledger.lags) if is_open else len(measured)
    if ledger.lags:
        histograms[LAG] = histogram(ledger.lags)
    lag = latency(histograms[LAG]) if ledger.lags else None
    return Run(
        name=plan.name,
        asked=plan.asked,
        rate=plan.rate,
        clients=plan.clients,
        seconds=plan.seconds,
        warm_up=plan.warm_up,
        planned=planned,
        ok=len(answered),
        errors={code: len(replies) for code, replies in sorted(by_code.items()) if code != OK},
        skipped=skipped,
        lost=planned - len(measured) - skipped,
        offered=planned / plan.seconds if is_open else None,
        achieved=sum(reply.code == OK and ledger.start <= reply.ended < end for reply in ledger.replies) / plan.seconds,
        degraded=sum(reply.degraded for reply in answered) / len(answered) if answered else None,
        latency=latencies,
        lag=lag,
        p99_of_planned=_p99_of_planned([reply.ended - reply.due for reply in answered], planned),
        cpu_seconds=ledger.cpu,
        scheduling=scheduling,
        void=_void(lag, planned),
        histograms=histograms,
    )


def _p99_of_planned(waits: list[float], planned: int) -> float | None:
    rank = math.ceil(0.99 * planned)
    if not 0 < rank <= len(waits):
        return None
    return float(np.partition(waits, rank - 1)[rank - 1]) * 1e3


def _void(lag: Latency | None, planned: int) -> str:
    if not planned:
        return "no request was due: measure for longer, or at a higher rate"
    if lag is not None and lag.p99 > LAG_LIMIT_MS:
        return (
            f"this process sent {lag.p99:.2f} ms late at p99, more than {LAG_LIMIT_MS:g} ms: "
            "give it cores of its own, or run it as root for real-time scheduling"
        )
    return ""
