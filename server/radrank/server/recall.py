"""How much of the exact scan's result an index finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from radrank.core.snapshot import Snapshot
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, exact_neighbours
from radrank.engines.tuning import recall_of

KS = (1, 10, 100)
QUERIES = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """One direction. at: recall by k, 0 to 1; a k that the gallery can't fill counts what there is."""

    source: Modality
    target: Modality
    queries: int
    at: dict[int, float]


def recalls(snapshot: Snapshot, *, queries: int = QUERIES, seed: int = 0) -> Iterator[Recall]:
    """Of all four directions, on up to `queries` items of the archive each, drawn by the seed."""
    rng = np.random.default_rng(seed)
    for source in Modality:
        vectors = snapshot.items[source].vectors
        chosen = np.sort(rng.choice(len(vectors), size=min(queries, len(vectors)), replace=False))
        for target in Modality:
            at = _recall(snapshot, np.asarray(vectors[chosen]), source, target)
            yield Recall(source=source, target=target, queries=len(chosen), at=at)


def _recall(snapshot: Snapshot, queries: Matrix, source: Modality, target: Modality) -> dict[int, float]:
    items = snapshot.items[target]
    if not len(items.vectors) or not len(queries):
        return dict.fromkeys(KS, 1.0)
    edges = exact_neighbours(queries, items.vectors, max(KS))[1]
    found = items.index.search(queries, max(KS), source=source)[0]
    given = np.stack([items.vectors[row] @ query for query, row in zip(queries, found, strict=True)])
    return {k: recall_of(given[:, :k], edges[:, min(k, edges.shape[1]) - 1]) for k in KS}
