"""Requests that come together run as one: for engines that cost as much for eight as for one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import ARCHIVE_RELATIONS
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import checked, requests_of
from radrank.engines.engine import Engine, Feed, TensorSpec

_Key = tuple[tuple[int, ...], ...]


class Batching:
    """An Engine before an Engine. Whoever comes while it is busy joins those who wait, and they go in together.

    most: requests that run as one; what holds more goes alone
    lanes: runs at the same time
    delay: seconds that an idle engine waits for others to join; 0 where a lone request goes at once
    """

    def __init__(self, engine: Engine, *, most: int, lanes: int = 1, delay: float = 0.0) -> None:
        self._engine = engine
        self._most = most
        self._delay = delay
        self._turns = threading.BoundedSemaphore(lanes)
        self._guard = threading.Lock()
        self._forming: dict[_Key, _Group] = {}  # a queue for each bucket: only equal shapes go together

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.outputs

    @property
    def manifest(self) -> EngineManifest:
        return self._engine.manifest

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        self._engine.warm_up(feeds)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        given = checked(feed, self.inputs)  # one caller's mistake is not another's
        if requests_of(given) > self._most:
            with self._turns:
                return self._engine.run(given)
        group, place, leads = self._joined(given)
        if not leads:
            group.done.wait()
            return group.answer(place)
        if self._delay:
            group.full.wait(self._delay)
        with self._turns:
            self._close_group(group)
            group.run(self._engine)
        return group.answer(place)

    def close(self) -> None:
        self._engine.close()

    def _joined(self, feed: Feed) -> tuple[_Group, int, bool]:
        """The group that this request goes with, its place there, and whether it is the one that runs it."""
        key = tuple(array.shape[1:] for array in feed.values())
        with self._guard:
            group = self._forming.get(key)
            leads = group is None or group.size + requests_of(feed) > self._most
            if group is None or leads:
                group = self._forming[key] = _Group(key)
            place = group.add(feed)
            if group.size >= self._most:
                group.full.set()
                del self._forming[key]
        return group, place, leads

    def _close_group(self, group: _Group) -> None:
        with self._guard:
            if self._forming.get(group.key) is group:
                del self._forming[group.key]


class _Group:
    """Requests of equal shapes that run as one."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.size = 0
        self.full, self.done = threading.Event(), threading.Event()
        self._feeds: list[Feed] = []
        self._answers: list[dict[str, NDArray[Any]]] = []
        self._error: Exception | None = None

    def add(self, feed: Feed) -> int:
        self._feeds.append(feed)
        self.size += requests_of(feed)
        return len(self._feeds) - 1

    def run(self, engine: Engine) -> None:
        try:
            answers = engine.run(together(self._feeds))
            ends = np.cumsum([requests_of(feed) for feed in self._feeds])[:-1]
            split = {name: np.split(array, ends) for name, array in answers.items()}
            self._answers = [{name: parts[place] for name, parts in split.items()} for place in range(len(self._feeds))]
        except Exception as error:  # noqa: BLE001 - raised again in every thread that waits
            self._error = error
        finally:
            self.done.set()

    def answer(self, place: int) -> dict[str, NDArray[Any]]:
        if self._error is not None:
            raise self._error
        return self._answers[place]


def together(feeds: list[Feed]) -> Mapping[str, NDArray[Any]]:
    """Several feeds of equal shapes as one. Tables that lead to archive items are moved to where those stand now."""
    if len(feeds) == 1:
        return feeds[0]
    found = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    for relation in ARCHIVE_RELATIONS:
        name = f"{relation.name}.idx"
        if name in found:
            starts = np.cumsum([0, *(len(feed[relation.source]) for feed in feeds)])
            moved = [
                np.where(feed[name] >= 0, feed[name] + start, feed[name])
                for feed, start in zip(feeds, starts, strict=False)
            ]
            found[name] = np.concatenate(moved)
    return found
