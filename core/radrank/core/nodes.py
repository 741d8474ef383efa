"""The items of one modality as columns of arrays: what the index searches and the graph gathers from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, Rows, exact_neighbours

NO_ROW = -1


class Column:
    """Rows of a large, perhaps memory-mapped array, followed by a few fresh rows in memory; neither is copied."""

    def __init__(self, base: NDArray[Any], fresh: NDArray[Any] | None = None) -> None:
        self.base = np.asarray(base)  # not as a memmap: every slice of one runs Python code
        self.fresh = self.base[:0] if fresh is None else fresh

    def __len__(self) -> int:
        return len(self.base) + len(self.fresh)

    @property
    def late(self) -> Column:
        """Without the base."""
        return Column(self.base[:0], self.fresh)

    def after(self, base: Column) -> Column:
        """The fresh rows, on a base again."""
        return Column(base.base, self.fresh)

    @property
    def whole(self) -> NDArray[Any]:
        """All rows as one array."""
        return np.concatenate([self.base, self.fresh]) if len(self.fresh) else self.base

    def take(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """The rows [..., width], by global row number; all must exist."""
        if not len(self.fresh):
            found: NDArray[Any] = self.base.take(rows, axis=0)  # four times as fast as indexing by them
            return found
        dtype = np.promote_types(self.base.dtype, self.fresh.dtype)  # fresh texts may be longer
        taken = np.empty((*rows.shape, *self.base.shape[1:]), dtype=dtype)
        is_fresh = rows >= len(self.base)
        taken[~is_fresh] = self.base[rows[~is_fresh]]
        taken[is_fresh] = self.fresh[rows[is_fresh] - len(self.base)]
        return taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """A kNN table: each row's most similar archive items, never of its own study.

    rows: int32 [n, k], archive rows, best first, −1 where there are fewer
    cosines: float32 [n, k], 0 where there is no row
    """

    rows: Column
    cosines: Column

    @property
    def late(self) -> Neighbours:
        """Without the base."""
        return Neighbours(rows=self.rows.late, cosines=self.cosines.late)

    def after(self, base: Neighbours) -> Neighbours:
        """The fresh rows, on a base again."""
        return Neighbours(rows=self.rows.after(base.rows), cosines=self.cosines.after(base.cosines))


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """All items of one modality in one role (gallery or archive).

    vectors: float32 [n, d], unit
    facts: float32 [n, 3 c], what the graph tells of each, as `facts_of` has it: for a mere gallery its beliefs alone
    study: int32 [n], index of each item's study
    same, cross: kNN tables into the archive items of this and of the other modality
    normal: int8 [n], 1 normal, −1 abnormal, 0 unknown (0 throughout for a mere gallery)
    alive: bool [n], False for what was deleted or replaced since the snapshot
    messages: by the key of what made them, those of the snapshot's rows, as the snapshot stands: float32 [rows, w]
    """

    modality: Modality
    vectors: Column
    facts: Column
    study: NDArray[np.int32]
    same: Neighbours
    cross: Neighbours
    normal: NDArray[np.int8]
    alive: NDArray[np.bool_]
    messages: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def late(self) -> Nodes:
        """What the snapshot does not tell: its rows are left out, all but which of them live."""
        held = len(self.vectors.base)
        return Nodes(
            modality=self.modality,
            vectors=self.vectors.late,
            facts=self.facts.late,
            study=self.study[held:],
            same=self.same.late,
            cross=self.cross.late,
            normal=self.normal[held:],
            alive=self.alive,
        )

    def after(self, base: Nodes) -> Nodes:
        """What is `late`, put together again with the snapshot's own nodes."""
        return Nodes(
            modality=self.modality,
            vectors=self.vectors.after(base.vectors),
            facts=self.facts.after(base.facts),
            study=np.concatenate([base.study, self.study]),
            same=self.same.after(base.same),
            cross=self.cross.after(base.cross),
            normal=np.concatenate([base.normal, self.normal]),
            alive=self.alive,
            messages=base.messages,
        )

    def beliefs(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """What the vectors of these rows say of normal and every finding group: float32 [..., c]."""
        facts = self.facts.take(rows)
        return facts[..., : facts.shape[-1] // 3]


def facts_of(
    beliefs: NDArray[np.float32],
    of_pairs: NDArray[np.float32],
    pairs: NDArray[np.int32],
    findings: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Side by side what is believed of items, what is believed of their pairs, and what is known: float32 [n, 3 c].

    beliefs: float32 [n, c], of normal and every finding group; of_pairs: those of the other modality's items [m, c]
    pairs: int32 [n], the other modality's item of the same study, −1 without one: nothing is believed of that
    findings: uint8 [n, c], 1 for normal or for each of the study's finding groups; all 0 where nothing is known
    """
    paired = of_pairs[np.maximum(pairs, 0)] * (pairs >= 0)[:, None] if len(of_pairs) else np.zeros_like(beliefs)
    return np.concatenate([beliefs, paired, findings], axis=1, dtype=np.float32)


def neighbour_table(
    rows: Rows, cosines: NDArray[np.float32], own: NDArray[np.int32], studies: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cuts over-fetched neighbours to a table of `width`, dropping a row's own study.

    rows int64 [n, m] and cosines [n, m], best first (−1: none); own int32 [n], study of each query row; studies int32,
    study of each archive row. Returns int32 [n, width] and float32 [n, width].
    """
    keep = (rows >= 0) & (studies[np.maximum(rows, 0)] != own[:, None]) if len(studies) else rows >= 0
    kept_rows, kept_cosines = first_kept(rows, cosines, keep, width)
    return kept_rows.astype(np.int32), kept_cosines


def first_kept(
    rows: NDArray[np.integer], values: NDArray[np.float32], keep: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """The first `width` kept entries of every row, in order; −1 and 0 where there are fewer. [n, m] → [n, width]."""
    if rows.shape[1] < width:
        gap = ((0, 0), (0, width - rows.shape[1]))
        rows, values, keep = np.pad(rows, gap), np.pad(values, gap), np.pad(keep, gap)
    if keep[:, :width].all():
        return rows[:, :width], values[:, :width]
    order = np.argsort(~keep, axis=1, kind="stable")[:, :width]
    rows = np.take_along_axis(rows, order, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    keep = np.take_along_axis(keep, order, axis=1)
    return np.where(keep, rows, NO_ROW), np.where(keep, values, np.float32(0.0)).astype(np.float32, copy=False)


def paired_rows(study: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """The row of the other modality with the same study, its first; int32 [n], −1 without one.

    study int32 [n] and other int32 [m] are study indices.
    """
    if not len(other):
        return np.full(len(study), NO_ROW, dtype=np.int32)
    order = np.argsort(other, kind="stable")
    first = order[np.minimum(np.searchsorted(other, study, sorter=order), len(other) - 1)]
    return np.where(other[first] == study, first, NO_ROW).astype(np.int32)


def exact_nodes(
    *,
    vectors: dict[Modality, Matrix],
    studies: dict[Modality, NDArray[np.int32]],
    normal: dict[Modality, NDArray[np.int8]],
    findings: dict[Modality, NDArray[np.uint8]],
    layout: VectorLayout,
    width: int,
) -> dict[Modality, Nodes]:
    """An archive held in memory, its tables by exact scan: for training, evaluation and small archives.

    vectors: float32 [n, d] per modality; studies and normal: as in Nodes; findings: as in `facts_of`; width: of the
    kNN tables
    """
    beliefs = {m: layout.beliefs(vectors[m]) for m in Modality}
    return {
        m: Nodes(
            modality=m,
            vectors=Column(vectors[m]),
            facts=Column(
                facts_of(beliefs[m], beliefs[m.other], paired_rows(studies[m], studies[m.other]), findings[m])
            ),
            study=studies[m],
            same=exact_table(vectors[m], studies[m], vectors[m], studies[m], width),
            cross=exact_table(vectors[m], studies[m], vectors[m.other], studies[m.other], width),
            normal=normal[m],
            alive=np.ones(len(studies[m]), dtype=np.bool_),
        )
        for m in Modality
    }


def exact_gallery(
    *,
    vectors: dict[Modality, Matrix],
    studies: dict[Modality, NDArray[np.int32]],
    archive: Mapping[Modality, Nodes],
    layout: VectorLayout,
    width: int,
) -> dict[Modality, Nodes]:
    """A gallery beside an archive: items to rank that bring neither pairs nor labels, only neighbours."""

    def table(m: Modality, among: Modality) -> Neighbours:
        source = archive[among]
        return exact_table(vectors[m], studies[m], source.vectors.base, source.study, width)

    return {
        m: Nodes(
            modality=m,
            vectors=Column(vectors[m]),
            facts=Column(np.pad(layout.beliefs(vectors[m]), ((0, 0), (0, 2 * layout.beliefs_width)))),
            study=studies[m],
            same=table(m, m),
            cross=table(m, m.other),
            normal=np.zeros(len(studies[m]), dtype=np.int8),
            alive=np.ones(len(studies[m]), dtype=np.bool_),
        )
        for m in Modality
    }


def exact_table(
    queries: Matrix, own: NDArray[np.int32], gallery: Matrix, studies: NDArray[np.int32], width: int
) -> Neighbours:
    """The kNN table of queries [n, d] among gallery [m, d] by full scan, own studies left out."""
    # A study holds few images: that many more than wanted are sure to leave enough of other studies.
    most = int(np.bincount(studies[studies >= 0]).max()) if len(studies) else 0
    rows, cosines = exact_neighbours(queries, gallery, width + most)
    kept = neighbour_table(rows, cosines, own, studies, width)
    return Neighbours(rows=Column(kept[0]), cosines=Column(kept[1]))
