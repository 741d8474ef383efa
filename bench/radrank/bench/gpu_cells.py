"""What is measured on a GPU: which models, how many requests at a time, how many candidates; and what they are fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from radrank.core.errors import InvalidQuery
from radrank.core.graph import MESSAGES, bucket
from radrank.engines.engine import Feed, Shapes
from radrank.engines.manifest import BundleManifest
from radrank.engines.models import IMAGE_ENCODER, RERANKER, TEXT_ENCODER, reranker_shapes
from radrank.export.golden import random_batch

NAMES: Mapping[str, str] = {
    "image": IMAGE_ENCODER,
    "text": TEXT_ENCODER,
    **{kind: RERANKER + kind for kind in ("sage", "gcn", "gat")},
}
"""What `--only` calls them, in the order in which they are measured, and the models of a bundle."""
TOKENS = 32
BATCHES = (1, 8, 32)
CANDIDATES = (50, 100, 200)
MANY = 100
"""Candidates with which re-rankers are also asked for several requests at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One model in one shape. batch: requests at a time; candidates: of each request, None for encoders"""

    model: str
    batch: int
    candidates: int | None = None

    @property
    def shape(self) -> str:
        return f"batch {self.batch}" if self.candidates is None else f"K = {self.candidates}, batch {self.batch}"

    @property
    def name(self) -> str:
        return f"{self.model}, {self.shape}"


def cells(only: Sequence[str], batches: Sequence[int], candidates: Sequence[int]) -> list[Cell]:
    """In order, what is wanted most first. only: names of NAMES. Raises InvalidQuery for another."""
    unknown = [name for name in only if name not in NAMES]
    if unknown or not only:
        raise InvalidQuery("only", f"must be some of: {', '.join(NAMES)}")
    if not batches or min(batches) < 1 or not candidates or min(candidates) < 1:
        raise InvalidQuery("batches", "and candidates must be numbers above zero, such as 1,8,32")
    found = []
    for name in (one for one in NAMES if one in only):
        if name in ("image", "text"):
            found += [Cell(model=NAMES[name], batch=batch) for batch in batches]
            continue
        least, most = min(batches), max(batches)
        asked = [(least, count) for count in sorted(candidates, key=lambda count: count != MANY)]
        if most > least and MANY in candidates:
            asked.insert(1, (most, MANY))
        found += [Cell(model=NAMES[name], batch=batch, candidates=count) for batch, count in asked]
    return found


def shapes_of(cell: Cell, manifest: BundleManifest) -> Shapes:
    """The bucket that holds the cell's requests: that is what an engine of fixed shapes runs."""
    if cell.model == IMAGE_ENCODER:
        return {"pixels": (cell.batch, manifest.image.size, manifest.image.size)}
    if cell.model == TEXT_ENCODER:
        return {"ids": (cell.batch, _tokens(manifest))}
    assert cell.candidates is not None
    width = bucket(cell.candidates, manifest.graph.candidate_buckets)
    return reranker_shapes(manifest, cell.model.removeprefix(RERANKER), cell.batch, width)


def feed_of(cell: Cell, manifest: BundleManifest, bundle: Path, *, seed: int = 0) -> Feed:
    """Random inputs that fill the cell's bucket: no side gains by what another pads."""
    rng = np.random.default_rng(seed)
    shapes = shapes_of(cell, manifest)
    if cell.model == IMAGE_ENCODER:
        return {"pixels": rng.integers(0, 256, shapes["pixels"], dtype=np.uint8)}
    if cell.model == TEXT_ENCODER:
        words = Tokenizer.from_file(str(bundle / manifest.text.tokenizer)).get_vocab_size()
        ids = rng.integers(0, words, shapes["ids"], dtype=np.int64)
        ids[ids == manifest.text.pad_id] = (manifest.text.pad_id + 1) % words
        return {"ids": ids}
    batch = random_batch(
        rng,
        manifest.layout,
        manifest.graph,
        graphs=cell.batch,
        candidates=int(shapes["base"][1]),
        messages=shapes[MESSAGES][2] if MESSAGES in shapes else 0,
    )
    return batch.feed(list(shapes))


def _tokens(manifest: BundleManifest) -> int:
    return min(bucket(TOKENS, manifest.text.buckets), max(manifest.text.buckets))
