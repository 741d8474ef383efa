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
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, Rows, best_first, exact_neighbours

Direction = tuple[Modality, Modality]
"""What the queries are vectors of, and what is searched."""

ASKED = 100
"""Rows of a search that an ef is chosen for: the candidates of a query."""

_BLOCK = 1_024  # queries searched, or rows added, at a time
_LEAST_IN_VIEW = 64
_NO_EF = 1  # of hnswlib's own: one number an index, which must not be set beside running searches


@dataclass(frozen=True, kw_only=True, slots=True)
class HnswSettings:
    """m: links a node; ef_construction, ef: nodes that a build, and an untuned search for 100 rows, keep in view."""

    m: int = 32
    ef_construction: int = 200
    ef: int = 256


class ExactIndex:
    """A full scan: exact, and fast enough for some ten thousand rows."""

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        source: Modality | None = None,  # noqa: ARG002  # the port's signature
    ) -> tuple[Rows, NDArray[np.float32]]:
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

    def load(
        self,
        path: Path,  # noqa: ARG002  # the port's signature
        vectors: Matrix,
        *,
        target: Modality | None = None,  # noqa: ARG002  # the port's signature
    ) -> CandidateIndex:
        return ExactIndex(vectors)


class HnswIndex:
    """hnswlib over inner products of unit vectors. Searches release the GIL and are deterministic.

    ef: how many nodes a search for `asked` rows keeps in view; efs: the same for queries of one modality, where it
    differs. Fewer rows are found as surely without looking as far
    threads: of one search; requests are what runs in parallel, so that a server leaves it at one
    """

    def __init__(
        self,
        index: Any,
        vectors: Matrix,
        *,
        ef: int,
        efs: Mapping[Modality, int] | None = None,
        asked: int = ASKED,
        threads: int = 1,
    ) -> None:
        self._index = index
        self._vectors = np.asarray(vectors)  # not as a memmap: every slice of one runs Python code
        self._ef = ef
        self._efs = dict(efs or {})
        self._asked = asked
        self._threads = threads
        self._closing = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def ef_of(self, source: Modality | None) -> int:
        """How many nodes a search for candidates, with a query of this modality, keeps in view."""
        return self._ef if source is None else self._efs.get(source, self._ef)

    def looking_at(self, ef: int) -> HnswIndex:
        """The same graph, not a copy, whose searches keep this many nodes in view, however few rows they ask for."""
        return HnswIndex(self._index, self._vectors, ef=ef, asked=1)

    def search(self, queries: Matrix, k: int, *, source: Modality | None = None) -> tuple[Rows, NDArray[np.float32]]:
        """As the port says. Cosines are computed anew from the vectors, so every index gives the same ones."""
        k = min(k, len(self._vectors))
        seen = min(max(k, self._in_view(self.ef_of(source), k)), len(self._vectors))
        rows = np.empty((len(queries), k), dtype=np.int64)
        cosines = np.empty((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries) if k else 0, _BLOCK):
            block = slice(start, start + _BLOCK)
            rows[block], cosines[block] = self._block(np.ascontiguousarray(queries[block], dtype=np.float32), k, seen)
        return rows, cosines

    def close(self) -> None:
        with self._closing:
            self._index = None

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def _in_view(self, ef: int, k: int) -> int:
        return ef if k >= self._asked else min(ef, max(_LEAST_IN_VIEW, ef * k // self._asked))

    def _block(self, queries: Matrix, k: int, seen: int) -> tuple[Rows, NDArray[np.float32]]:
        try:
            # hnswlib keeps as many nodes in view as it is asked for, so asking for more is an ef of this call alone.
            labels, _ = self._index.knn_query(queries, k=seen, num_threads=self._threads)
        except RuntimeError:  # hnswlib reached fewer rows than it was asked for
            if len(queries) == 1:  # groups of equal reports end some searches early: a scan is for those that lack k
                return self._block(queries, k, k) if seen > k else exact_neighbours(queries, self._vectors, k)
            alone = [self._block(query[None], k, seen) for query in queries]  # it does not say for which of them
            return np.concatenate([rows for rows, _ in alone]), np.concatenate([cosines for _, cosines in alone])
        found = labels[:, :k].astype(np.int64)  # best first
        cosines = np.empty(found.shape, dtype=np.float32)
        for rows, similar, query in zip(found, cosines, queries, strict=True):
            rows[:], similar[:] = best_first(rows, self._vectors.take(rows, axis=0) @ query)
        return found, cosines


class HnswFactory:
    """Builds with one thread: several would link in an order of chance, and replicas would disagree.

    efs: nodes that searches of a direction keep in view, where not the settings' ef; asked: for so many rows
    threads: of a build, and of a search for many queries; more than one for measurements alone
    """

    def __init__(
        self,
        settings: HnswSettings | None = None,
        *,
        efs: Mapping[Direction, int] | None = None,
        asked: int = ASKED,
        threads: int = 1,
    ) -> None:
        self.settings = settings or HnswSettings()
        self._efs = dict(efs or {})
        self._asked = asked
        self._threads = threads

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
            index.add_items(
                np.ascontiguousarray(vectors[start:stop]), np.arange(start, stop), num_threads=self._threads
            )
            if progress:
                progress(stop, len(vectors))
        return self._opened(index, vectors, None)

    def save(self, index: CandidateIndex, path: Path) -> None:
        cast(HnswIndex, index).save(path)

    def load(self, path: Path, vectors: Matrix, *, target: Modality | None = None) -> CandidateIndex:
        index = _hnswlib().Index(space="ip", dim=vectors.shape[1])
        index.load_index(str(path), max_elements=max(1, len(vectors)))
        return self._opened(index, vectors, target)

    def _opened(self, index: Any, vectors: Matrix, target: Modality | None) -> HnswIndex:
        index.set_ef(_NO_EF)
        efs = {source: ef for (source, searched), ef in self._efs.items() if searched is target}
        return HnswIndex(index, vectors, ef=self.settings.ef, efs=efs, asked=self._asked, threads=self._threads)


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
