"""Candidate indexes: HNSW, and the exact scan it is measured against, behind core's port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery, MissingExtra
from radrank.core.ports import CandidateIndex, IndexFactory, Progress
from radrank.core.vectors import Matrix, Rows, exact_neighbours

_BLOCK = 1_024  # queries searched, or rows added, at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class HnswSettings:
    """m: links a node; ef_construction and ef: how many nodes a build and a search keep in view."""

    m: int = 32
    ef_construction: int = 200
    ef: int = 256


class ExactIndex:
    """A full scan: exact, and fast enough for some ten thousand rows."""

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Matrix, k: int) -> tuple[Rows, NDArray[np.float32]]:
        return exact_neighbours(queries, self._vectors, k)

    def close(self) -> None:
        """Holds nothing of its own."""


class ExactFactory:
    """Keeps no file: the vectors are the index."""

    name = "exact"

    def build(self, vectors: Matrix, *, progress: Progress | None = None) -> CandidateIndex:
        if progress:
            progress(len(vectors), len(vectors))
        return ExactIndex(vectors)

    def save(self, index: CandidateIndex, path: Path) -> None:  # noqa: ARG002  # the port's signature
        path.write_bytes(b"")

    def load(self, path: Path, vectors: Matrix) -> CandidateIndex:  # noqa: ARG002  # the port's signature
        return ExactIndex(vectors)


class HnswIndex:
    """hnswlib over inner products of unit vectors. Searches release the GIL and are deterministic."""

    def __init__(self, index: Any, vectors: Matrix) -> None:
        self._index = index
        self._vectors = vectors
        self._closing = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Matrix, k: int) -> tuple[Rows, NDArray[np.float32]]:
        """As the port says. Cosines are computed anew from the vectors, so every index gives the same ones."""
        k = min(k, len(self._vectors))
        rows = np.empty((len(queries), k), dtype=np.int64)
        cosines = np.empty((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries) if k else 0, _BLOCK):
            block = slice(start, start + _BLOCK)
            rows[block], cosines[block] = self._block(np.ascontiguousarray(queries[block], dtype=np.float32), k)
        return rows, cosines

    def close(self) -> None:
        with self._closing:
            self._index = None

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def _block(self, queries: Matrix, k: int) -> tuple[Rows, NDArray[np.float32]]:
        try:
            # One thread a request: requests are what runs in parallel.
            labels, _ = self._index.knn_query(queries, k=k, num_threads=1)
        except RuntimeError:
            return exact_neighbours(queries, self._vectors, k)  # hnswlib reached fewer than k rows
        found = labels.astype(np.int64)
        cosines = np.stack([self._vectors[row] @ query for row, query in zip(found, queries, strict=True)])
        order = np.lexsort((found, -cosines), axis=1)
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(cosines, order, axis=1)


class HnswFactory:
    """Builds with one thread: several would link in an order of chance, and replicas would disagree."""

    def __init__(self, settings: HnswSettings | None = None) -> None:
        self.settings = settings or HnswSettings()

    @property
    def name(self) -> str:
        return f"hnsw m={self.settings.m} ef_construction={self.settings.ef_construction}"

    def build(self, vectors: Matrix, *, progress: Progress | None = None) -> CandidateIndex:
        index = _hnswlib().Index(space="ip", dim=vectors.shape[1])
        index.init_index(
            max_elements=max(1, len(vectors)),
            M=self.settings.m,
            ef_construction=self.settings.ef_construction,
            random_seed=0,
        )
        for start in range(0, len(vectors), _BLOCK):
            stop = min(start + _BLOCK, len(vectors))
            index.add_items(np.ascontiguousarray(vectors[start:stop]), np.arange(start, stop), num_threads=1)
            if progress:
                progress(stop, len(vectors))
        index.set_ef(self.settings.ef)
        return HnswIndex(index, vectors)

    def save(self, index: CandidateIndex, path: Path) -> None:
        cast(HnswIndex, index).save(path)

    def load(self, path: Path, vectors: Matrix) -> CandidateIndex:
        index = _hnswlib().Index(space="ip", dim=vectors.shape[1])
        index.load_index(str(path), max_elements=max(1, len(vectors)))
        index.set_ef(self.settings.ef)
        return HnswIndex(index, vectors)


def index_factory(name: str = "hnsw") -> IndexFactory:
    """The index of that name."""
    if name not in INDEXES:
        raise InvalidQuery("index", f"must be one of: {', '.join(INDEXES)}")
    return INDEXES[name]()


INDEXES: Mapping[str, Callable[[], IndexFactory]] = {"hnsw": HnswFactory, "exact": ExactFactory}


def _hnswlib() -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise MissingExtra("hnswlib", "server") from error
    return hnswlib
