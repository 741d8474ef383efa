"""Unit vectors and exact nearest neighbours among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

# One block of similarities stays within 64 MiB.
_BLOCK_BYTES = 64 << 20


def unit(vectors: NDArray[np.floating]) -> Matrix:
    """Scales along the last axis to length one; a zero vector stays zero. Returns float32 of the same shape."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(norms == 0.0, 1.0, norms)).astype(np.float32)


def fused(vectors: Matrix) -> Vector:
    """One unit vector [d] of several [n, d], n > 0: of their sum, or the first where they cancel out."""
    total = vectors.sum(axis=0, dtype=np.float64)
    return unit(total if total.any() else vectors[0])


def fused_by_study(vectors: Matrix, study: NDArray[np.integer], studies: NDArray[np.integer]) -> Matrix:
    """One unit vector a study, `fused` of all its items: float32 [studies, d]; each of them must have an item.

    vectors: unit vectors [items, d]; study: [items], each item's study
    """
    order = np.argsort(study, kind="stable")
    owners = study[order]
    bounds = zip(
        np.searchsorted(owners, studies, side="left"), np.searchsorted(owners, studies, side="right"), strict=True
    )
    together = np.empty((len(studies), vectors.shape[1]), dtype=np.float32)
    for row, (start, end) in enumerate(bounds):
        together[row] = fused(vectors[order[start:end]])
    return together


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices [.., k] of the largest along the last axis, descending, ties by index. `k` is at most its length.

    scores: no NaN
    """
    width = scores.shape[-1]
    k = min(k, width)
    # One number orders by score, then by place: a float's bits, as a whole number, are in the order of the floats once
    # those of numbers below zero are turned around, all but the sign. 0 − scores makes one zero of both.
    bits = np.subtract(np.float32(0.0), scores, dtype=np.float32).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(width)
    if k < width:
        keys.partition(k - 1, axis=-1)
        keys = keys[..., :k]
    keys = np.sort(keys, axis=-1)
    keys &= 0xFFFFFFFF
    return keys


def best_first(rows: Rows, cosines: NDArray[np.float32]) -> tuple[Rows, NDArray[np.float32]]:
    """Rows [n] and their cosines [n], descending, ties by row."""
    order = np.lexsort((rows, -cosines))
    return rows.take(order), cosines.take(order)


def exact_neighbours(queries: Matrix, gallery: Matrix, k: int) -> tuple[Rows, NDArray[np.float32]]:
    """The k most similar gallery rows of every query by one full scan.

    queries [q, d] and gallery [n, d] are unit vectors. Returns rows int64 [q, min(k, n)] and cosines float32 of
    the same shape, descending, ties by row.
    """
    k = min(k, len(gallery))
    rows = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    block = max(1, _BLOCK_BYTES // max(1, 4 * len(gallery)))
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ gallery.T
        best = top_k(scores, k)
        rows[start : start + block] = best
        cosines[start : start + block] = np.take_along_axis(scores, best, axis=-1)
    return rows, cosines
