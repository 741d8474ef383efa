"""Re-ranking by the neighbour graph of a gallery: k-reciprocal encoding and the training-free graph network.

The graph is the gallery's own, built once. A query joins it without a place of its own and without displacing anyone,
so that queries do not tell each other anything; its own entry, where it has one, is not its neighbour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import Matrix, Rows, top_k
from radrank.evaluation.metrics import Scores
from radrank.evaluation.trial import Banks, Trial

Found = NDArray[np.float64]

_ROUNDING = 1e-6  # of cosines: a query and its own entry are equally near to a third


def k_reciprocal(trial: Trial, banks: Banks, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Found:
    """−((1 − λ)·Jaccard distance of k-reciprocal sets + λ·distance) (Zhong et al., CVPR 2017).

    Distances are squared and relative to a row's largest, and a set's weights sum to one, as in the authors' code;
    sets are of gallery entries, an entry's own set with itself. weight: λ
    """
    inside = trial.gallery @ trial.gallery.T
    near = _nearest_entries(inside, k1)
    half = _nearest_entries(inside, max(1, k1 // 2))
    reciprocal, half_reciprocal = near & near.T, half & half.T
    query_near = _members(_nearest(trial, k1), trial.valid)
    query_reciprocal = query_near & _reached(trial, banks, inside, k1)

    entries = _encoded(_enlarged(reciprocal, half_reciprocal), _relative_distance(inside))
    distance = _relative_distance(trial.cosines)
    queries = _encoded(_enlarged(query_reciprocal, half_reciprocal) & trial.valid, distance)
    # Local expansion: the mean of a node's encoding and those of its k2 − 1 nearest.
    queries = (queries + _members(_nearest(trial, k2 - 1), trial.valid) @ entries) / k2
    entries = _nearest_entries(inside, k2 - 1) @ entries / k2
    return -((1.0 - weight) * (1.0 - _fuzzy_jaccard(queries, entries)) + weight * distance)


def gnn(trial: Trial, banks: Banks, *, k1: int = 20, k2: int = 5, alpha: float = 2.0, layers: int = 2) -> Found:
    """Cosine of nodes that take on their neighbours' rows of the adjacency (Zhang et al., arXiv 2012.07620).

    h⁰ = (A + Aᵀ)/2 of the k1 nearest, each with itself; each layer adds Σ cosᵅ·h of the k2 nearest and scales to unit
    length. Entries that share no neighbour with the query are not ranked.
    """
    inside = trial.gallery @ trial.gallery.T
    near = _nearest_entries(inside, k1).astype(np.float64)
    entries = (near + near.T) / 2.0
    query_near = _members(_nearest(trial, k1), trial.valid).astype(np.float64)
    queries = (query_near + (_reached(trial, banks, inside, k1) & trial.valid)) / 2.0

    others = _nearest_entries(inside, k2) & ~np.eye(len(inside), dtype=np.bool_)
    pull = np.where(others, np.clip(inside, 0.0, None), 0.0) ** alpha
    query_others = _members(_nearest(trial, k2), trial.valid)
    query_pull = np.where(query_others, np.clip(trial.cosines, 0.0, None), 0.0) ** alpha
    for _ in range(layers):
        queries, entries = _scaled(queries + query_pull @ entries), _scaled(entries + pull @ entries)
    scores = queries @ entries.T
    return np.where(scores > 0.0, scores, -np.inf)


def _nearest(trial: Trial, k: int) -> Rows:
    """The k nearest valid entries of every query, int64 [q, k]."""
    return top_k(np.where(trial.valid, trial.cosines, np.float32(-np.inf)), max(k, 1))[:, :k]


def _members(rows: Rows, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [r, n], true where an entry is among rows [r, k] and allowed."""
    chosen = np.zeros(allowed.shape, dtype=np.bool_)
    np.put_along_axis(chosen, rows, True, axis=1)
    return chosen & allowed


def _nearest_entries(inside: Matrix, k: int) -> NDArray[np.bool_]:
    """bool [n, n], true for an entry itself and its k nearest others."""
    first = inside.copy()
    np.fill_diagonal(first, np.inf)
    return _members(top_k(first, k + 1), np.ones(inside.shape, dtype=np.bool_))


def _reached(trial: Trial, banks: Banks, inside: Matrix, k: int) -> NDArray[np.bool_]:
    """bool [q, n], true where the query would be among an entry's k nearest: the other half of reciprocity.

    Within one modality, nearest of the gallery. Across modalities every entry is nearer to an entry than any query
    is, so the query stands among the bank's queries instead, and k is the same share of them.
    """
    if trial.source == trial.target:
        others = inside.copy()
        np.fill_diagonal(others, -np.inf)
    else:
        others = trial.gallery @ banks.queries.T
        k = round(k * len(banks.queries) / len(trial.gallery))
    k = min(max(k, 1), others.shape[1])
    edge = np.partition(others, -k, axis=1)[:, -k]
    reached: NDArray[np.bool_] = trial.cosines >= edge - _ROUNDING
    return reached


def _relative_distance(cosines: Scores) -> Found:
    """Squared distance of unit vectors over each row's largest, float64."""
    distance = 2.0 - 2.0 * np.minimum(cosines.astype(np.float64), 1.0)
    largest = distance.max(axis=1, keepdims=True)
    return distance / np.where(largest > 0.0, largest, 1.0)


def _enlarged(reciprocal: NDArray[np.bool_], half: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Adds a member's smaller set where two thirds of it are members already. bool [r, n] and [n, n]."""
    members, small = reciprocal.astype(np.float32), half.astype(np.float32)
    agreeing = reciprocal & (3.0 * (members @ small.T) >= 2.0 * small.sum(axis=1))
    enlarged: NDArray[np.bool_] = reciprocal | (agreeing.astype(np.float32) @ small > 0.0)
    return enlarged


def _encoded(members: NDArray[np.bool_], distance: Found) -> Found:
    """exp(−distance) over the members, each row's sum one; zero where there are none."""
    weights = np.where(members, np.exp(-distance), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return weights / np.where(total > 0.0, total, 1.0)


def _fuzzy_jaccard(left: Found, right: Found) -> Found:
    """Σ min / Σ max of every pair of rows, float64 [l, r]. One column at a time: few rows have one."""
    shared = np.zeros((len(left), len(right)))
    for column in range(left.shape[1]):
        own, others = np.flatnonzero(left[:, column]), np.flatnonzero(right[:, column])
        shared[np.ix_(own, others)] += np.minimum.outer(left[own, column], right[others, column])
    union = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - shared
    overlap: Found = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0)
    return overlap


def _scaled(rows: Found) -> Found:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0.0, lengths, 1.0)
