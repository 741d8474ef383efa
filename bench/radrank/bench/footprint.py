"""A served archive of made-up studies: seconds from start to SERVING, memory, and how long searches take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radrank.bench.clusters import ClusteredSpace
from radrank.bench.memory import Memory, memory_of_all
from radrank.bench.scale import Bar
from radrank.client import Client
from radrank.core.archive import Archive
from radrank.core.errors import NotFound, Unavailable
from radrank.core.layout import BELIEF_NORM, VectorLayout
from radrank.core.ports import CandidateIndex, Progress, messages_of
from radrank.core.records import Record
from radrank.core.snapshot import build_snapshot, current
from radrank.core.studies import Modality, Study, StudyImage, View
from radrank.core.vectors import Matrix, unit
from radrank.engines.bundle import open_rerankers
from radrank.engines.index import HnswFactory
from radrank.engines.manifest import read_manifest
from radrank.server.home import Home, database_of, snapshots_of

_TRANSACTION = 1_024
_PREVIEW = b"\xff\xd8\xff\xe0" + bytes(4_092)  # as large as a small JPEG; nothing decodes it


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """disk: whether the page cache held the files (warm) or not (cold). seconds: from the process's start to SERVING"""

    disk: str
    seconds: float
    memory: Memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """One archive. vectors: of both modalities; p50, p99: microseconds from call to reply, in turn by one client"""

    studies: int
    vectors: int
    dimensions: int
    bundle_bytes: int
    snapshot_bytes: int
    database_bytes: int
    starts: tuple[Start, ...]
    searches: int
    reranker: str
    p50: float
    p99: float
    after: Memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A running server. seconds: from the process's start to SERVING"""

    pid: int
    address: str
    seconds: float


class _Telling(HnswFactory):
    """Builds indexes under a progress bar each."""

    def __init__(self, bar: Bar, threads: int) -> None:
        super().__init__(threads=threads)
        self._bar = bar

    def build(self, vectors: Matrix, *, progress: Progress | None = None) -> CandidateIndex:
        with self._bar(f"{len(vectors):,} linked", len(vectors)) as told:
            return super().build(vectors, progress=progress or (lambda done, _total: told(done)))


def make_home(root: Path, bundle: Path, studies: int, *, threads: int, bar: Bar, seed: int = 0) -> None:
    """An archive of made-up studies in the bundle's space, each with one image and a report, and its snapshot.

    What lies there already is kept. threads: of the index; more than one link in an order of chance.
    """
    manifest, _ = read_manifest(bundle)
    with Home(root) as home:
        archive = Archive(home.database)
        try:
            if (archive.counts().studies, archive.encoder) != (studies, manifest.encoder_id):
                _fill(archive, manifest.encoder_id, manifest.layout, studies, bar=bar, seed=seed)
            elif _is_current(home.snapshots, archive.sequence):
                return
            rerankers, _ = open_rerankers(bundle)
            with bar("snapshot", 5) as told:
                build_snapshot(
                    home.snapshots,
                    archive.records(),
                    sequence=archive.sequence,
                    encoder=manifest.encoder_id,
                    layout=manifest.layout,
                    graph=manifest.graph,
                    factory=_Telling(bar, threads),
                    messages=messages_of(rerankers),
                    progress=lambda done, _total: told(done),
                )
        finally:
            archive.close()


def footprint(root: Path, bundle: Path, *, searches: int, bar: Bar, seed: int = 0) -> Footprint:
    """Starts the server twice, from disk and from the page cache, and searches the second time."""
    manifest, _ = read_manifest(bundle)
    snapshot = current(snapshots_of(root))
    starts = []
    _forget([root, bundle])
    with serving(bundle, root) as cold:
        starts.append(Start(disk="cold", seconds=cold.seconds, memory=memory_of_all(cold.pid)))
    with serving(bundle, root) as warm:
        starts.append(Start(disk="warm", seconds=warm.seconds, memory=memory_of_all(warm.pid)))
        taken = _searched(warm.address, manifest.layout, searches, bar=bar, seed=seed)
        after = memory_of_all(warm.pid)
        with Client(warm.address) as client:
            stats = client.stats()
    return Footprint(
        studies=stats.studies,
        vectors=stats.images + stats.reports,
        dimensions=manifest.layout.dimensions,
        bundle_bytes=_bytes(bundle),
        snapshot_bytes=_bytes(snapshot),
        database_bytes=database_of(root).stat().st_size,
        starts=tuple(starts),
        searches=len(taken),
        reranker=manifest.default_reranker,
        p50=float(np.percentile(taken, 50)),
        p99=float(np.percentile(taken, 99)),
        after=after,
    )


@contextmanager
def serving(bundle: Path, root: Path, settings: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """`radrank serve` as a process of its own, on a free port, ended with the context. Raises Unavailable.

    settings: as environment variables, over those that are set
    """
    command = [sys.executable, "-m", "radrank.client.cli", "serve", "--listen", "127.0.0.1:0"]
    start = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - this interpreter, and paths that the caller gave
        [*command, "--bundle", str(bundle), "--archive", str(root)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Linux shares the cores among sessions: a peer in one of its own would get more
        env={**os.environ, "RADRANK_LOGS__LEVEL": "warning", **(settings or {})},  # not a line for every search
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("SERVING on "):
            raise Unavailable("the server did not start; what it said stands above")
        yield Serving(pid=process.pid, address=line.split()[2], seconds=time.perf_counter() - start)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def made_up_vectors(
    layout: VectorLayout, studies: range, *, seed: int = 0
) -> Iterator[tuple[range, dict[Modality, Matrix]]]:
    """Vectors of these studies as the layout has them, a block at a time: clustered projections, clustered beliefs."""
    space = ClusteredSpace(layout.projection + layout.beliefs_width, seed=seed)
    start = studies.start
    for block in space.studies(studies.start, studies.stop):
        count = len(block[Modality.IMAGE])
        yield range(start, start + count), {m: _laid_out(layout, one, m) for m, one in block.items()}
        start += count


def _laid_out(layout: VectorLayout, drawn: Matrix, m: Modality) -> Matrix:
    projections = unit(drawn[:, : layout.projection])
    beliefs = 1.0 / (1.0 + np.exp(-6.0 * unit(drawn[:, layout.projection :])))
    part = beliefs / BELIEF_NORM
    part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1.0)
    ends = np.zeros((len(part), len(Modality)))
    ends[:, list(Modality).index(m)] = np.sqrt(np.maximum(1.0 - (part**2).sum(axis=1), 0.0))
    share = layout.share
    return np.hstack([(1 - share) ** 0.5 * projections, share**0.5 * part, share**0.5 * ends]).astype(np.float32)


def _is_current(snapshots: Path, sequence: int) -> bool:
    try:
        manifest = json.loads((current(snapshots) / "manifest.json").read_text(encoding="utf-8"))
    except NotFound:
        return False
    return bool(manifest["sequence"] == sequence)


def _fill(archive: Archive, encoder: str, layout: VectorLayout, studies: int, *, bar: Bar, seed: int) -> None:
    archive.clear()
    with bar("studies", studies) as told:
        for numbers, vectors in made_up_vectors(layout, range(studies), seed=seed):
            records = [
                _record(number, vectors[Modality.IMAGE][row], vectors[Modality.REPORT][row], layout.groups)
                for row, number in enumerate(numbers)
            ]
            for first in range(0, len(records), _TRANSACTION):
                archive.upsert(records[first : first + _TRANSACTION], encoder=encoder)
            told(numbers.stop)


def _record(number: int, image: Matrix, report: Matrix, groups: tuple[str, ...]) -> Record:
    labels = () if number % 3 == 0 or not groups else (groups[number % len(groups)],)
    study = Study(
        study_id=f"M{number:08d}",
        patient_id=f"P{number // 3:08d}",
        images=(StudyImage(image_id=f"M{number:08d}-0", content=_PREVIEW, view=View.PA),),
        findings=f"Made-up findings number {number}, of about the length that a short report of a chest film has.",
        labels=labels,
        normal=not labels,
    )
    return Record(study=study, image_vectors=image[None], report_vector=report)


def _searched(address: str, layout: VectorLayout, searches: int, *, bar: Bar, seed: int) -> list[float]:
    """Re-ranked searches with vectors of studies that the archive does not hold, by image and by report in turn."""
    held_out = 1 << 30
    taken = []
    with Client(address) as client, bar("searches", searches) as told:
        for numbers, vectors in made_up_vectors(layout, range(held_out, held_out + searches), seed=seed):
            for row, number in enumerate(numbers):
                m = (Modality.IMAGE, Modality.REPORT)[number % 2]
                start = time.perf_counter_ns()
                client.search(embedding=vectors[m][row], modality=m.value, k=10)
                taken.append((time.perf_counter_ns() - start) / 1_000)
                told(number - held_out + 1)
    return taken


def _forget(folders: list[Path]) -> None:
    """Asks the kernel to drop these files from its page cache; what is not yet on disk is written first."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
