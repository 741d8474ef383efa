"""Made-up things that are small: features with a few classes, a backbone of toy towers, a run and a bundle of them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from helpers.once import made_once
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality, Split
from radrank.training.backbones import Backbone, Preprocessing, StagedTower
from radrank.training.features import MAPS, FeatureSet
from radrank.training.heads import Heads, HeadSettings
from radrank.training.inputs import HeadInputs, fit_inputs
from radrank.training.reranker import GraphReranker, RerankerShape
from radrank.training.runs import Run, save_heads, save_reranker
from radrank.training.tower import TowerSettings

GROUPS = ("edema", "fracture", "opacity")
SETTINGS = GraphSettings(
    neighbours=3,
    table_width=6,
    query_neighbours=4,
    query_candidates=4,
    candidate_buckets=(10, 40, 100),
)
HEADS = HeadSettings(projection=8, hidden=16, epochs=6, batch_size=16, learning_rate=5e-3)
TOWER = TowerSettings(epochs=2, batch_size=8)
LAYOUT = VectorLayout(projection=HEADS.projection, share=HEADS.beliefs, groups=GROUPS)
DIMENSIONS = 8 + 1 + len(GROUPS) + 2  # of whole vectors: a projection, beliefs, and an end for each modality
KINDS = ("sage", "gcn", "gat")
WORDS = ("[PAD]", "[UNK]", "the", "lungs", "are", "clear", "heart", "is", "normal", "large", "opacity", "left")
TELLING = ("clear", "large", "left", "opacity")  # the word that reports of each class mostly hold
AFTER = {"sage": 0.46, "gcn": 0.48, "gat": 0.44}  # validation of the made-up re-rankers; before: 0.45


def feature_set(studies: int = 90, *, seed: int = 0, noise: float = 0.7) -> FeatureSet:
    """Studies of four classes (normal and one finding each) that lie about a centre of their class in both modalities.

    So do their maps, and most reports hold their class's word. Every third study has two images; the last two have no
    label; two studies have the same report.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 1 + len(GROUPS), studies)
    labels = np.eye(1 + len(GROUPS), dtype=np.bool_)[kind]
    normal = np.where(kind == 0, 1, -1).astype(np.int8)
    labels[-2:], normal[-2:] = False, 0
    owners = {
        Modality.IMAGE: np.repeat(np.arange(studies), [2 if s % 3 == 0 else 1 for s in range(studies)]),
        Modality.REPORT: np.arange(studies),
    }
    widths = {Modality.IMAGE: 12, Modality.REPORT: 10}
    features = {
        m: (
            rng.normal(size=(1 + len(GROUPS), widths[m]))[kind[owners[m]]]
            + noise * rng.normal(size=(len(owners[m]), widths[m]))
        ).astype(np.float32)
        for m in Modality
    }
    features[Modality.REPORT][1] = features[Modality.REPORT][0]
    tokens = reports_of(kind, seed=seed)
    tokens[1] = tokens[0]
    seen = np.random.default_rng([seed, 2])
    centres = seen.normal(size=(1 + len(GROUPS), 1, 4, 4))[kind[owners[Modality.IMAGE]]]
    same_text = np.arange(studies, dtype=np.int32)
    same_text[1] = 0
    share = studies // 3
    splits = (Split.TRAIN,) * (studies - 2 * share) + (Split.VALIDATION,) * share + (Split.TEST,) * share
    return FeatureSet(
        study_ids=tuple(f"S{s:03d}" for s in range(studies)),
        splits=splits,
        groups=GROUPS,
        labels=labels,
        normal=normal,
        features=features,
        study={m: owners[m].astype(np.int32) for m in Modality},
        primary=np.diff(owners[Modality.IMAGE], prepend=-1) > 0,
        same_text=same_text,
        tokens=tokens,
        pad_id=0,
        maps=(centres + noise * seen.normal(size=centres.shape)).astype(np.float16),
    )


def reports_of(kind: NDArray[np.int64], *, seed: int = 0, unreliable: float = 0.15) -> NDArray[np.int32]:
    """Token ids [n, 7] of reports of these classes: three to six of the words that all use, and the class's own."""
    rng = np.random.default_rng([seed, 1])
    common = [row for row, word in enumerate(WORDS) if row and word not in TELLING]
    ids = rng.choice(common, (len(kind), 7)).astype(np.int32)
    lengths = rng.integers(4, 8, len(kind))
    ids[np.arange(7) >= lengths[:, None]] = 0
    said = np.where(rng.random(len(kind)) < unreliable, rng.integers(0, len(TELLING), len(kind)), kind)
    ids[:, 1] = np.array([WORDS.index(word) for word in TELLING])[said]
    return ids


class Tiles(nn.Module):
    """Means of 4 × 4 tiles: [B, 1, 4, 4]."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels.unsqueeze(1).float() / 255.0, pixels.shape[-1] // 4)


class TextTower(nn.Module):
    """Mean of word vectors; padding (id 0) is left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, width)

    def forward(self, ids: Tensor) -> Tensor:
        present = (ids != 0).unsqueeze(-1).float()
        return (self.words(ids) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)


def tiny_backbone() -> Backbone:
    """Random towers, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        image = StagedTower(Tiles(), nn.Sequential(nn.Flatten(), nn.Linear(16, 12))).eval()
        text = TextTower(10).eval()
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return Backbone(
        name="tiny",
        provenance="made up",
        image_tower=image.requires_grad_(False),
        text_tower=text.requires_grad_(False),
        image_width=12,
        text_width=10,
        preprocessing=Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.25,) * 3),
        tokenizer_json=tokenizer.to_str(),
        pad_id=0,
        max_tokens=32,
        text_buckets=(8, 16, 32),
    )


def tiny_reranker(kind: str, *, seed: int = 0, layers: int = 1) -> GraphReranker:
    """Random weights that count: its gates are open. One layer, since each takes seconds to export."""
    shape = RerankerShape(name=kind, groups=len(GROUPS), width=16, layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GraphReranker(shape, torch.tensor([0.4, 0.1, 0.2, 0.3]))
        for parameter in model.parameters():
            mixes = any(parameter is one for one in model.mixers())
            if mixes or not parameter.any():  # what answers 0 until it is trained
                nn.init.uniform_(parameter, -0.5, 0.5)
        nn.init.uniform_(model.offset, -0.5, 0.5)
    return model.eval()


@cache
def tiny_inputs() -> HeadInputs:
    """Inputs of the tiny backbone, fitted on the made-up features."""
    features = feature_set()
    with torch.random.fork_rng():
        return fit_inputs(features, tiny_backbone().image_tower.tail, TOWER, train=features.of_split(Split.TRAIN))


def tiny_run(path: Path, kinds: Sequence[str] = ()) -> Run:
    """A run directory with the made-up features, fitted inputs, random heads and random re-rankers."""
    path.mkdir(parents=True)
    features = feature_set()
    features.maps.tofile(path / MAPS)  # as extract left it
    features.save(path / "features.npz")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heads = Heads(tiny_inputs().widths, GROUPS, HEADS).eval()
    run = save_heads(
        path,
        heads,
        tiny_inputs(),
        tower=TOWER,
        log=[],
        quality={"score": 0.4},
        dataset={"name": "made up", "root": None, "studies": {"train": 30}},
        backbone={"name": "tiny", "weights": None, "provenance": "made up"},
    )
    for kind in kinds:
        save_reranker(
            run,
            tiny_reranker(kind),
            settings={"epochs": 1},
            graph=SETTINGS,
            epoch=1,
            log=[],
            quality={"score": AFTER.get(kind, 0.45)},
            before={"score": 0.45},
        )
    return run


@cache
def tiny_bundle() -> Path:
    """A bundle of `tiny_run` with all kinds, exported once a test session; copy it before changing it."""
    return made_once("tiny", _export) / "bundle"


def _export(to: Path) -> None:
    from radrank.export import bundles
    from radrank.training import runs

    run = tiny_run(to / "run", KINDS)
    gc.disable()  # torch's exporter makes a million small objects: collecting garbage is a sixth of its time
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
            bundles.write_bundle(run, to / "bundle", name="tiny")
    finally:
        gc.enable()
