"""What the plots of one direction draw beyond its table: before and after re-ranking, by group and by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.evaluation.metrics import Scores, order, per_query
from radrank.evaluation.trial import Trial

BY_GROUP = "Strong MRR"


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """One direction, before (the embedding) and after re-ranking by `method`.

    groups: "normal" and the finding groups; counts: int64 [g], queries of each; before, after: float64 [g], BY_GROUP
    ranks: what is sought → (before, after), int64 [q] from 1, 0 where there is none; those of the first bundle
    """

    direction: str
    method: str
    groups: tuple[str, ...]
    counts: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    ranks: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def detail(
    trial: Trial,
    before: Sequence[Scores],
    after: Sequence[Scores],
    *,
    method: str,
    groups: Sequence[str],
    labels: NDArray[np.bool_],
) -> Detail:
    """before, after: scores, one array a seed; labels: bool [q, 1 + groups], the queries' own."""
    carried = labels.astype(np.float64)
    counts = carried.sum(axis=0)

    def means(seeds: Sequence[Scores]) -> NDArray[np.float64]:
        values = np.mean([per_query(trial, scores)[BY_GROUP] for scores in seeds], axis=0)
        found = np.full(len(counts), np.nan)
        np.divide(carried.T @ values, counts, out=found, where=counts > 0)
        return found

    def ranks(scores: Scores, relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
        found = np.take_along_axis(relevant & trial.valid, order(trial, scores), axis=1)
        return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)

    sought = {"first strong match": trial.strong}
    if trial.source != trial.target:
        sought["query's own study"] = trial.pair
    return Detail(
        direction=trial.name,
        method=method,
        groups=("normal", *groups),
        counts=counts.astype(np.int64),
        before=means(before),
        after=means(after),
        ranks={name: (ranks(before[0], found), ranks(after[0], found)) for name, found in sought.items()},
    )
