"""The tiny bundle's models, made-up arrays that they take, and its golden queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.made_up import KINDS, LAYOUT, SETTINGS, tiny_bundle
from radrank.core.graph import TOLD_RELATIONS
from radrank.engines.encoder import Tokens
from radrank.engines.engine import Model
from radrank.engines.manifest import read_manifest
from radrank.engines.models import IMAGE_ENCODER, MESSAGES_OF, RERANKER, TEXT_ENCODER, models
from radrank.engines.parity import Golden, read_golden
from radrank.export.golden import random_batch
from radrank.training.reranker import VARIANTS

BATCHES = (1, 4)
MODELS = (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    *(RERANKER + kind for kind in KINDS),
    *(MESSAGES_OF + kind for kind in KINDS if VARIANTS[kind].apart),
)
"""Names of all models of the tiny bundle, and of the demo's but for the MLP: known before either is made."""


def model_of(name: str, batches: Sequence[int] = BATCHES, *, bundle: Path | None = None) -> Model:
    """bundle: another than the tiny one"""
    path = bundle or tiny_bundle()
    return models(path, read_manifest(path)[0], batches=batches)[name]


def golden_of(name: str) -> Golden:
    manifest, _ = read_manifest(tiny_bundle())
    tokens = Tokens(tiny_bundle() / manifest.text.tokenizer, manifest.text)
    return read_golden(tiny_bundle() / manifest.golden, lambda text: tokens.padded(tokens([text])))[name]


def feed_of(name: str, count: int, *, seed: int = 0, candidates: int = 25) -> dict[str, np.ndarray]:
    """So many requests; the same arrays for the same numbers."""
    rng = np.random.default_rng([count, seed])
    if name == "image_encoder":
        return {"pixels": rng.integers(0, 256, (count, 16, 16), dtype=np.uint8)}
    if name == "text_encoder":
        return {"ids": rng.integers(1, 12, (count, 16), dtype=np.int64)}
    entry = read_manifest(tiny_bundle())[0].rerankers[name.split("_", 1)[1]]
    told = entry.messages
    if told is not None and name.startswith(MESSAGES_OF):
        whole = random_batch(rng, LAYOUT, SETTINGS, graphs=count, candidates=candidates)
        return dict(whole.hearing(TOLD_RELATIONS).feed(told.inputs))
    batch = random_batch(rng, LAYOUT, SETTINGS, graphs=count, candidates=candidates, messages=told.width if told else 0)
    return dict(batch.feed(entry.inputs))
