"""What core needs from the engines. All calls block, release the GIL while they compute, and are thread-safe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.core.graph import GraphBatch, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix, Rows

Progress = Callable[[int, int], None]
"""Called with (done, of how many)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineManifest:
    """What an engine is made of, for a reply's provenance."""

    sha256: str
    precision: str
    runtime: str


class Encoder(Protocol):
    """Both towers of one dual encoder."""

    @property
    def layout(self) -> VectorLayout: ...
    @property
    def image_size(self) -> int: ...
    @property
    def manifests(self) -> Mapping[Modality, EngineManifest]: ...
    def encode_images(self, pixels: NDArray[np.uint8]) -> Matrix:
        """pixels uint8 [n, image_size, image_size], gray. Returns unit vectors float32 [n, d]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors float32 [n, d]; what passes the token limit is cut."""
        ...

    def classify(self, vectors: Matrix, modality: Modality) -> NDArray[np.float32]:
        """Probability of an abnormal study, float32 [n], of unit vectors [n, d]."""
        ...

    def close(self) -> None: ...


class CandidateIndex(Protocol):
    """Nearest neighbours by cosine among the rows it was built from."""

    def __len__(self) -> int: ...
    def search(self, queries: Matrix, k: int, *, source: Modality | None = None) -> tuple[Rows, NDArray[np.float32]]:
        """queries float32 [q, d], unit. Returns rows int64 and cosines float32, both [q, min(k, n)], best first.

        source: what the queries are vectors of, None where it does not matter: an index may look further for some.
        """
        ...

    def close(self) -> None: ...


class IndexFactory(Protocol):
    """Makes, keeps and reopens candidate indexes of one kind."""

    @property
    def name(self) -> str:
        """Kind and parameters, for the snapshot's manifest."""
        ...

    def build(self, vectors: Matrix, *, progress: Progress | None = None) -> CandidateIndex: ...
    def save(self, index: CandidateIndex, path: Path) -> None: ...
    def load(self, path: Path, vectors: Matrix, *, target: Modality | None = None) -> CandidateIndex:
        """target: what the vectors are of, None for a search that no tuning bears on."""
        ...


class ArchiveMessages(Protocol):
    """Makes of an item's archive neighbours what a re-ranker reads of them, the same for every query."""

    @property
    def key(self) -> str:
        """Of all that messages depend on beside the archive: equal keys, equal messages. Fit for a file's name."""
        ...

    @property
    def settings(self) -> GraphSettings: ...
    def __call__(self, batch: GraphBatch) -> NDArray[np.float32]:
        """float32 [B, n, w] of a batch of TOLD_RELATIONS alone (`GraphBuilder.around`, `GraphBatch.hearing`)."""
        ...


class Reranker(Protocol):
    """Scores candidates from their graph.

    messages: None where it reads the candidates' archive neighbours itself, for every query
    relations: names of the graph's relations that it reads
    """

    @property
    def manifest(self) -> EngineManifest: ...
    @property
    def settings(self) -> GraphSettings: ...
    @property
    def messages(self) -> ArchiveMessages | None: ...
    @property
    def relations(self) -> Collection[str]: ...
    def score(self, batch: GraphBatch) -> NDArray[np.float32]:
        """float32 [B, K]; padded slots hold anything."""
        ...

    def close(self) -> None: ...


def messages_of(rerankers: Mapping[str, Reranker]) -> list[ArchiveMessages]:
    """What makes messages for these re-rankers, each kind once."""
    made = [reranker.messages for reranker in rerankers.values() if reranker.messages is not None]
    return list({each.key: each for each in made}.values())
