"""The search as a model: an image, a text, an embedding or a study in, ids and scores out.

It makes a radrank.v1 SearchRequest and lets `Retrieval.Search` answer it: hits, order, scores and errors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality
from radrank.server.fields import MODALITY_NUMBERS
from radrank.server.kserve.tensors import BYTES, Shape, Tensor, strings
from radrank.server.library import Engines
from radrank.v1 import retrieval_pb2

DEFAULT_K = 10
_CONTENTS = ("text", "image", "embedding", "study")

Search = Callable[[retrieval_pb2.SearchRequest, grpc.ServicerContext], retrieval_pb2.SearchResponse]
Feed = Mapping[str, NDArray[Any]]


class SearchModel:
    """`search`. All inputs are optional, and exactly one of text, image, embedding and study must be there."""

    name = "search"
    batch = 0
    platform = "radrank"

    def __init__(self, search: Search, engines: Engines) -> None:
        self._search = search
        self._engines = engines
        self.inputs = (
            _input("text", BYTES),
            _input("image", BYTES),
            _input("embedding", "FP32", engines.encoder.layout.dimensions),
            _input("study", BYTES),
            _input("modality", BYTES),
            _input("target", BYTES),
            _input("k", "INT32"),
            _input("candidates", "INT32"),
            _input("reranker", BYTES),
            _input("exclude_studies", BYTES, -1),
        )
        self.outputs = (
            Tensor(name="ids", datatype=BYTES, shape=(-1,)),
            Tensor(name="scores", datatype="FP32", shape=(-1,)),
            Tensor(name="cosines", datatype="FP32", shape=(-1,)),
        )

    @property
    def parameters(self) -> Mapping[str, str]:
        engines = self._engines
        rerankers = ", ".join(sorted(engines.rerankers))
        return {"bundle_sha256": engines.sha256, "rerankers": rerankers, "default_reranker": engines.default_reranker}

    def check(self, shapes: Mapping[str, Shape]) -> None:
        given = [name for name in _CONTENTS if name in shapes]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise InvalidQuery("inputs", f"must hold one of {', '.join(_CONTENTS)}, and hold {found}")
        if "modality" in shapes and given[0] not in ("embedding", "study"):
            raise InvalidQuery("modality", "is that of an embedding or a study")

    def run(self, feed: Feed, context: grpc.ServicerContext) -> dict[str, NDArray[Any]]:
        hits = self._search(_request(feed), context).hits
        return {
            "ids": strings([hit.study_id.encode() for hit in hits]),
            "scores": np.array([hit.score for hit in hits], dtype=np.float32),
            "cosines": np.array([hit.cosine for hit in hits], dtype=np.float32),
        }


def _input(name: str, datatype: str, size: int = 1) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(size,), optional=True)


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
