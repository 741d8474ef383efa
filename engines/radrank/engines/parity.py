"""The gate before an engine: it must rank the bundle's golden queries as fp32 on the CPU does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch
from radrank.core.graph import TOLD_RELATIONS, GraphBatch
from radrank.engines.engine import Engine, Feed
from radrank.engines.models import IMAGE_ENCODER, MESSAGES_OF, RERANKER, TEXT_ENCODER

TOP = 10
LEAST = 0.98
"""Of both figures: what a rounding to half precision keeps, and broken weights don't."""
TOLERANCE = 1e-3
"""Of fp32 answers: other machines round otherwise, other weights answer otherwise."""
_GRAPH, _MESSAGES, _SCORES = "graph/", "messages/", "scores/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Means over golden queries. overlap: share of the first 10 that both have; tau: Kendall's τ-b over all."""

    overlap: float
    tau: float

    @property
    def passes(self) -> bool:
        return self.overlap >= LEAST and self.tau >= LEAST

    def __str__(self) -> str:
        return f"top-{TOP} overlap {self.overlap:.3f}, Kendall τ {self.tau:.3f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Golden queries of one model: what it is asked with, and what fp32 answered.

    gallery: float32 [n, d] for an encoder, whose vectors rank it, and for messages, which rank others; None for a
    re-ranker, whose answers are scores
    """

    feeds: tuple[Feed, ...]
    expected: NDArray[np.float32]
    gallery: NDArray[np.float32] | None
    mask: NDArray[np.float32] | None = None

    def answers(self, engine: Engine) -> NDArray[np.float32]:
        """The first output over all feeds."""
        output = engine.outputs[0].name
        return np.concatenate([engine.run(feed)[output] for feed in self.feeds_for(engine)])

    def feeds_for(self, engine: Engine) -> list[Feed]:
        """The feeds, with the arrays that this engine takes."""
        taken = [given.name for given in engine.inputs]
        return [{name: feed[name] for name in taken} for feed in self.feeds]

    def shapes_for(self, engine: Engine) -> list[Feed]:
        """Of those feeds one of each shape: what an engine is warmed up with."""
        feeds = {tuple(array.shape for array in feed.values()): feed for feed in self.feeds_for(engine)}
        return list(feeds.values())

    def agreement(self, found: NDArray[np.float32]) -> Agreement:
        """Of answers with the expected ones. Raises Mismatch where they have another shape, NaN or infinity."""
        if found.shape != self.expected.shape:
            raise Mismatch("golden queries: shape", str(self.expected.shape), str(found.shape))
        if not np.isfinite(found if self.mask is None else found[self.mask > 0]).all():
            raise Mismatch("golden queries", "finite answers", "NaN or infinity")
        return agreement(list(self._rankings(found)), list(self._rankings(self.expected)))

    def _rankings(self, answers: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        if self.gallery is not None:
            yield from answers.reshape(-1, answers.shape[-1]) @ self.gallery.T
        elif self.mask is not None:
            yield from (row[kept > 0] for row, kept in zip(answers, self.mask, strict=True))


def check(model: str, golden: Golden, engine: Engine) -> Agreement:
    """Asks the engine, and raises Mismatch, with the figures, where it may not serve."""
    found = golden.answers(engine)
    try:
        agreed = golden.agreement(found)
    except Mismatch as error:
        raise Mismatch(f"{model} on {engine.manifest.runtime}", "the golden answers", str(error)) from None
    if not agreed.passes:
        raise Mismatch(f"{model} on {engine.manifest.runtime}", f"both at least {LEAST}", str(agreed))
    if engine.manifest.precision == "fp32":
        worst = float(np.abs(found - golden.expected).max(initial=0.0))
        if worst > TOLERANCE:
            raise Mismatch(f"golden queries, {model}", f"answers within {TOLERANCE}", f"a difference of {worst:.3g}")
    return agreed


def agreement(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> Agreement:
    """Of rankings by scores, query by query."""
    pairs = list(zip(found, expected, strict=True))
    return Agreement(
        overlap=float(np.mean([_overlap(a, b) for a, b in pairs])),
        tau=float(np.mean([kendall(a, b) for a, b in pairs])),
    )


def kendall(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """τ-b (Kendall 1945) of two score vectors [n], all pairs at once; 1 where one has nothing but ties."""
    a, b = (np.sign(scores[:, None] - scores[None, :]) for scores in (left, right))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 1.0


def _overlap(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    top = min(TOP, len(left))
    first, other = (set(np.argsort(-scores, kind="stable")[:top].tolist()) for scores in (left, right))
    return len(first & other) / max(1, top)


def read_golden(path: Path, tokens: Any) -> Mapping[str, Golden]:
    """Of every model of a bundle, from its golden.npz. tokens: texts to padded ids [n, T], one text at a time."""
    with np.load(path) as stored:
        pixels = stored["pixels"]
        texts = [bytes(text).decode() for text in stored["texts"]]
        encoders = {
            IMAGE_ENCODER: Golden(
                feeds=tuple({"pixels": pixels[row : row + 1]} for row in range(len(pixels))),
                expected=stored["image_vectors"],
                gallery=stored["gallery/report"],
            ),
            TEXT_ENCODER: Golden(
                feeds=tuple({"ids": tokens(text)} for text in texts),
                expected=stored["report_vectors"],
                gallery=stored["gallery/image"],
            ),
        }
    return encoders | read_reranker_golden(path)


def read_reranker_golden(path: Path) -> dict[str, Golden]:
    """Of every re-ranker of a bundle, and of what makes their messages, from its golden.npz."""
    with np.load(path) as stored:
        graph, messages, scores = (_below(stored, part) for part in (_GRAPH, _MESSAGES, _SCORES))
    batches = [
        GraphBatch(arrays={name: array[row] for name, array in graph.items()}, candidates=())
        for row in range(len(graph["mask"]))
    ]
    mask = np.concatenate(list(graph["mask"]))
    found = {}
    for name, expected in scores.items():
        feeds = tuple(batch.arrays for batch in batches)
        if name in messages:
            heard = tuple(batch.hearing(TOLD_RELATIONS).arrays for batch in batches)
            found[MESSAGES_OF + name] = Golden(feeds=heard, expected=messages[name], gallery=messages[name][0])
            told = [batch.told(each[None]) for batch, each in zip(batches, messages[name], strict=True)]
            feeds = tuple(batch.arrays for batch in told)
        found[RERANKER + name] = Golden(feeds=feeds, expected=expected, gallery=None, mask=mask)
    return found


def _below(stored: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
