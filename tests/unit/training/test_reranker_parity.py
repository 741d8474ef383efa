"""The whole re-ranker, in torch and on ONNX Runtime, against message passing over a PyG HeteroData graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.made_up import DIMENSIONS, SETTINGS, tiny_bundle, tiny_reranker
from helpers.pyg import hetero_data_of, scores_of
from radrank.core.graph import RELATIONS, GraphBatch, GraphSettings
from radrank.engines.bundle import Bundle, open_bundle
from radrank.export.golden import random_batch
from radrank.training.layers import KINDS
from radrank.training.reranker import GraphReranker

SIZES = [(1, 10), (4, 25), (7, 3)]  # queries, candidates of each
ROOMY = replace(SETTINGS, candidate_buckets=(64,), node_buckets=(700,))


def batch_of(graphs: int, candidates: int, settings: GraphSettings = SETTINGS, *, seed: int = 0) -> GraphBatch:
    return random_batch(np.random.default_rng(seed), DIMENSIONS, settings, graphs=graphs, candidates=candidates)


def row_of(batch: GraphBatch, row: int) -> GraphBatch:
    """One query of a batch, alone."""
    arrays = {name: array[row : row + 1] for name, array in batch.arrays.items()}
    return GraphBatch(arrays=arrays, candidates=batch.candidates[row : row + 1])


@torch.inference_mode()
def in_torch(model: GraphReranker, batch: GraphBatch) -> np.ndarray:
    return model({n: torch.from_numpy(a) for n, a in batch.feed(model.array_names).items()}).numpy()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(tiny_bundle(), threads=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("layers", [1, 3])
def test_torch_scores_as_pyg_does(layers, kind, size):
    model, batch = tiny_reranker(kind, layers=layers), batch_of(*size)
    for row, expected in enumerate(scores_of(model, batch)):
        np.testing.assert_allclose(in_torch(model, batch)[row, : len(expected)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
def test_onnx_scores_as_pyg_does(bundle, kind, size):
    batch = batch_of(*size, seed=1)
    found = bundle.rerankers[kind].score(batch)
    for row, expected in enumerate(scores_of(tiny_reranker(kind), batch)):
        np.testing.assert_allclose(found[row, : len(expected)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_larger_bucket_changes_no_score(bundle, kind):
    tight, roomy = batch_of(4, 25), batch_of(4, 25, ROOMY)
    assert roomy.arrays["image"].shape[1] == 700 > tight.arrays["image"].shape[1]
    for score in (bundle.rerankers[kind].score, lambda batch: in_torch(tiny_reranker(kind), batch)):
        np.testing.assert_allclose(score(roomy)[:, :25], score(tight)[:, :25], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_query_alone_and_in_a_batch_gets_the_same_scores(bundle, kind):
    batch = batch_of(5, 12)
    for score in (bundle.rerankers[kind].score, lambda batch: in_torch(tiny_reranker(kind), batch)):
        together = score(batch)
        for row in range(5):
            np.testing.assert_allclose(score(row_of(batch, row))[0], together[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_untrained_reranker_changes_nothing(kind):
    batch = batch_of(4, 25)
    untrained = GraphReranker(tiny_reranker(kind).shape).eval()
    assert np.array_equal(in_torch(untrained, batch), batch.arrays["base"])


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("relation", [r.name for r in RELATIONS])
def test_every_relation_is_heard(kind, relation):
    """A parity of two things that ignore an edge proves nothing about it."""
    batch = batch_of(4, 25)
    assert (batch.arrays[f"{relation}.idx"] >= 0).any()
    cut = {
        name: np.full_like(array, -1 if name.endswith("idx") else 0) if name.startswith(f"{relation}.") else array
        for name, array in batch.arrays.items()
    }
    model = tiny_reranker(kind, layers=2)  # what nodes of other types hear is read a layer later
    before, after = in_torch(model, batch), in_torch(model, GraphBatch(arrays=cut, candidates=batch.candidates))
    assert not np.allclose(before, after, atol=1e-6)


def test_dropout_is_for_training_only():
    model, batch = tiny_reranker("sage"), batch_of(2, 10)
    torch.manual_seed(0)
    model.train()
    assert not np.array_equal(in_torch(model, batch), in_torch(model, batch))
    model.eval()
    assert np.array_equal(in_torch(model, batch), in_torch(model, batch))


def test_the_oracles_graph_holds_every_real_node_and_no_other():
    batch = batch_of(4, 25)
    data = hetero_data_of(batch)
    assert data["query"].num_nodes == 4
    assert int((batch.arrays["image_scalars"][..., 2] > 0).sum()) == 2 * 25  # two of four queries rank images
    assert data["image"].num_nodes < batch.arrays["image"].shape[1] * 4
