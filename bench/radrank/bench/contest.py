"""One search in three ways: by a careful user's torch and PyG, by our pipeline in this process, and by our server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Unpack

import numpy as np
import torch

from radrank.bench.careful import Careful, Found
from radrank.bench.sides import Question
from radrank.bench.turns import Call, clocked
from radrank.client.client import Client
from radrank.client.requests import SearchOptions
from radrank.client.results import SearchResult
from radrank.core.graph import Candidates
from radrank.core.ranking import Content, ImageQuery, Ranker, Ranking, SearchQuery, TextQuery, VectorQuery
from radrank.core.studies import Modality
from radrank.core.vectors import Vector
from radrank.datasets import pixels

CAREFUL, OURS, SERVER = "torch + PyG", "in process", "server"
RERANKER = "sage"
HITS = 10

Asked = tuple[Vector, Modality]
"""A query's vector [d], and what it is of; the other modality is searched."""


class Contest:
    """The same work by all three; every method gives a call for each side."""

    def __init__(self, careful: Careful, ranker: Ranker, client: Client, *, candidates: int) -> None:
        self._careful = careful
        self._ranker = ranker
        self._client = client
        self._candidates = candidates

    def text(self, text: str) -> list[Call]:
        """A text, from its letters to the ids of its hits."""
        careful = self._careful
        return [
            clocked(CAREFUL, lambda: self._by_careful(careful.text(text), Modality.REPORT)),
            clocked(OURS, lambda: self._by_us(TextQuery(text=text))),
            clocked(SERVER, lambda: self._by_server(text=text)),
        ]

    def image(self, content: bytes) -> list[Call]:
        """An image, from its encoded bytes to the ids of its hits."""
        careful, size = self._careful, self._ranker.encoder.image_size
        return [
            clocked(CAREFUL, lambda: self._by_careful(careful.image(content), Modality.IMAGE)),
            clocked(OURS, lambda: self._by_us(ImageQuery(pixels=pixels.load(content, size)))),
            clocked(SERVER, lambda: self._by_server(image=content)),
        ]

    def embedding(self, asked: Asked) -> list[Call]:
        """A vector that the caller has."""
        vector, m = asked
        return [
            clocked(CAREFUL, lambda: self._by_careful(torch.from_numpy(vector), m)),
            clocked(OURS, lambda: self._by_us(VectorQuery(vector=vector, modality=m))),
            clocked(SERVER, lambda: self._by_server(embedding=vector, modality=m.value)),
        ]

    def graph(self, asked: Asked) -> list[Call]:
        """The graph of one query and its re-ranking alone: by us and by the server, as their stage times tell."""
        vector, m = asked
        candidates = self._careful.nearest(m.other, torch.from_numpy(vector), self._candidates)

        def by_careful() -> Mapping[str, float]:
            start = perf_counter_ns()
            self._careful.reranked(torch.from_numpy(vector), m, m.other, candidates)
            return {CAREFUL: (perf_counter_ns() - start) / 1e6}

        def by_us() -> Mapping[str, float]:
            times = self._by_us(VectorQuery(vector=vector, modality=m)).times
            return {OURS: (times.graph + times.rerank) / 1e3}

        def by_server() -> Mapping[str, float]:
            times = self._by_server(embedding=vector, modality=m.value).times
            return {SERVER: (times.graph_us + times.rerank_us) / 1e3}

        return [by_careful, by_us, by_server]

    def vectors(self, question: Question) -> list[Asked]:
        """The question's image and its report as vectors of the bundle's space."""
        encoder = self._ranker.encoder
        image = encoder.encode_images(pixels.load(question.image, encoder.image_size)[None])[0]
        return [(image, Modality.IMAGE), (encoder.encode_texts([question.report])[0], Modality.REPORT)]

    def score_difference(self, asked: Asked) -> float:
        """The largest, over all candidates: both sides score the same ones, amid the same neighbours."""
        vector, m = asked
        view, around = self._ranker.view, self._careful.settings.query_neighbours
        found, near = (
            _tensors(view.nearest(target, vector, k, source=m))
            for target, k in ((m.other, self._candidates), (m, around))
        )
        scores = self._careful.scores(torch.from_numpy(vector), m, m.other, found, near).numpy()
        ranking = self._by_us(VectorQuery(vector=vector, modality=m), k=self._candidates)
        return max(abs(hit.score - float(scores[hit.candidate_rank - 1])) for hit in ranking.hits)

    def vector_difference(self, question: Question) -> dict[str, float]:
        """The largest between both sides' vectors of the question's image and of its report."""
        theirs = [self._careful.image(question.image), self._careful.text(question.report)]
        return {
            m.value: float(np.abs(vector - other.numpy()).max())
            for (vector, m), other in zip(self.vectors(question), theirs, strict=True)
        }

    def same_hits(self, asked: Asked) -> bool:
        """Whether the server answers as our pipeline in this process does."""
        vector, m = asked
        ours = self._by_us(VectorQuery(vector=vector, modality=m)).hits
        served = self._by_server(embedding=vector, modality=m.value).hits
        return [hit.study_id for hit in ours] == [hit.study_id for hit in served]

    def _by_careful(self, vector: torch.Tensor, m: Modality) -> Sequence[str]:
        return self._careful.search(vector, m, m.other, k=HITS, candidates=self._candidates)

    def _by_us(self, content: Content, k: int = HITS) -> Ranking:
        query = SearchQuery(content=content, k=k, candidates=self._candidates, reranker=RERANKER)
        return self._ranker.search(query)

    def _by_server(self, **query: Unpack[SearchOptions]) -> SearchResult:
        query |= {"k": HITS, "candidates": self._candidates, "reranker": RERANKER}
        return self._client.search(**query)


def _tensors(found: Candidates) -> Found:
    return torch.from_numpy(found.rows), torch.from_numpy(found.cosines)
