"""The library: the archive on disk, and the edition of it that searches read."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from radrank.core.archive import Archive
from radrank.core.errors import Mismatch, NotFound, Unavailable
from radrank.core.graph import GraphSettings
from radrank.core.live import Live, Shared
from radrank.core.ports import Encoder, IndexFactory, Progress, Reranker, messages_of
from radrank.core.ranking import Ranker
from radrank.core.records import Record
from radrank.core.snapshot import SCHEMA_VERSION, Snapshot, build_snapshot, current, open_snapshot, prune
from radrank.core.timing import RecentTimes
from radrank.core.view import View
from radrank.engines.engine import Engine, Model
from radrank.server.home import Home
from radrank.server.settings import Compaction
from radrank.server.statuses import trace

_log = logging.getLogger(__name__)


class Engines(Protocol):
    """What the library needs of a bundle."""

    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def encoder(self) -> Encoder: ...
    @property
    def encoder_id(self) -> str: ...
    @property
    def rerankers(self) -> Mapping[str, Reranker]: ...
    @property
    def default_reranker(self) -> str: ...
    @property
    def graph(self) -> GraphSettings: ...
    @property
    def models(self) -> Mapping[str, Model]: ...
    @property
    def engines(self) -> Mapping[str, Engine]:
        """Of the models, by the same names."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many token ids the text encoder knows."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Edition:
    """One state of the archive with the engines that search it: what a request starts and finishes on."""

    ranker: Ranker
    bundle_sha256: str
    _snapshot: Shared[Snapshot]

    def close(self) -> None:
        self._snapshot.release()


class Library:
    """Owns a home's archive and what is served of it. Searches never wait for writes; writes take turns.

    A write is durable first, then seen. When many rows have changed, a thread builds a new snapshot, swaps it in, and
    drops the old one when the last search on it ends.

    Raises Mismatch where the archive's vectors come from another encoder than the engines'.
    """

    def __init__(self, home: Home, engines: Engines, factory: IndexFactory, compaction: Compaction) -> None:
        self.engines = engines
        self.archive = Archive(home.database)
        self._home = home
        self._factory = factory
        self._threshold = compaction
        self._recent = RecentTimes()
        self._writing = threading.Lock()
        self._wanted = threading.Event()
        self._closing = threading.Event()
        check_space(self.archive, engines, home.root)
        snapshot = self._opened(ready_snapshot(self.archive, home.snapshots, engines, factory))
        prune(home.snapshots, keep=[snapshot.value.path])
        _tell_of_missing(snapshot.value, engines, home.root)
        self._view = replayed(View.of(snapshot.value, engines.graph), self.archive)
        self._snapshot = snapshot
        self._live = Live(self._edition())
        self._compactor = threading.Thread(target=self._compact_when_wanted, name="compaction", daemon=True)
        self._compactor.start()
        self._note_changes()

    def lease(self) -> AbstractContextManager[Edition]:
        """The newest edition, for one request."""
        return self._live.lease()

    def upsert(self, records: Sequence[Record]) -> tuple[int, int, int]:
        """Adds or replaces studies; returns (added, replaced, sequence) when that is on disk and searches see it."""
        with self._writing:
            if not records:
                return 0, 0, self._view.sequence
            added, replaced, sequence = self.archive.upsert(records, encoder=self.engines.encoder_id)
            self._show(self._view.with_changes(records, (), sequence))
        self._note_changes()
        return added, replaced, sequence

    def delete(self, study_ids: Sequence[str]) -> tuple[int, int]:
        """Removes studies; returns (deleted, sequence) when that is on disk and searches see it."""
        with self._writing:
            deleted, sequence = self.archive.delete(study_ids)
            self._show(self._view.with_changes((), study_ids, sequence))
        self._note_changes()
        return deleted, sequence

    def compact(self) -> None:
        """Builds a new snapshot, while searches and writes go on, and serves it."""
        path = build(self.archive, self._home.snapshots, self.engines, self._factory, check=self._go_on)
        snapshot = self._opened(path)
        view = replayed(View.of(snapshot.value, self.engines.graph), self.archive)
        with self._writing:  # only what came during the replay is left to do under the lock
            before, self._snapshot = self._snapshot, snapshot
            self._show(replayed(view, self.archive))
            before.release()
            self.archive.forget_deletions(snapshot.value.sequence)

    def close(self) -> None:
        """Stops the compaction and closes the archive; no request may be running."""
        self._closing.set()
        self._wanted.set()
        self._compactor.join()
        self._live.close()
        self._snapshot.release()
        self.archive.close()

    def _show(self, view: View) -> None:
        self._view = view
        self._live.swap(self._edition())

    def _edition(self) -> Shared[Edition]:
        ranker = Ranker(
            encoder=self.engines.encoder,
            rerankers=self.engines.rerankers,
            default_reranker=self.engines.default_reranker,
            view=self._view,
            recent=self._recent,
        )
        edition = Edition(ranker=ranker, bundle_sha256=self.engines.sha256, _snapshot=self._snapshot.take())
        return Shared(edition, Edition.close)

    def _opened(self, path: Path) -> Shared[Snapshot]:
        return Shared(open_snapshot(path, factory=self._factory, encoder=self.engines.encoder_id), self._done_with)

    def _done_with(self, snapshot: Snapshot) -> None:
        for items in snapshot.items.values():
            items.index.close()
        if current(self._home.snapshots) != snapshot.path:
            shutil.rmtree(snapshot.path, ignore_errors=True)

    def _is_due(self) -> bool:
        view, threshold = self._view, self._threshold
        return view.stale_rows >= max(threshold.rows, threshold.share * len(view.snapshot.columns))

    def _note_changes(self) -> None:
        if self._is_due():
            self._wanted.set()

    def _compact_when_wanted(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing.is_set():
                return
            if not self._is_due():
                continue  # a write that came while the last snapshot was being built, and is in it
            try:
                self.compact()
            except Unavailable:
                return
            except Exception as error:  # noqa: BLE001 - serving goes on without; the next write tries again
                _log.error("no new snapshot was built: %s", trace(error))

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise Unavailable("closing")


def _tell_of_missing(snapshot: Snapshot, engines: Engines, root: Path) -> None:
    """Says so where the snapshot was built for other re-rankers: what it does not hold is made for every search."""
    held = {key for items in snapshot.items.values() for key in items.nodes.messages}
    if len(snapshot.columns) and any(make.key not in held for make in messages_of(engines.rerankers)):
        cure = f"radrank index build --bundle {engines.path} --archive {root}"
        _log.warning(
            "the snapshot has no messages for this bundle's re-rankers, so searches are slower; cure: %s", cure
        )


def check_space(archive: Archive, engines: Engines, root: Path) -> None:
    """Raises Mismatch where the archive's vectors are not in the engines' space."""
    if archive.encoder not in (None, engines.encoder_id):
        cure = f"radrank index build --bundle {engines.path} --archive {root}"
        raise Mismatch(
            f"the archive's vectors come from another bundle; re-encode them with: {cure}",
            f"encoder {engines.encoder_id[:12]}",
            f"encoder {str(archive.encoder)[:12]}",
        )


def ready_snapshot(archive: Archive, snapshots: Path, engines: Engines, factory: IndexFactory) -> Path:
    """The snapshot in use, or a new one where there is none or it was made for something else."""
    try:
        path = current(snapshots)
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (NotFound, FileNotFoundError):
        return build(archive, snapshots, engines, factory)
    fits = {
        "schema": SCHEMA_VERSION,
        "encoder": engines.encoder_id,
        "index": factory.name,
        "table_width": engines.graph.table_width,
        "layout": json.loads(json.dumps(asdict(engines.encoder.layout))),  # as a manifest keeps it: tuples are lists
    }
    # A snapshot that is ahead of its archive: somebody put back an older archive.
    if all(manifest.get(name) == value for name, value in fits.items()) and manifest["sequence"] <= archive.sequence:
        return path
    _log.info("the snapshot was made for something else; building a new one")
    return build(archive, snapshots, engines, factory)


def build(
    archive: Archive,
    snapshots: Path,
    engines: Engines,
    factory: IndexFactory,
    *,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Builds a snapshot of the archive and makes it the current one. `check` is called often, and may raise to stop."""

    def records() -> Iterator[Record]:
        for record in archive.records():
            check()
            yield record

    def told(done: int, total: int) -> None:
        check()
        if progress:
            progress(done, total)

    return build_snapshot(
        snapshots,
        records(),
        sequence=archive.sequence,  # asked before the records are read: a change in between is replayed, never lost
        encoder=engines.encoder_id,
        layout=engines.encoder.layout,
        graph=engines.graph,
        factory=factory,
        messages=messages_of(engines.rerankers),
        progress=told,
    )


def replayed(view: View, archive: Archive) -> View:
    """The view with everything that the archive has seen since: the same as one that lived through it."""
    changed, gone, last = archive.changes_since(view.sequence)
    if view.sequence == last:
        return view
    sequences = [sequence for sequence, _ in changed]
    return view.with_changes([record for _, record in changed], gone, last, changes=sequences)
