"""What an evaluation found: plain values, made by `judge`, read by the tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Scope(StrEnum):
    """Over which queries a mean is taken. MACRO is the mean of the normal and the abnormal mean."""

    ALL = "all"
    ABNORMAL = "abnormal"
    MACRO = "macro"


class Family(StrEnum):
    """What kind of row it is, in the order of the tables."""

    FLOOR = "floor"  # random, all normal first
    EMBEDDING = "embedding"
    TRAINING_FREE = "training-free"
    CONTROL = "control"  # re-rankers without the graph, or with a broken one
    RERANKER = "re-ranker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A metric over seeds; low and high equal mean where there is one."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Relative change of a metric against another row (0.1 is +10 %), with its 95 % bootstrap interval."""

    relative: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method. Metrics and changes are keyed by scope, then by metric name (metrics.METRICS).

    matched: with the share of normals in the top 10 restored to that of the embedding
    changes: against the table's reference row
    """

    method: str
    family: Family
    matched: bool
    seeds: int
    metrics: Mapping[Scope, Mapping[str, Spread]]
    changes: Mapping[Scope, Mapping[str, Change]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One method against another that differs in one thing, such as a graph against its shuffled twin."""

    method: str
    against: str
    matched: bool
    changes: Mapping[Scope, Mapping[str, Change]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One direction. reference: the row that changes are relative to; queries: how many, by scope."""

    direction: str
    queries: Mapping[Scope, int]
    gallery: int
    reference: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """Normal or abnormal, told by one method. threshold: of the probability that calls a study abnormal."""

    method: str
    accuracy: float
    balanced_accuracy: float
    sensitivity: float
    specificity: float
    roc_auc: float | None
    calibration_error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything one evaluation found. title and notes: what was judged, on what, with which commands.

    leaks: by the name of a leak test whether it held: True is good, False means that something leaks
    """

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    screening: Mapping[str, tuple[Screened, ...]] = field(default_factory=dict)
    leaks: Mapping[str, bool] = field(default_factory=dict)
