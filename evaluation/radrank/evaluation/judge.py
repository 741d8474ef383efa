"""Judges the methods of one trial: every metric, every scope, with spreads over seeds and intervals over queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch, NotFound
from radrank.evaluation.bootstrap import DRAWS, Resampled, changes, draw_counts, resample
from radrank.evaluation.metrics import Scores, per_query, scoped
from radrank.evaluation.results import Comparison, Family, Row, Scope, Spread, Table
from radrank.evaluation.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What is to be judged. A method and its matched twin share the name.

    scores: float [q, n], one array a seed; −inf or NaN where the method did not rank (`metrics.completed`)
    """

    name: str
    family: Family
    matched: bool
    scores: tuple[Scores, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    judged: Judged
    spreads: Mapping[Scope, Mapping[str, Spread]]
    resampled: Resampled


def judge(
    trial: Trial,
    methods: Sequence[Judged],
    *,
    reference: str,
    comparisons: Sequence[tuple[str, str]] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Table:
    """Rows in the order given. Changes are of each query's mean over seeds, and drawn from the same queries throughout.

    reference: the name of the row, not matched, that all are compared with; comparisons: (method, against), made
    between the rows as they are and again between their matched twins, where both have one. Raises NotFound where
    nothing has such a name, Mismatch where two rows have the same.
    """
    counts = draw_counts(len(trial.queries), draws=draws, seed=seed)
    measured = {(one.name, one.matched): _measure(trial, one, counts) for one in methods}
    if len(measured) < len(methods):
        raise Mismatch("names of the methods", "each once, and once matched", _names(methods))
    if (reference, False) not in measured:
        raise NotFound("reference row", hint=_names(methods))
    base = measured[reference, False].resampled
    known = np.count_nonzero(trial.query_normal)
    return Table(
        direction=trial.name,
        queries={
            Scope.ALL: len(trial.queries),
            Scope.ABNORMAL: int(np.count_nonzero(trial.query_normal == -1)),
            Scope.MACRO: int(known),
        },
        gallery=len(trial.gallery),
        reference=reference,
        rows=tuple(
            Row(
                method=one.judged.name,
                family=one.judged.family,
                matched=one.judged.matched,
                seeds=len(one.judged.scores),
                metrics=one.spreads,
                changes=changes(one.resampled, base),
            )
            for one in measured.values()
        ),
        comparisons=tuple(found for pair in comparisons for found in _compared(pair, measured, methods)),
    )


def _measure(trial: Trial, judged: Judged, counts: NDArray[np.float64]) -> _Measured:
    seeds = [per_query(trial, scores) for scores in judged.scores]
    means = [scoped(values, trial.query_normal) for values in seeds]
    averaged = {name: np.mean([values[name] for values in seeds], axis=0) for name in seeds[0]}
    spreads = {scope: {name: _spread([mean[scope][name] for mean in means]) for name in averaged} for scope in Scope}
    return _Measured(judged=judged, spreads=spreads, resampled=resample(averaged, trial.query_normal, counts))


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=float(np.mean(values)), low=min(values), high=max(values))


def _compared(
    pair: tuple[str, str], measured: Mapping[tuple[str, bool], _Measured], methods: Sequence[Judged]
) -> Iterator[Comparison]:
    method, against = pair
    twins = [matched for matched in (False, True) if {(method, matched), (against, matched)} <= measured.keys()]
    if not twins:
        raise NotFound("pair of rows to compare", hint=_names(methods))
    for matched in twins:
        found = changes(measured[method, matched].resampled, measured[against, matched].resampled)
        yield Comparison(method=method, against=against, matched=matched, changes=found)


def _names(methods: Sequence[Judged]) -> str:
    return "there are " + ", ".join(dict.fromkeys(one.name for one in methods))
