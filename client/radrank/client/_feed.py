"""Iterators that gRPC reads from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Feed(Generic[T, U]):
    """Messages for a streaming call, made one by one as the server takes them.

    gRPC would log what the source raises and answer "Exception iterating requests!". A Feed keeps it for `check`
    instead. With `aborts` it also cancels the call, because a stream that merely ends would be taken as complete;
    `call` must then be set.
    """

    def __init__(self, source: Iterable[T], convert: Callable[[T], U], *, aborts: bool = False) -> None:
        self._source = iter(source)
        self._convert = convert
        self._aborts = aborts
        self._call: Any = None
        self._has_call = threading.Event()
        self._error: Exception | None = None

    @property
    def call(self) -> Any:
        return self._call

    @call.setter
    def call(self, call: Any) -> None:
        self._call = call
        self._has_call.set()

    def __iter__(self) -> Iterator[U]:
        return self

    def __next__(self) -> U:
        try:
            return self._convert(next(self._source))
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - `check` raises it in the caller's thread
            self._error = error
            if self._aborts:
                self._has_call.wait()
                self._call.cancel()
            raise StopIteration from None

    def check(self) -> None:
        """Raises what the source raised."""
        if self._error is not None:
            raise self._error


def batches(source: Iterable[T], *, count: int, size: int, measure: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of at most `count` items and `size` bytes together; one item alone may be larger."""
    batch: list[T] = []
    held = 0
    for item in source:
        weight = measure(item)
        if batch and (len(batch) == count or held + weight > size):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += weight
    if batch:
        yield batch
