"""What each stage can't do without: its engine called in a bare loop on the same input, or one copy of what it reads.

Every call tells its time as "floor <stage>".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from radrank.bench.turns import Call, clocked
from radrank.core.graph import Candidates, GraphBuilder
from radrank.core.ranking import Ranker
from radrank.core.studies import Modality
from radrank.core.vectors import Vector
from radrank.datasets import pixels
from radrank.engines.bundle import Bundle
from radrank.engines.models import IMAGE_ENCODER, RERANKER, TEXT_ENCODER

_HEALTH = "/grpc.health.v1.Health/Check"
_SPARE = 8  # rows that a search asks the index for beyond the candidates, as core's view does


class Floors:
    """Of searches in one view of the archive, with one re-ranker and so many candidates."""

    def __init__(self, bundle: Bundle, ranker: Ranker, reranker: str, *, candidates: int) -> None:
        self._bundle = bundle
        self._view = ranker.view
        self._engine = bundle.engines[RERANKER + reranker]
        self._candidates = candidates
        nodes = ranker.view.nodes
        settings, self._messages = bundle.rerankers[reranker].settings, bundle.rerankers[reranker].messages
        self._builder = GraphBuilder(gallery=nodes, archive=nodes, layout=bundle.manifest.layout, settings=settings)

    def text_vector(self, text: str) -> Vector:
        vector: Vector = self._bundle.encoder.encode_texts([text])[0]
        return vector

    def of_embedding(self, text: str) -> list[Call]:
        """Of a query by this text's vector."""
        vector = self.text_vector(text)
        values = vector.tobytes()
        decode = clocked("floor decode", lambda: np.frombuffer(values, dtype="<f4").copy())
        return [decode, *self._of_search(vector, Modality.REPORT)]

    def of_text(self, text: str) -> list[Call]:
        tokens, engine = self._bundle.encoder.tokens, self._bundle.engines[TEXT_ENCODER]
        feed = {"ids": tokens.padded(tokens([text]))}
        encode = clocked("floor encode", lambda: engine.run(feed))
        return [encode, *self._of_search(self.text_vector(text), Modality.REPORT)]

    def of_image(self, content: bytes) -> list[Call]:
        encoder, engine = self._bundle.encoder, self._bundle.engines[IMAGE_ENCODER]
        size = encoder.image_size
        feed = {"pixels": pixels.load(content, size)[None]}
        decode = clocked("floor decode", lambda: pixels.load(content, size))
        encode = clocked("floor encode", lambda: engine.run(feed))
        return [decode, encode, *self._of_search(encoder.encode_images(feed["pixels"])[0], Modality.IMAGE)]

    def _of_search(self, vector: Vector, source: Modality) -> list[Call]:
        view, target = self._view, source.other
        index = view.snapshot.items[target].index
        wanted = min(self._candidates + _SPARE, len(index))
        found = view.nearest(target, vector, self._candidates, source=source)
        around = self._builder.settings.query_neighbours
        bridges = {m: view.nearest(m, vector, around, source=source) for m in Modality}
        feed, read = self._graph(vector, source, found, bridges)
        scores, rows = found.cosines, found.rows
        return [
            clocked("floor candidates", lambda: index.search(vector[None], wanted, source=source)),
            clocked("floor graph", _copying(read)),
            clocked("floor rerank", lambda: self._engine.run(feed)),
            clocked("floor order", lambda: np.lexsort((rows, -scores))),
            clocked("scan", _copying(view.snapshot.items[target].vectors.nbytes)),
        ]

    def _graph(
        self, vector: Vector, source: Modality, found: Candidates, bridges: Mapping[Modality, Candidates]
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """What the re-ranker's engine is fed with, and the bytes that a graph is made of."""
        target = source.other
        graph = self._builder.build(
            query=vector, query_modality=source, target=target, candidates=found, bridges=bridges
        )
        batch = self._builder.batch([graph])
        if self._messages is not None:
            batch = batch.told_by(self._messages)
        feed = batch.feed([given.name for given in self._engine.inputs])
        vectors = len(found) * vector.nbytes
        return feed, vectors + sum(array.nbytes for array in feed.values())


@contextmanager
def empty_calls(address: str) -> Iterator[Call]:
    """A call that asks the server for its health: what any call costs that does nothing."""
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(_HEALTH, None, None)
        yield clocked("floor wire", lambda: check(b""))


def _copying(size: int) -> Any:
    """One memcpy of so many bytes."""
    source, copy = np.zeros(size, dtype=np.uint8), np.ones(size, dtype=np.uint8)
    source[:] = 7  # pages of zeros would all be one
    return lambda: np.copyto(copy, source)
