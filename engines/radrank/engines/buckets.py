"""Requests in the shapes that an engine was built for: which bucket holds them, and what fills the rest of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.nodes import NO_ROW
from radrank.engines.engine import Feed, Shapes, TensorSpec


class Bucketed(ABC):
    """What engines of fixed shapes share: a feed goes to the smallest bucket that holds it.

    inputs: of the model; buckets: its shapes, smallest first
    """

    inputs: tuple[TensorSpec, ...]

    def __init__(self, buckets: Sequence[Shapes]) -> None:
        self.buckets = tuple(buckets)
        # Where requests don't refer to each other's rows, a feed longer than the largest bucket may be asked in parts.
        separable = all(len({shape[0] for shape in bucket.values()}) == 1 for bucket in self.buckets)
        self._most = max(map(batch_of, self.buckets)) if separable else None

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        """All buckets were made ready when the engine was opened; this walks the whole way once."""
        for feed in feeds:
            self.run(feed)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """As Engine says. Raises InvalidQuery where no bucket holds the feed."""
        given, most = checked(feed, self.inputs), self._most
        rows = max(map(len, given.values()))
        if most is None or rows <= most:
            return self._run(smallest(self.buckets, given), given)
        parts = [{name: array[at : at + most] for name, array in given.items()} for at in range(0, rows, most)]
        answers = [self._run(smallest(self.buckets, part), part) for part in parts]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    @abstractmethod
    def _run(self, place: int, feed: Feed) -> dict[str, NDArray[Any]]:
        """Answers a feed that the bucket at this place holds."""


def pad_value(name: str) -> int:
    """What fills the rows of requests that are not there: tables of rows lead nowhere, all else is zero."""
    return NO_ROW if name.endswith(".idx") else 0


def smallest(buckets: Sequence[Shapes], feed: Feed) -> int:
    """The first bucket, in their order, that holds the feed: with as many rows or more, all other axes the same.

    Raises InvalidQuery where none does.
    """
    for place, bucket in enumerate(buckets):
        if all(_holds(shape, feed[name].shape) for name, shape in bucket.items()):
            return place
    name, array = max(feed.items(), key=lambda item: item[1].size)
    raise InvalidQuery(name, f"no bucket of this engine holds the shape {tuple(array.shape)} and what comes with it")


def checked(feed: Feed, inputs: Sequence[TensorSpec]) -> Feed:
    """The arrays that are inputs. Raises InvalidQuery where one is missing, or of another type or rank."""
    for given in inputs:
        if given.name not in feed:
            raise InvalidQuery(given.name, "is missing")
        array = feed[given.name]
        if array.dtype != given.dtype or array.ndim != len(given.shape):
            wanted = f"{given.dtype} with {len(given.shape)} axes"
            raise InvalidQuery(given.name, f"must be {wanted}, and is {array.dtype} with {array.ndim}")
    return {given.name: feed[given.name] for given in inputs}


def check_fit(feed: Feed, inputs: Sequence[TensorSpec]) -> None:
    """Of a feed that an engine did not take. Raises as `checked`, and InvalidQuery where an axis is of another size."""
    for given, array in zip(inputs, checked(feed, inputs).values(), strict=True):
        if any(wanted not in (-1, size) for wanted, size in zip(given.shape, array.shape, strict=True)):
            raise InvalidQuery(given.name, f"must be {list(given.shape)}, -1 for any size, and is {list(array.shape)}")


def fill(view: NDArray[Any], array: NDArray[Any], pad: int) -> None:
    """Copies the array into the first rows of the view, and pads the rest."""
    view[: len(array)] = array
    view[len(array) :] = pad


def rows_of_output(shape: Sequence[int], bucket: Shapes, feed: Feed) -> int:
    """How many rows of an output of this shape answer the feed: as many as the inputs have that fill as many rows."""
    return next((len(feed[name]) for name, given in bucket.items() if given[0] == shape[0]), shape[0])


def batch_of(shapes: Shapes) -> int:
    """Requests that a bucket holds: every input has that many rows, or some for each."""
    return min(shape[0] for shape in shapes.values())


def requests_of(feed: Feed) -> int:
    """Requests that a feed holds."""
    return batch_of({name: array.shape for name, array in feed.items()})


def _holds(bucket: Sequence[int], asked: Sequence[int]) -> bool:
    return asked[0] <= bucket[0] and tuple(asked[1:]) == tuple(bucket[1:])
