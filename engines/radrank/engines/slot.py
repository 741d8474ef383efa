"""A place for an engine that can be exchanged while it is in use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from radrank.core.live import Live, Shared
from radrank.core.ports import EngineManifest
from radrank.engines.engine import Engine, Feed, TensorSpec


class Slot:
    """An Engine that stands for another. Calls that run when it is exchanged finish on the one they began with."""

    def __init__(self, engine: Engine) -> None:
        self._live = Live(_shared(engine))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._live.now.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._live.now.outputs

    @property
    def manifest(self) -> EngineManifest:
        return self._live.now.manifest

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        with self._live.lease() as engine:
            engine.warm_up(feeds)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        with self._live.lease() as engine:
            return engine.run(feed)

    def exchange(self, engine: Engine) -> None:
        """Puts another engine in its place; the old one is closed when its last call ends."""
        self._live.swap(_shared(engine))

    def close(self) -> None:
        self._live.close()


def _shared(engine: Engine) -> Shared[Engine]:
    return Shared(engine, lambda held: held.close())
