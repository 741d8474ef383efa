"""How far HNSW must look in one direction: the smallest ef that finds enough of what an exact scan finds."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import Matrix
from radrank.engines.index import HnswIndex

K = 100
RECALL = 0.95
TIMED = 200  # queries asked one by one
_STEP = 1.1  # between the values of ef that are tried
_MOST = 4_096  # past it, a scan of some hundred thousand rows is as fast
_BLOCK_BYTES = 256 << 20
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """One ef in one direction. recall: share of the exact scan's k; p50, p99: microseconds a query, one thread."""

    ef: int
    recall: float
    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """before: with the ef that the index came with; after: with the smallest that suffices, or the largest tried."""

    queries: int
    before: Effort
    after: Effort
    suffices: bool


def smallest_ef(
    index: HnswIndex,
    queries: Matrix,
    gallery: Matrix,
    *,
    before: int,
    k: int = K,
    recall: float = RECALL,
    step: Callable[[], None] = lambda: None,
) -> Tuned:
    """By bisection over a ladder of ef, each ten per cent above the last.

    queries: float32 [q, d], of the modality that will ask; gallery: float32 [n, d], what the index was built from
    before: the ef to compare with; step: called `steps(n, k)` times in all
    """
    edges = kth_cosines(queries, gallery, k)
    step()
    tried: dict[int, float] = {}

    def recall_at(ef: int) -> float:
        if ef not in tried:
            tried[ef] = recall_of(index.looking_at(ef).search(queries, k)[1], edges)
        return tried[ef]

    def enough(ef: int) -> bool:
        step()
        return recall_at(ef) >= recall

    ladder = rungs(len(gallery), k)
    place = min(bisect_left(ladder, True, key=enough), len(ladder) - 1)
    found = ladder[place]
    efforts = [
        Effort(ef=ef, recall=recall_at(ef), **_times(index.looking_at(ef), queries, k)) for ef in (before, found)
    ]
    step()
    return Tuned(queries=len(queries), before=efforts[0], after=efforts[1], suffices=recall_at(found) >= recall)


def rungs(rows: int, k: int) -> list[int]:
    """The values of ef that are tried for an index of so many rows, ascending."""
    ladder, top = [min(k, rows)], max(1, min(rows, _MOST))
    while ladder[-1] < top:
        ladder.append(min(top, int(ladder[-1] * _STEP) + 1))
    return ladder


def steps(rows: int, k: int = K) -> int:
    """The most often that `smallest_ef` calls `step`."""
    return len(rungs(rows, k)).bit_length() + 2


def kth_cosines(queries: Matrix, gallery: Matrix, k: int) -> NDArray[np.float32]:
    """The k-th largest cosine of every query by a full scan, or the least where there are fewer; float32 [q]."""
    k = min(k, len(gallery))
    edges = np.empty(len(queries), dtype=np.float32)
    block = max(1, _BLOCK_BYTES // max(1, 4 * len(gallery)))
    for start in range(0, len(queries), block):
        cosines = queries[start : start + block] @ gallery.T
        cosines.partition(len(gallery) - k, axis=1)
        edges[start : start + block] = cosines[:, len(gallery) - k]
    return edges


def recall_of(cosines: NDArray[np.float32], edges: NDArray[np.float32]) -> float:
    """Share of found cosines [q, k] that belong to an exact result, whose k-th cosines are `edges` [q]; 1 of none.

    By cosine, not by row: reports repeat word for word, and one of equals is as good as another.
    """
    return float((cosines >= edges[:, None] - _ROUNDING).mean()) if cosines.size else 1.0


def _times(index: HnswIndex, queries: Matrix, k: int) -> dict[str, float]:
    taken = []
    for query in queries[:TIMED]:
        start = time.perf_counter_ns()
        index.search(query[None], k)
        taken.append((time.perf_counter_ns() - start) / 1_000)
    return {"p50": float(np.percentile(taken, 50)), "p99": float(np.percentile(taken, 99))}
