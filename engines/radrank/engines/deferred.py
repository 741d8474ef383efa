"""An engine that is opened when it is first asked for anything: the last resort, which often nobody needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from numpy.typing import NDArray

from radrank.core.errors import Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.engine import Engine, Feed, TensorSpec


class Deferred:
    """An Engine that stands for one not yet opened. Thread-safe.

    Each of its calls raises what opening it raises, and Unavailable where it was closed before.
    """

    def __init__(self, opener: Callable[[], Engine]) -> None:
        self._opener: Callable[[], Engine] | None = opener
        self._engine: Engine | None = None
        self._opening = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._opened().inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._opened().outputs

    @property
    def manifest(self) -> EngineManifest:
        return self._opened().manifest

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        self._opened().warm_up(feeds)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        return self._opened().run(feed)

    def close(self) -> None:
        with self._opening:
            self._opener = None
            if self._engine is not None:
                self._engine.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            with self._opening:
                if self._engine is None:
                    if self._opener is None:
                        raise Unavailable("this engine is closed")
                    self._engine = self._opener()
        return self._engine
