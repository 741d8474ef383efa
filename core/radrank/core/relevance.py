"""How relevant one study is to another, and how good an order is.

Pair: the same study. Strong: identical sets of finding groups, two normal studies included. Weak: at least one shared
group, or both normal. Jaccard: the overlap of the sets. A study of unknown status is relevant to nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radrank.core.studies import Study

PAIR_GAIN, STRONG_GAIN, WEAK_GAIN = 3.0, 2.0, 1.0

_NORMAL = "normal"


def label_matrix(studies: Sequence[Study], groups: Sequence[str]) -> NDArray[np.bool_]:
    """bool [studies, 1 + groups]: normal first, then one column a finding group."""
    columns = {group: place for place, group in enumerate(groups, start=1)}
    matrix = np.zeros((len(studies), 1 + len(groups)), dtype=np.bool_)
    for row, study in enumerate(studies):
        matrix[row, 0] = study.normal is True
        for label in study.labels:
            matrix[row, columns[label]] = True
    return matrix


def jaccard(queries: NDArray[np.bool_], gallery: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Overlap of label sets, float32 [q, n]; 0 where either set is empty."""
    left, right = queries.astype(np.float32), gallery.astype(np.float32)
    shared = left @ right.T
    union = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :] - shared
    overlap: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def gains(
    queries: NDArray[np.bool_],
    gallery: NDArray[np.bool_],
    query_study: NDArray[np.integer],
    gallery_study: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Graded gains float32 [q, n]: pair 3, strong 2, weak 1, else 0."""
    overlap = jaccard(queries, gallery)
    graded = np.where(overlap == 1.0, STRONG_GAIN, np.where(overlap > 0.0, WEAK_GAIN, 0.0))
    return np.where(query_study[:, None] == gallery_study[None, :], PAIR_GAIN, graded).astype(np.float32)


def ndcg(ranked: NDArray[np.float32], ideal: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """nDCG@k per query (Järvelin & Kekäläinen 2002, gains as given).

    ranked: gains [q, m] in ranked order; ideal: gains [q, n] of the whole gallery in any order. 0 where nothing is
    relevant.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    cut = min(k, ranked.shape[1])
    found = (ranked[:, :cut] * discount[:cut]).sum(axis=1)
    best = -np.sort(-ideal, axis=1)[:, :k]
    limit = (best * discount[: best.shape[1]]).sum(axis=1)
    quality: NDArray[np.float64] = np.divide(found, limit, out=np.zeros_like(found, dtype=np.float64), where=limit > 0)
    return quality


def reciprocal_rank(relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / rank of the first relevant item per query, 0 where there is none. relevant: bool [q, m], ranked order."""
    first = relevant.argmax(axis=1)
    return np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0)
