"""How well one order of the gallery serves each query, and the means of that over the three scopes.

Scores are float [q, n], higher is better. Ties are broken by entry; entries that are not valid never rank; entries
without a finite score were not ranked by the method and stand behind those that were, by the embedding's cosine.
A query without any relevant entry counts 0, and the rank of its pair is that behind the last entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.relevance import PAIR_GAIN, STRONG_GAIN, WEAK_GAIN, ndcg, reciprocal_rank
from radrank.core.vectors import top_k
from radrank.evaluation.results import Scope
from radrank.evaluation.trial import Trial

Scores = NDArray[np.floating[Any]]
Values = Mapping[str, NDArray[np.float64]]  # float64 [q] by metric

# Of the pair, where source and target differ: an image's own entry is no answer to the image.
PAIR_METRICS = ("R@1", "R@5", "R@10", "MRR", "median rank")
METRICS = (
    *PAIR_METRICS,
    "Strong MRR",
    "Strong P@10",
    "Strong mAP@10",
    "Strong mAP@20",
    "Weak P@10",
    "nDCG@10",
    "Jaccard@10",
    "normals@10",
)
# Of these a query's value is a rank, and a scope's is the median of ranks, not their mean. Lower is better.
MEDIANS = frozenset({"median rank"})

_SHOWN = 10


def completed(scores: Scores, cosines: Scores) -> NDArray[np.float64]:
    """Places the entries that a method did not rank (no finite score) behind those it did, by cosine.

    scores and cosines are [.., n]; returns finite float64 of the same shape, with the finite scores as they were.
    """
    ranked = np.isfinite(scores)
    wide = np.where(ranked, scores, np.inf).astype(np.float64)
    lowest = wide.min(axis=-1, keepdims=True)
    behind = np.where(np.isfinite(lowest), lowest, 0.0) - 2.0 + cosines  # a cosine is at most 1
    return np.where(ranked, wide, behind)


def order(trial: Trial, scores: Scores) -> NDArray[np.int64]:
    """Entries int64 [q, n], best first; those that are not valid come last."""
    return np.argsort(-_placed(trial, scores), axis=1, kind="stable")


def normals_share(trial: Trial, scores: Scores, k: int = _SHOWN) -> NDArray[np.float64]:
    """Share of normal entries among each query's k best, float64 [q]."""
    best = top_k(_placed(trial, scores), k)  # type: ignore[arg-type]
    return _share((trial.gallery_normal == 1)[best], np.take_along_axis(trial.valid, best, axis=1))


def per_query(trial: Trial, scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Every metric of METRICS that the trial has, float64 [q] each; those of the pair only across modalities."""
    ranked = order(trial, scores)

    def seen(values: NDArray[Any], depth: int | None = None) -> NDArray[Any]:
        return np.take_along_axis(values, ranked[:, :depth], axis=1)

    valid = trial.valid
    shown = seen(valid, _SHOWN)
    strong, weak = trial.strong & valid, trial.weak & valid
    found = seen(strong)
    values = _pair_values(seen(trial.pair & valid)) if trial.source != trial.target else {}
    values["Strong MRR"] = reciprocal_rank(found)
    values["Strong P@10"] = _share(found[:, :_SHOWN], shown)
    values["Strong mAP@10"] = average_precision(found, 10)
    values["Strong mAP@20"] = average_precision(found, 20)
    values["Weak P@10"] = _share(seen(weak, _SHOWN), shown)
    gains = _gains(trial)
    # Only the largest gains make the ideal order, and picking them is cheaper than sorting all.
    ideal = -np.partition(-gains, min(_SHOWN, gains.shape[1]) - 1, axis=1)[:, :_SHOWN]
    values["nDCG@10"] = ndcg(seen(gains, _SHOWN), ideal, _SHOWN)
    values["Jaccard@10"] = _share(seen(trial.jaccard, _SHOWN), shown)
    values["normals@10"] = _share((trial.gallery_normal == 1)[ranked[:, :_SHOWN]], shown)
    return values


def average_precision(relevant: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Average precision among the first k, over min(k, relevant) (Manning et al. 2008, §8.4, cut at k).

    relevant: bool [q, n], the whole gallery in ranked order. Returns float64 [q], 0 where nothing is relevant.
    """
    head = relevant[:, :k]
    precision = head.cumsum(axis=1) / np.arange(1, head.shape[1] + 1)
    reachable = np.minimum(relevant.sum(axis=1), k)
    average: NDArray[np.float64] = (precision * head).sum(axis=1) / np.maximum(reachable, 1)
    return average


def scoped(values: Values, query_normal: NDArray[np.int8]) -> dict[Scope, dict[str, float]]:
    """Means over all queries, over the abnormal ones, and the mean of the normal and the abnormal mean.

    Of MEDIANS it is the median in place of the mean, and macro is the mean of two medians. Queries of unknown status
    count among all only. A scope without queries is NaN; macro with only one of its two halves is that half.
    """
    found: dict[Scope, dict[str, float]] = {scope: {} for scope in Scope}
    for name, value in values.items():
        centre = np.median if name in MEDIANS else np.mean
        halves = [float(centre(value[half])) if half.any() else float("nan") for half in _halves(query_normal)]
        found[Scope.ALL][name] = float(centre(value)) if len(value) else float("nan")
        found[Scope.ABNORMAL][name] = halves[1]
        found[Scope.MACRO][name] = float(macro(np.array(halves[:1]), np.array(halves[1:]))[0])
    return found


def macro(normal: NDArray[np.float64], abnormal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of both, elementwise; where one is NaN, the other."""
    normal, abnormal = np.where(np.isnan(normal), abnormal, normal), np.where(np.isnan(abnormal), normal, abnormal)
    return (normal + abnormal) / 2.0


def _halves(query_normal: NDArray[np.int8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return query_normal == 1, query_normal == -1


def _placed(trial: Trial, scores: Scores) -> NDArray[np.float64]:
    """Scores to sort by: finite where the entry is valid, −inf where it is not."""
    placed = completed(np.where(trial.valid, scores, -np.inf), trial.cosines)
    return np.where(trial.valid, placed, -np.inf)


def _pair_values(found: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """found: bool [q, n], where the pair stands in ranked order."""
    behind = found.shape[1] + 1.0
    there = found.any(axis=1)
    rank = np.where(there, found.argmax(axis=1) + 1.0, behind)
    values = {f"R@{k}": (there & (rank <= k)).astype(np.float64) for k in (1, 5, 10)}
    values["MRR"] = reciprocal_rank(found)
    values["median rank"] = rank
    return values


def _share(values: NDArray[Any], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean [q] of values [q, k] over the entries shown; a gallery may hold fewer valid entries than k."""
    total = np.where(shown, values, 0.0).sum(axis=1, dtype=np.float64)
    share: NDArray[np.float64] = total / np.maximum(shown.sum(axis=1), 1)
    return share


def _gains(trial: Trial) -> NDArray[np.float32]:
    """As core.relevance.gains, from the trial's own relevance: float32 [q, n], 0 for entries that are not valid."""
    graded = np.where(trial.strong, STRONG_GAIN, np.where(trial.weak, WEAK_GAIN, 0.0))
    return np.where(trial.valid, np.where(trial.pair, PAIR_GAIN, graded), 0.0).astype(np.float32)
