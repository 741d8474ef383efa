"""What every runtime gives: one model that turns named arrays into named arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.core.ports import EngineManifest

Feed = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
"""Of every input, by name: one bucket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output. shape: −1 on axes that vary."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of a bundle, before a runtime opens it.

    name: image_encoder, text_encoder, reranker_<name> or messages_<name>; path, sha256: of its ONNX file
    buckets: the shapes that it is asked with, smallest first; one engine serves all of them
    """

    name: str
    path: Path
    sha256: str
    precision: str
    buckets: Sequence[Shapes] = field(default=())


class Engine(Protocol):
    """One open model. Calls block, release the GIL while they compute, and are thread-safe."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def manifest(self) -> EngineManifest: ...
    def warm_up(self, feeds: Iterable[Feed]) -> None:
        """Runs each feed once: what is allocated, captured or tuned on a first call is done here."""
        ...

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Outputs by name, the caller's own.

        Raises InvalidQuery where an input is missing or of another type or shape, Unavailable where this is closed.
        """
        ...

    def close(self) -> None: ...
