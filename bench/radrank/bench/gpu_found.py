"""What `radrank bench gpu` found, and the time that it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from radrank.bench.gpu_card import Card
from radrank.bench.gpu_cells import Cell
from radrank.bench.gpu_serving import Load

CELL_SECONDS = 12.0  # more would tell no more
LEAST_SECONDS = 1.0  # of less, a cell's p99 means nothing
_TIMED = 0.6  # share of what is left that is spent on timing: the rest opens, captures and compiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One side in one cell. p50, p99: milliseconds over so many runs, numpy in to numpy out, copies included

    difference: largest from fp32 on the CPU; agreement: with the golden answers, and whether the gate lets it serve
    opened: seconds that this shape took before its first answer; reason: why there are no figures
    """

    side: str
    precision: str
    runtime: str = ""
    p50: float | None = None
    p99: float | None = None
    runs: int = 0
    difference: float | None = None
    agreement: str = ""
    passes: bool | None = None
    opened: float = 0.0
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One cell. reason: why it was left out"""

    cell: Cell
    rows: Sequence[Row] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """card: None where there is no GPU, and no_card says why."""

    date: str
    card: Card | None
    no_card: str
    bundle: str
    command: str
    machine: Mapping[str, str]
    measured: Sequence[Measured] = ()
    loads: Sequence[Load] = ()

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


class Budget:
    """Seconds to spend."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        return self._end - self._clock()

    def timing(self, waiting: int) -> float:
        """Seconds for the timing of the next cell, of so many that wait; 0 where too few are left.

        Where they don't suffice for all, the first cells get theirs: they are what is wanted most.
        """
        if _TIMED * self.left < LEAST_SECONDS:
            return 0.0
        return min(CELL_SECONDS, max(LEAST_SECONDS, _TIMED * self.left / waiting))

    def bears(self, seconds: float, waiting: int) -> bool:
        """Whether something may take so long, and all cells that wait still have their least."""
        return self.left - seconds >= waiting * LEAST_SECONDS / _TIMED
