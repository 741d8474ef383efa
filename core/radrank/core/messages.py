"""What candidates hear from the archive, looked up: a snapshot holds it for each of its items, as the snapshot stands.

A candidate hears from a few of its own nearest archive items, which no query changes. Looked up in one row, it spares
a search the gathering of some thousand items, and its re-ranker the reading of them. Where an item came, or one of its
neighbours went, since the snapshot was built, or where a query excludes one, its messages are made anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import GraphBuilder
from radrank.core.nodes import NO_ROW, Nodes
from radrank.core.ports import ArchiveMessages
from radrank.core.studies import Modality
from radrank.core.vectors import Rows


class MessageTables:
    """Messages of one kind to the items of one view. Immutable and thread-safe."""

    def __init__(self, nodes: Mapping[Modality, Nodes], builder: GraphBuilder, make: ArchiveMessages) -> None:
        self._nodes = nodes
        self._builder = builder
        self._make = make
        self._whole = {m: bool(found.alive.all()) for m, found in nodes.items()}

    def __call__(self, target: Modality, rows: Rows, excluded: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [n, w] of these items. excluded: int32, studies that nobody hears from."""
        held = self._nodes[target].messages.get(self._make.key)
        if held is None or not len(held):
            return self._made(target, rows, excluded)
        stale = self._stale(target, rows, len(held), excluded)
        if stale is None:
            return held.take(rows, axis=0)
        found = held.take(np.minimum(rows, len(held) - 1), axis=0)
        if stale.any():
            found[stale] = self._made(target, rows[stale], excluded)
        return found

    def _made(self, target: Modality, rows: Rows, excluded: NDArray[np.int32]) -> NDArray[np.float32]:
        return self._make(self._builder.around(target, rows, excluded))[0, : len(rows)]

    def _stale(self, target: Modality, rows: Rows, held: int, excluded: NDArray[np.int32]) -> NDArray[np.bool_] | None:
        """Which of the items hear something else than when the snapshot was built, bool [n]; None where none does."""
        came = rows >= held
        if all(self._whole.values()) and not len(excluded):
            return came if came.any() else None
        nodes = self._nodes[target]
        for m, table in ((target, nodes.same), (target.other, nodes.cross)):
            among = self._nodes[m]
            if not len(among):
                continue
            near = table.rows.take(rows)[:, : self._make.settings.neighbours]
            safe = np.maximum(near, 0)
            gone = ~among.alive.take(safe) | np.isin(among.study.take(safe), excluded)
            came |= (gone & (near != NO_ROW)).any(axis=1)
        return came
