"""Paired bootstrap over queries (Efron & Tibshirani 1993, §13.3): intervals of relative changes.

The same queries are drawn for both rows, so that what makes a query hard for both does not widen the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.evaluation.metrics import MEDIANS, Values, macro, scoped
from radrank.evaluation.results import Change, Scope

DRAWS = 1_000
COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """One row's values in every scope, and again in every draw.

    values: as measured, by scope and metric; draws: float64 [draws], by scope and metric
    """

    values: Mapping[Scope, Mapping[str, float]]
    draws: Mapping[Scope, Mapping[str, NDArray[np.float64]]]


def draw_counts(queries: int, *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """How often each query is drawn when as many as there are are drawn with replacement, float64 [draws, q]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(queries, np.full(queries, 1.0 / queries), size=draws).astype(np.float64)


def resample(values: Values, query_normal: NDArray[np.int8], counts: NDArray[np.float64]) -> Resampled:
    """values: float64 [q] by metric, averaged over seeds; counts: float64 [draws, q] of draw_counts.

    Macro is made anew in each draw, from the normal and the abnormal queries it drew.
    """
    names = list(values)
    table = np.stack([values[name] for name in names], axis=1)
    places = [place for place, name in enumerate(names) if name in MEDIANS]
    everyone, normal, abnormal = (
        _centres(table, counts * chosen, places)
        for chosen in (np.ones(len(table)), query_normal == 1, query_normal == -1)
    )
    found = {Scope.ALL: everyone, Scope.ABNORMAL: abnormal, Scope.MACRO: macro(normal, abnormal)}
    draws = {scope: {name: drawn[:, place] for place, name in enumerate(names)} for scope, drawn in found.items()}
    return Resampled(values=scoped(values, query_normal), draws=draws)


def changes(method: Resampled, reference: Resampled) -> dict[Scope, dict[str, Change]]:
    """Relative change of every metric in every scope; both rows must come from the same counts.

    The interval is that of the percentiles. From 0 to 0 is no change; from 0 to anything else is infinite, so that
    an interval says where a reference is too rare to compare with. A scope without queries is NaN.
    """
    return {
        scope: {
            name: _change(value, reference.values[scope][name], drawn, reference.draws[scope][name])
            for (name, value), drawn in zip(method.values[scope].items(), method.draws[scope].values(), strict=True)
        }
        for scope in method.values
    }


def paired_changes(
    method: Values, reference: Values, query_normal: NDArray[np.int8], *, draws: int = DRAWS, seed: int = 0
) -> dict[Scope, dict[str, Change]]:
    """Both rows resampled with the same draws, then `changes`."""
    counts = draw_counts(len(query_normal), draws=draws, seed=seed)
    return changes(resample(method, query_normal, counts), resample(reference, query_normal, counts))


def _centres(table: NDArray[np.float64], counts: NDArray[np.float64], medians: list[int]) -> NDArray[np.float64]:
    """Means float64 [draws, m] of table [q, m] weighted by counts [draws, q], medians in those columns; NaN for a draw
    that holds none of the scope's queries.
    """
    drawn = counts.sum(axis=1)
    found = np.full((len(counts), table.shape[1]), np.nan)
    np.divide(counts @ table, drawn[:, None], out=found, where=drawn[:, None] > 0)
    for column in medians:
        found[:, column] = _median(table[:, column], counts)
    return found


def _median(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of values [q] repeated counts [draws, q] times, float64 [draws]."""
    ascending = np.argsort(values, kind="stable")
    upto = counts[:, ascending].cumsum(axis=1)
    drawn = upto[:, -1]
    # The middle element, or the mean of the two in the middle: the place of an element is where upto passes it.
    middles = [(upto <= place[:, None]).sum(axis=1) for place in ((drawn - 1) // 2, drawn // 2)]
    lower, upper = (values[ascending][np.minimum(middle, len(values) - 1)] for middle in middles)
    return np.where(drawn > 0, (lower + upper) / 2.0, np.nan)


def _change(value: float, reference: float, drawn: NDArray[np.float64], against: NDArray[np.float64]) -> Change:
    # Order statistics rather than interpolation: infinities stay what they are. NaN sorts last and is left out.
    ordered = np.sort(_relative(drawn, against))
    last = int((~np.isnan(ordered)).sum()) - 1
    tail = (1.0 - COVERAGE) / 2.0
    low, high = ordered[int(np.floor(tail * last))], ordered[int(np.ceil((1.0 - tail) * last))]
    relative = _relative(np.array([value]), np.array([reference]))[0]
    return Change(relative=float(relative), low=float(low), high=float(high))


def _relative(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = values - reference
    from_zero = np.where(np.isnan(difference), np.nan, np.where(difference == 0.0, 0.0, np.inf))
    return np.divide(difference, reference, out=from_zero, where=reference != 0.0)
