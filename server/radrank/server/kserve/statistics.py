"""How often each model was asked, and what its stages took. Counted since the server started."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

QUEUE, INPUT, INFER, OUTPUT = "queue", "compute_input", "compute_infer", "compute_output"
SUCCESS, FAIL = "success", "fail"
STAGES = (QUEUE, INPUT, INFER, OUTPUT)


@dataclass(frozen=True, slots=True)
class Total:
    """count: requests; ns: what they took together."""

    count: int = 0
    ns: int = 0

    def plus(self, ns: int) -> Total:
        return Total(self.count + 1, self.ns + ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Of one model. last: milliseconds since 1970, 0 for never; inferences: requests, a batch counted by its items.

    totals: by stage, and of success and fail; batches: by batch size and stage
    """

    last: int = 0
    inferences: int = 0
    executions: int = 0
    totals: Mapping[str, Total] = field(default_factory=dict)
    batches: Mapping[int, Mapping[str, Total]] = field(default_factory=dict)


class _Counter:
    def __init__(self) -> None:
        self.last = self.inferences = self.executions = 0
        self.totals: defaultdict[str, Total] = defaultdict(Total)
        self.batches: defaultdict[int, defaultdict[str, Total]] = defaultdict(lambda: defaultdict(Total))


class Statistics:
    """Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._models: defaultdict[str, _Counter] = defaultdict(_Counter)

    def succeeded(self, model: str, *, batch: int, stages: Mapping[str, int]) -> None:
        """One request was answered. stages: nanoseconds of each of STAGES."""
        with self._guard:
            counter = self._models[model]
            counter.last = time.time_ns() // 1_000_000
            counter.inferences += batch
            counter.executions += 1
            counter.totals[SUCCESS] = counter.totals[SUCCESS].plus(sum(stages.values()))
            for stage, ns in stages.items():
                counter.totals[stage] = counter.totals[stage].plus(ns)
                if stage != QUEUE:
                    counter.batches[batch][stage] = counter.batches[batch][stage].plus(ns)

    def failed(self, model: str, ns: int) -> None:
        """One request was refused, or went wrong, after so many nanoseconds."""
        with self._guard:
            totals = self._models[model].totals
            totals[FAIL] = totals[FAIL].plus(ns)

    def of(self, model: str) -> Counts:
        """As they are now."""
        with self._guard:
            counter = self._models[model]
            return Counts(
                last=counter.last,
                inferences=counter.inferences,
                executions=counter.executions,
                totals=dict(counter.totals),
                batches={size: dict(totals) for size, totals in sorted(counter.batches.items())},
            )
