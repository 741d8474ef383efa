"""The bundle of BiomedCLIP's shape, made small: random everywhere, and all parts of one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from radrank.bench import shaped
from radrank.bench.checkpoint import CONTEXT, Sizes, write_checkpoint
from radrank.bench.shaped import Shape, demo_groups, demo_words, made_run, random_reranker
from radrank.core.errors import InvalidQuery
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout
from radrank.datasets.demo import golden_material
from radrank.export.golden import random_batch
from radrank.training.backbones import load_backbone
from radrank.training.reranker import SERVED

SMALL = Shape(sizes=Sizes(image_layers=1, text_layers=1, width=64, vocab=1000, embed_dim=32), rows=200)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shaped") / "checkpoint"
    write_checkpoint(directory, SMALL.sizes, demo_words())
    return directory


def test_its_sizes_are_biomedclips():
    sizes = Sizes()
    assert (sizes.image_layers, sizes.text_layers, sizes.width) == (12, 12, 768)
    assert (sizes.vocab, sizes.embed_dim, CONTEXT) == (30522, 512, 256)


def test_a_checkpoint_of_random_weights_loads_as_biomedclip(checkpoint):
    backbone = load_backbone("biomedclip", weights=checkpoint)
    assert (backbone.name, backbone.max_tokens, backbone.preprocessing.image_size) == ("biomedclip", 256, 224)
    assert backbone.image_tower(torch.zeros(1, 224, 224, dtype=torch.uint8)).shape == (1, 32)


def test_reports_are_read_word_by_word_and_nothing_is_unknown(checkpoint):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokens = [tokenizer.encode(text).tokens for text in (*golden_material(4)[1], "unheard-of wordings")]
    assert not any("[UNK]" in found for found in tokens)
    *whole, spelt = [any(token.startswith("##") for token in found) for found in tokens]
    assert not any(whole)
    assert spelt


def test_a_run_of_random_heads_and_rerankers_is_a_run_like_any(checkpoint, tmp_path):
    run = made_run(tmp_path / "run", checkpoint, SMALL)
    assert list(run.rerankers()) == sorted(SERVED)
    assert run.heads().layout.groups == demo_groups()
    backbone = run.backbone()
    inputs = run.inputs(backbone)
    assert inputs.widths == run.heads().widths
    vocabulary = inputs.report.labeller.lexicon.vocabulary
    assert len(vocabulary.unique()) == len(vocabulary) == 1500
    assert json.loads((tmp_path / "run" / "run.json").read_text())["dataset"]["name"] == "made up"


@pytest.mark.parametrize("kind", SERVED)
def test_a_random_reranker_moves_candidates(kind):
    """A re-ranker as training begins would add nothing, and comparing its scores would prove nothing."""
    layout = VectorLayout(projection=16, share=0.1, groups=demo_groups())
    batch = random_batch(np.random.default_rng(0), layout, GraphSettings(), graphs=1, candidates=50)
    model = random_reranker(kind, len(layout.groups))
    with torch.inference_mode():
        scores = model({n: torch.from_numpy(a) for n, a in batch.feed(model.array_names).items()}).numpy()
    moved = scores[0] - batch.arrays["base"][0]
    assert moved.std() > 1e-3


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InvalidQuery, match="bundle exists already"):
        shaped.make(tmp_path, SMALL, weights=None, task=None, say=print)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_bars_that_are_told_how_far_they_are_go_on_by_as_much():
    steps: list[int] = []

    class Task:
        def __init__(self, label, total):
            self.told = (label, total)

        def __enter__(self):
            return lambda: steps.append(1)

        def __exit__(self, *raised):
            pass

    with shaped._counting(Task)("studies", 5) as told:
        for done in (2, 2, 5):
            told(done)
    assert len(steps) == 5
