"""What a model's feeds must agree on beyond each input's own shape: axes that vary together, rows that exist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.graph import CANDIDATE, DIRECTIONS, QUERY, RELATIONS
from radrank.core.nodes import NO_ROW
from radrank.engines.engine import Shapes
from radrank.engines.kserve.tensors import Shape, Tensor

Axis = tuple[str, int]
_SOURCES = {f"{relation.name}.idx": relation.source for relation in RELATIONS}


class Axes:
    """The axes of a model that vary, in groups of equal length: first axes, or others, that are equal in all buckets.

    batch: the most requests in one feed, where the first axis of every input and output counts them; else 0
    """

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], buckets: Sequence[Shapes]) -> None:
        groups: defaultdict[tuple[bool, tuple[int, ...]], list[Axis]] = defaultdict(list)
        for tensor in inputs:
            for axis, size in enumerate(tensor.shape):
                if size == -1:
                    sizes = tuple(bucket[tensor.name][axis] for bucket in buckets)
                    # Where all buckets hold as many requests, that number may be some other axis's too.
                    groups[axis == 0, sizes].append((tensor.name, axis))
        self._groups = [
            (axes, max((bucket[axes[0][0]][axes[0][1]] for bucket in buckets), default=0)) for axes in groups.values()
        ]
        self.batch = self._batch(inputs, outputs)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raises InvalidQuery where an axis is longer than any bucket, or differs from those it goes with."""
        for axes, longest in self._groups:
            first, axis = axes[0]
            size = shapes[first][axis]
            if longest and size > longest:
                raise InvalidQuery(first, f"has {size:,} on axis {axis}, and may have at most {longest:,}")
            for name, other in axes[1:]:
                if shapes[name][other] != size:
                    found = f"has {shapes[name][other]:,} on axis {other}"
                    raise InvalidQuery(name, f"{found}, and must have as many as {first} on axis {axis}: {size:,}")

    def _batch(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        first = {(tensor.name, 0) for tensor in inputs}
        if any(tensor.shape[0] != -1 for tensor in outputs):
            return 0
        return next((longest for axes, longest in self._groups if first <= set(axes)), 0)


def check_rows(feed: Mapping[str, NDArray[Any]], *, vocabulary: int) -> None:
    """Raises InvalidQuery where an index leads to no row: an engine reads what is not there, or fails.

    vocabulary: how many token ids there are
    """
    for name, array in feed.items():
        first, count = _rows(name, feed, vocabulary)
        if count is not None and array.size and (int(array.min()) < first or int(array.max()) >= count):
            raise InvalidQuery(name, f"must hold numbers from {first} to {count - 1:,}")


def _rows(name: str, feed: Mapping[str, NDArray[Any]], vocabulary: int) -> tuple[int, int | None]:
    """(smallest number that `name` may hold, how many rows there are; None where it holds no indices)."""
    if name == "ids":
        return 0, vocabulary
    if name == "direction":
        return 0, len(DIRECTIONS)
    source = _SOURCES.get(name)
    if source is None or not np.issubdtype(feed[name].dtype, np.integer):
        return 0, None
    if source == QUERY:
        return NO_ROW, 1
    return NO_ROW, feed[CANDIDATE].shape[1] if source == CANDIDATE else len(feed[source])
