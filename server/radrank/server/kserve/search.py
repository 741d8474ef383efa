"""The search as a model: an image, a text, an embedding or a study in, ids and scores out.

It makes a radrank.v1 SearchRequest and lets a Ranker answer it as `Retrieval.Search` does: hits, order, scores and
errors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.ports import Encoder
from radrank.core.studies import Modality
from radrank.engines.kserve import search as declaration
from radrank.engines.kserve.tensors import Shape
from radrank.server.calls import Caller
from radrank.server.fields import MODALITY_NUMBERS
from radrank.server.kserve.tensors import strings
from radrank.v1 import retrieval_pb2

DEFAULT_K = 10
ENCODED = frozenset(("embedding", "study"))
"""Inputs with which a search has nothing to encode."""

Feed = Mapping[str, NDArray[Any]]
Asker = TypeVar("Asker", contravariant=True)
"""What the search is told of who asks."""


class FoundStudy(Protocol):
    """A hit."""

    @property
    def study_id(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def cosine(self) -> float: ...


class Answer(Protocol):
    """Of a search: hits, best first."""

    @property
    def hits(self) -> Sequence[FoundStudy]: ...


class Searched(Protocol):
    """What the model tells of the bundle."""

    @property
    def sha256(self) -> str: ...
    @property
    def encoder(self) -> Encoder: ...
    @property
    def rerankers(self) -> Mapping[str, object]: ...
    @property
    def default_reranker(self) -> str: ...


Search = Callable[[retrieval_pb2.SearchRequest, Caller], Answer]


class SearchModel(Generic[Asker]):
    """`search`. All inputs are optional, and exactly one of text, image, embedding and study must be there."""

    name = "search"
    batch = 0
    platform = "radrank"

    def __init__(self, search: Callable[[retrieval_pb2.SearchRequest, Asker], Answer], engines: Searched) -> None:
        self._search = search
        self._engines = engines
        self.inputs = declaration.inputs(engines.encoder.layout.dimensions)
        self.outputs = declaration.OUTPUTS

    @property
    def parameters(self) -> Mapping[str, str]:
        engines = self._engines
        return declaration.parameters(
            bundle_sha256=engines.sha256, rerankers=engines.rerankers, default_reranker=engines.default_reranker
        )

    def check(self, shapes: Mapping[str, Shape]) -> None:
        declaration.check(shapes)

    def run(self, feed: Feed, caller: Asker) -> dict[str, NDArray[Any]]:
        hits = self._search(_request(feed), caller).hits
        return {
            "ids": strings([hit.study_id.encode() for hit in hits]),
            "scores": np.array([hit.score for hit in hits], dtype=np.float32),
            "cosines": np.array([hit.cosine for hit in hits], dtype=np.float32),
        }


def _request(feed: Feed) -> retrieval_pb2.SearchRequest:
    return retrieval_pb2.SearchRequest(
        query=_query(feed),
        target=_modality(feed, "target"),
        k=_count(feed, "k") if "k" in feed else DEFAULT_K,
        candidates=_count(feed, "candidates"),
        reranker=_word(feed, "reranker") if "reranker" in feed else None,
        exclude_studies=[_text(value, "exclude_studies") for value in feed.get("exclude_studies", ())],
    )


def _query(feed: Feed) -> retrieval_pb2.Query:
    if "text" in feed:
        return retrieval_pb2.Query(text=_word(feed, "text"))
    if "image" in feed:
        return retrieval_pb2.Query(image=feed["image"][0])
    modality = _modality(feed, "modality")
    if "study" in feed:
        return retrieval_pb2.Query(study={"study_id": _word(feed, "study"), "modality": modality})
    values = feed["embedding"].astype("<f4", copy=False).tobytes()
    return retrieval_pb2.Query(embedding={"values": values, "modality": modality})


def _count(feed: Feed, name: str) -> int:
    count = int(feed[name][0]) if name in feed else 0
    if count < 0:
        raise InvalidQuery(name, "must not be negative")
    return count


def _modality(feed: Feed, name: str) -> Any:
    if name not in feed:
        return None
    word = _word(feed, name)
    if word not in list(Modality):
        raise InvalidQuery(name, f"must be one of: {', '.join(Modality)}")
    return MODALITY_NUMBERS[Modality(word)]


def _word(feed: Feed, name: str) -> str:
    return _text(feed[name][0], name)


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidQuery(name, "must be UTF-8") from None
