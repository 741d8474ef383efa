"""Candidate search by archive size: latency at the recall that is asked for, memory, and the time of a build.

The gallery is made of reports; queries are images (across modalities, with the shift that this brings) and reports
(within one), of studies that the gallery does not hold. The made-up space treats both modalities alike, so the other
two directions would give the same numbers again.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from radrank.bench.clusters import ClusteredSpace, write_vectors
from radrank.bench.memory import held_bytes
from radrank.core.errors import InvalidQuery
from radrank.core.files import write_json
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix
from radrank.engines.index import ExactIndex, HnswFactory, HnswIndex, HnswSettings
from radrank.engines.tuning import smallest_ef, steps

GALLERY = Modality.REPORT
_SCANS = 20  # queries by exact scan: at a million rows each takes a quarter of a second

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar of that label and length; what it yields is told how much is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """rows: sizes of the gallery; threads: of a build; seed: of the vectors. Searches take one thread."""

    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    dimensions: int = 512
    queries: int = 500
    k: int = 100
    recall: float = 0.95
    m: int = HnswSettings().m
    ef_construction: int = HnswSettings().ef_construction
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """One direction. ef: tuned for the recall; p50, p99, exact_p50: microseconds a query on one thread; default_…: with
    the ef of an index that was never tuned
    """

    source: str
    target: str
    ef: int
    recall: float
    p50: float
    p99: float
    exact_p50: float
    default_ef: int
    default_recall: float
    default_p50: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One gallery. build_seconds: with `threads`; index_bytes: of the file; memory_bytes: what the loaded index holds,
    vectors included; vectors_bytes: of the file beside it, which is mapped
    """

    rows: int
    dimensions: int
    m: int
    ef_construction: int
    threads: int
    k: int
    wanted: float
    queries: int
    seed: int
    build_seconds: float
    load_seconds: float
    index_bytes: int
    memory_bytes: int
    vectors_bytes: int
    searched: tuple[Searched, ...]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Size:
        return cls(**{**stored, "searched": tuple(Searched(**one) for one in stored["searched"])})


def measure(options: Options, out: Path, bar: Bar) -> Iterator[Size]:
    """Each size in turn, the smallest first. What lies in `out` already is not made again."""
    if options.dimensions < 3 or min(options.rows) < 2 * options.k:
        raise InvalidQuery("rows", f"must be {2 * options.k} or more, and dimensions 3 or more")
    with threadpool_limits(limits=1, user_api="blas"):
        for rows in sorted(set(options.rows)):
            yield _size(options, rows, out, bar)


def _size(options: Options, rows: int, out: Path, bar: Bar) -> Size:
    folder = out / f"{rows}x{options.dimensions}-seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = HnswSettings(m=options.m, ef_construction=options.ef_construction)
    factory = HnswFactory(settings, threads=options.threads)
    name = f"m{options.m}-ef{options.ef_construction}"
    kept = folder / f"{name}-k{options.k}-recall{options.recall:g}-queries{options.queries}.json"
    if kept.exists():
        return Size.from_json(json.loads(kept.read_text(encoding="utf-8")))
    space = ClusteredSpace(options.dimensions, seed=options.seed)
    vectors = _vectors(space, rows, folder / "vectors.npy", bar)
    built = _built(factory, vectors, folder / f"{name}.bin", options.threads, bar)
    gc.collect()
    before, start = held_bytes(), time.perf_counter()
    index = factory.load(folder / f"{name}.bin", vectors)
    load_seconds, memory = time.perf_counter() - start, held_bytes() - before
    assert isinstance(index, HnswIndex)
    queries = space.held_out(options.queries)
    searched = tuple(_searched(index, vectors, queries[source], source, options, bar) for source in Modality)
    index.close()
    size = Size(
        rows=rows,
        dimensions=options.dimensions,
        m=options.m,
        ef_construction=options.ef_construction,
        threads=built["threads"],
        k=options.k,
        wanted=options.recall,
        queries=options.queries,
        seed=options.seed,
        build_seconds=built["seconds"],
        load_seconds=load_seconds,
        index_bytes=(folder / f"{name}.bin").stat().st_size,
        memory_bytes=memory,
        vectors_bytes=(folder / "vectors.npy").stat().st_size,
        searched=searched,
    )
    write_json(kept, asdict(size))
    return size


def _vectors(space: ClusteredSpace, rows: int, path: Path, bar: Bar) -> Matrix:
    if path.exists():
        kept: Matrix = np.load(path, mmap_mode="r")
        return kept
    with bar(f"{rows:,} vectors", rows) as told:
        return write_vectors(space, GALLERY, rows, path, step=told)


def _built(factory: HnswFactory, vectors: Matrix, path: Path, threads: int, bar: Bar) -> dict[str, Any]:
    """Builds the index file where it is not there yet. Returns the seconds and the threads that it took."""
    notes = path.with_suffix(".build.json")
    if path.exists() and notes.exists():
        kept: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
        return kept
    with bar(f"{len(vectors):,} linked", len(vectors)) as told:
        start = time.perf_counter()
        index = factory.build(vectors, progress=lambda done, _total: told(done))
        seconds = time.perf_counter() - start
    factory.save(index, path)
    index.close()
    took = {"seconds": seconds, "threads": threads}
    write_json(notes, took)
    return took


def _searched(
    index: HnswIndex, vectors: Matrix, queries: Matrix, source: Modality, options: Options, bar: Bar
) -> Searched:
    total = steps(len(vectors), options.k)
    with bar(f"{source} → {GALLERY}", total) as told:
        done = iter(range(1, total + 1))
        found = smallest_ef(
            index,
            queries,
            vectors,
            before=index.ef_of(source),
            k=options.k,
            recall=options.recall,
            step=lambda: told(next(done)),
        )
        told(total)
    scan = ExactIndex(vectors)
    taken = []
    for query in queries[:_SCANS]:
        start = time.perf_counter_ns()
        scan.search(query[None], options.k)
        taken.append((time.perf_counter_ns() - start) / 1_000)
    return Searched(
        source=source.value,
        target=GALLERY.value,
        ef=found.after.ef,
        recall=found.after.recall,
        p50=found.after.p50,
        p99=found.after.p99,
        exact_p50=float(np.median(taken)),
        default_ef=found.before.ef,
        default_recall=found.before.recall,
        default_p50=found.before.p50,
    )
