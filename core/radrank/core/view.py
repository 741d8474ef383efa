"""The archive as one search sees it: a snapshot, and what has changed since it was built.

A view never changes. A write makes a new view that shares the snapshot: fresh studies are appended as rows that are
searched exactly, and what they replace, or what is deleted, is marked dead. A new snapshot takes them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radrank.core.columns import StudyColumns, view_bits
from radrank.core.filters import Filters
from radrank.core.graph import Candidates, GraphSettings
from radrank.core.nodes import NO_ROW, Column, Neighbours, Nodes, facts_of, neighbour_table, paired_rows
from radrank.core.records import ImageItem, Record
from radrank.core.snapshot import Snapshot
from radrank.core.studies import Modality, Study
from radrank.core.vectors import Matrix, Rows, Vector, best_first, exact_neighbours, top_k

_REPLAY_BLOCK = 256  # rows of similarities held at once
_SCAN_SHARE = 0.1  # below this share of allowed rows, one exact scan beats asking the index for ever more


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fresh:
    """Studies that came after the snapshot, in the order they came, replaced ones included.

    positions, view, views: of those that have images, as in snapshot.Items
    """

    studies: tuple[Study, ...] = ()
    columns: StudyColumns
    positions: NDArray[np.int32]
    view: NDArray[np.int8]
    views: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One state of the archive.

    nodes: the items of each modality, the snapshot's rows first, then the fresh ones; a living study has one at most
    alive: bool [studies]; latest: the rows of fresh studies by id
    sequence: the last change that is in it
    """

    snapshot: Snapshot
    settings: GraphSettings
    nodes: Mapping[Modality, Nodes]
    alive: NDArray[np.bool_]
    latest: Mapping[str, int]
    sequence: int
    _fresh: _Fresh

    @classmethod
    def of(cls, snapshot: Snapshot, settings: GraphSettings) -> View:
        """The snapshot, unchanged."""
        fresh = _Fresh(
            columns=StudyColumns.of(()),
            positions=np.empty(0, np.int32),
            view=np.empty(0, np.int8),
            views=np.empty(0, np.uint8),
        )
        return cls(
            snapshot=snapshot,
            settings=settings,
            nodes={m: items.nodes for m, items in snapshot.items.items()},
            alive=np.ones(len(snapshot.columns), dtype=np.bool_),
            latest={},
            sequence=snapshot.sequence,
            _fresh=fresh,
        )

    @property
    def fresh_studies(self) -> int:
        """Living studies that the snapshot does not hold."""
        return int(self.alive[len(self.snapshot.columns) :].sum())

    @property
    def stale_rows(self) -> int:
        """Changes since the snapshot: fresh studies and dead rows."""
        return len(self._fresh.studies) + int((~self.alive).sum())

    def find(self, study_id: str) -> int | None:
        """The row of a living study, or None."""
        row = self.latest.get(study_id)
        if row is None:
            row = self.snapshot.columns.find(study_id)
        return row if row is not None and self.alive[row] else None

    def ids(self, studies: NDArray[np.integer]) -> NDArray[np.bytes_]:
        """UTF-8 ids of these studies."""
        return Column(self.snapshot.columns.ids, self._fresh.columns.ids).take(studies)

    def patients(self, studies: NDArray[np.integer]) -> NDArray[np.int64]:
        """Hashes of these studies' patients, 0 without one."""
        return Column(self.snapshot.columns.patients, self._fresh.columns.patients).take(studies)

    def position(self, m: Modality, row: int) -> tuple[int, int]:
        """The place of an item's primary image among its study's, and the code of that image's view."""
        if m is Modality.REPORT:
            return 0, 0
        items = self.snapshot.items[m]
        held = len(items.study)
        if row < held:
            return int(items.positions[row]), int(items.view[row])
        return int(self._fresh.positions[row - held]), int(self._fresh.view[row - held])

    def item_of(self, m: Modality, study: int) -> int | None:
        """The row of a living study's item of one modality, or None."""
        rows = np.flatnonzero(self.nodes[m].study == study)
        return int(rows[0]) if len(rows) else None

    def mask(self, target: Modality, filters: Filters, excluded: NDArray[np.int32]) -> NDArray[np.bool_] | None:
        """Which items a search may find, bool [n]; None for all that live."""
        if not filters and not len(excluded):
            return None
        allowed = np.concatenate([self.snapshot.columns.allowed(filters), self._fresh.columns.allowed(filters)])
        allowed[excluded] = False
        nodes = self.nodes[target]
        mask = allowed[nodes.study] & nodes.alive
        if filters.views:
            images = self.nodes[Modality.IMAGE]
            views = np.concatenate([self.snapshot.items[Modality.IMAGE].views, self._fresh.views])
            shown = np.zeros(len(self.alive), dtype=np.bool_)
            shown[images.study] = (views & view_bits(filters.views)) != 0
            mask &= shown[nodes.study]
        return mask

    def nearest(
        self,
        m: Modality,
        query: Vector,
        k: int,
        mask: NDArray[np.bool_] | None = None,
        *,
        source: Modality | None = None,
    ) -> Candidates:
        """The k most similar items, ties by row, among the living ones that the mask allows. source: the query's."""
        nodes, base = self.nodes[m], self.snapshot.items[m]
        allowed = nodes.alive if mask is None else mask
        held = len(base.study)
        rows, cosines = self._in_snapshot(m, query, k, allowed[:held], filtered=mask is not None, source=source)
        if len(nodes) > held:
            late = np.flatnonzero(allowed[held:])
            rows = np.concatenate([rows, late + held])
            rows, cosines = best_first(rows, np.concatenate([cosines, nodes.vectors.fresh[late] @ query]))
        return Candidates(rows=rows[:k], cosines=cosines[:k])

    def with_changes(
        self,
        records: Sequence[Record],
        deleted: Sequence[str],
        sequence: int,
        *,
        changes: Sequence[int] | None = None,
    ) -> View:
        """The view after these studies came (replacing those of their ids) and these went.

        changes: the number of the change that each record came with, ascending; None where all came at once. Several
        changes taken at once give each study the neighbours that it got when they were taken one by one.
        """
        alive = self.alive.copy()
        latest = dict(self.latest)
        for study_id in [*(record.study.study_id for record in records), *deleted]:
            row = self.find(study_id)
            if row is not None:
                alive[row] = False
            latest.pop(study_id, None)
        known = len(alive)
        alive = np.concatenate([alive, np.ones(len(records), dtype=np.bool_)])
        for place, record in enumerate(records):
            # The last of several with one id counts, as in the archive.
            before = latest.get(record.study.study_id)
            if before is not None:
                alive[before] = False
            latest[record.study.study_id] = known + place
        images = [record.image_item for record in records]
        fresh = self._appended(records, [one for one in images if one is not None])
        nodes = self._joined(records, images, alive, known, changes or [sequence] * len(records))
        return replace(self, nodes=nodes, alive=alive, latest=latest, sequence=sequence, _fresh=fresh)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _in_snapshot(
        self,
        m: Modality,
        query: Vector,
        k: int,
        allowed: NDArray[np.bool_],
        *,
        filtered: bool,
        source: Modality | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        items = self.snapshot.items[m]
        held = len(items.study)
        if not held:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        # hnswlib's own filter takes the GIL for every node: over-fetch and filter, or scan what is allowed.
        fetch = k + 8
        if not (filtered and np.count_nonzero(allowed) <= max(fetch, _SCAN_SHARE * held)):
            while fetch < held:
                found = items.index.search(query[None, :], fetch, source=source)
                rows, cosines = found[0][0], found[1][0]
                keep = allowed.take(rows)
                if not keep.all():
                    rows, cosines = rows[keep], cosines[keep]
                if len(rows) >= k:
                    return rows, cosines
                fetch *= 4
        rows = np.flatnonzero(allowed)
        vectors = items.vectors if len(rows) == held else items.vectors[rows]
        return best_first(rows, vectors @ query)

    def _appended(self, records: Sequence[Record], images: Sequence[ImageItem]) -> _Fresh:
        fresh = self._fresh
        studies = (*fresh.studies, *(replace(record.study, images=()) for record in records))
        return _Fresh(
            studies=studies,
            columns=StudyColumns.of(studies),
            positions=np.concatenate([fresh.positions, np.array([one.position for one in images], dtype=np.int32)]),
            view=np.concatenate([fresh.view, np.array([one.view for one in images], dtype=np.int8)]),
            views=np.concatenate([fresh.views, np.array([one.views for one in images], dtype=np.uint8)]),
        )

    def _joined(
        self,
        records: Sequence[Record],
        images: Sequence[ImageItem | None],
        alive: NDArray[np.bool_],
        known: int,
        changes: Sequence[int],
    ) -> dict[Modality, Nodes]:
        layout = self.snapshot.layout
        given: dict[Modality, dict[int, Vector]] = {
            Modality.IMAGE: {known + i: one.vector for i, one in enumerate(images) if one is not None},
            Modality.REPORT: {
                known + i: one.report_vector for i, one in enumerate(records) if one.report_vector is not None
            },
        }
        new: dict[Modality, tuple[Matrix, NDArray[np.int32]]] = {}
        for m in Modality:
            vectors = np.empty((len(given[m]), layout.dimensions), dtype=np.float32)
            for row, vector in enumerate(given[m].values()):
                vectors[row] = vector
            new[m] = vectors, np.array(list(given[m]), dtype=np.int32)
        study = {m: np.concatenate([self.nodes[m].study, new[m][1]]) for m in Modality}
        vectors_of = {m: np.concatenate([self.nodes[m].vectors.fresh, new[m][0]]) for m in Modality}
        came = StudyColumns.of([record.study for record in records])
        normal = np.concatenate([self.snapshot.columns.normal, self._fresh.columns.normal, came.normal])
        told = came.findings(layout.groups)
        beliefs = {m: layout.beliefs(new[m][0]) for m in Modality}
        change = {m: np.array(changes, dtype=np.int64)[new[m][1] - known] for m in Modality}
        joined: dict[Modality, Nodes] = {}

        def extended(table: Neighbours, m: Modality, among: Modality) -> Neighbours:
            known_then = len(self.nodes[among].vectors.fresh) + np.searchsorted(change[among], change[m], side="right")
            return self._extended(table, among, new[m], vectors_of[among], study[among], alive, known_then)

        for m in Modality:
            nodes = self.nodes[m]
            # An item and its pair come and go together: what stands in the facts stays true.
            pairs = paired_rows(new[m][1], new[m.other][1])
            facts = facts_of(beliefs[m], beliefs[m.other], pairs, told[new[m][1] - known])
            joined[m] = Nodes(
                modality=m,
                vectors=Column(nodes.vectors.base, vectors_of[m]),
                facts=Column(nodes.facts.base, np.concatenate([nodes.facts.fresh, facts])),
                study=study[m],
                same=extended(nodes.same, m, m),
                cross=extended(nodes.cross, m, m.other),
                normal=normal[study[m]],
                alive=alive[study[m]],
                messages=nodes.messages,
            )
        return joined

    def _extended(
        self,
        table: Neighbours,
        among: Modality,
        new: tuple[Matrix, NDArray[np.int32]],
        fresh: Matrix,
        study: NDArray[np.int32],
        alive: NDArray[np.bool_],
        known_then: NDArray[np.int64],
    ) -> Neighbours:
        """The kNN table with rows for new items; older rows learn of them when a snapshot is built.

        known_then: int64 [new items], how many of the fresh rows each of them may have as neighbours
        """
        vectors, own = new
        items = self.snapshot.items[among]
        held, width = len(items.study), self.settings.table_width
        wanted = 4 * width
        rows, cosines = (
            items.index.search(vectors, min(wanted, held))
            if held and len(vectors)
            else (np.empty((len(vectors), 0), np.int64), np.empty((len(vectors), 0), np.float32))
        )
        late, late_cosines = _earlier_neighbours(vectors, fresh, wanted, known_then)
        late = np.where(late >= 0, late + held, NO_ROW)
        rows, cosines = np.concatenate([rows, late], axis=1), np.concatenate([cosines, late_cosines], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")
        rows, cosines = np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)
        rows = np.where((rows >= 0) & alive[study[rows]], rows, NO_ROW) if rows.size else rows
        table_rows, table_cosines = neighbour_table(rows, cosines, own, study, width)
        return Neighbours(
            rows=Column(table.rows.base, np.concatenate([table.rows.fresh, table_rows])),
            cosines=Column(table.cosines.base, np.concatenate([table.cosines.fresh, table_cosines])),
        )


def _earlier_neighbours(
    queries: Matrix, gallery: Matrix, k: int, limits: NDArray[np.int64]
) -> tuple[Rows, NDArray[np.float32]]:
    """exact_neighbours of each query among as many of the gallery's first rows as its limit says; −1 past them."""
    if not len(queries) or int(limits.min()) == len(gallery):
        return exact_neighbours(queries, gallery, k)
    k = min(k, len(gallery))
    rows, cosines = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), _REPLAY_BLOCK):
        block = slice(start, start + _REPLAY_BLOCK)
        scores = queries[block] @ gallery.T
        scores[np.arange(len(gallery)) >= limits[block, None]] = -np.inf
        best = top_k(scores, k)
        cosines[block] = np.take_along_axis(scores, best, axis=-1)
        rows[block] = np.where(np.isneginf(cosines[block]), NO_ROW, best)
    return rows, cosines
