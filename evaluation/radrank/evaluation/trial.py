"""One direction of retrieval on one split: what a method ranks, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radrank.core.studies import Modality
from radrank.core.vectors import Matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Queries of one modality against gallery entries of another, or of the same one.

    queries: float32 [q, d] and gallery: float32 [n, d], unit vectors
    valid: bool [q, n], False where the entry is the query itself (image→image and report→report)
    pair, strong, weak: bool [q, n] and jaccard: float32 [q, n], the relevance of each entry to each query
    query_normal: int8 [q] and gallery_normal: int8 [n], 1 normal, −1 abnormal, 0 unknown
    gallery_abnormal: float32 [n], the encoder's own probability that an entry is abnormal
    """

    source: Modality
    target: Modality
    queries: Matrix
    gallery: Matrix
    valid: NDArray[np.bool_]
    pair: NDArray[np.bool_]
    strong: NDArray[np.bool_]
    weak: NDArray[np.bool_]
    jaccard: NDArray[np.float32]
    query_normal: NDArray[np.int8]
    gallery_normal: NDArray[np.int8]
    gallery_abnormal: NDArray[np.float32]

    @property
    def name(self) -> str:
        return f"{self.source}→{self.target}"

    @property
    def cosines(self) -> NDArray[np.float32]:
        """The plain embedding's scores, float32 [q, n]."""
        return self.queries @ self.gallery.T


@dataclass(frozen=True, kw_only=True, slots=True)
class Banks:
    """The archive's side of a trial: training items only, never one of the split that is judged.

    queries: float32 [m, d], of the query's modality; gallery: float32 [a, d], of the target's modality
    """

    queries: Matrix
    gallery: Matrix
