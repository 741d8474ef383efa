"""Weights of edges: how alike their ends are, and over how many edges a node has, in tables and as matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import top_k


def cosines_among(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of unit vectors [n, d] to each other, [n, n]; nobody is its own neighbour: less than any cosine there."""
    cosines: NDArray[np.float32] = vectors @ vectors.T
    cosines.reshape(-1)[:: len(vectors) + 1] = -2.0
    return cosines


def mean_of_nearest(cosines: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The weights of each row's k largest, as `top_k` finds them, over their number; 0 for all others. [n, n]

    cosines: float32 [n, n] as `cosines_among` has them
    """
    count = len(cosines)
    k = min(k, count - 1)
    if k <= 0:
        return np.zeros_like(cosines)
    ordered = np.sort(cosines, axis=1)  # whole rows: quicker than to part them, and neighbours in it tell of ties
    least = ordered[:, count - k]
    if (ordered[:, count - k - 1] == least).any():
        near = np.zeros(cosines.shape, dtype=np.bool_)
        np.put_along_axis(near, top_k(cosines, k), True, axis=1)
    else:
        near = cosines >= least[:, None]
    means = clipped(cosines)
    means *= near
    means *= np.float32(1.0 / k)
    return means


def means_of(there: NDArray[np.bool_], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [B, n, k] over how many edges a node has. there: where there is an edge"""
    if there.all():
        return weight * np.float32(1.0 / there.shape[2])
    counts = np.maximum(there.sum(axis=2, keepdims=True, dtype=np.float32), np.float32(1.0))
    means: NDArray[np.float32] = weight / counts
    return means


def widened(matrix: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """[n, width], zeros on the right."""
    gap = width - matrix.shape[1]
    return np.pad(matrix, ((0, 0), (0, gap))) if gap else matrix


def clipped(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edge weights are similarities; what points away counts nothing."""
    return np.maximum(cosines, np.float32(0.0))
