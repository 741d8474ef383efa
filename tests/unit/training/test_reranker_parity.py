"""The whole re-ranker, in torch and on ONNX Runtime, against message passing over a PyG HeteroData graph."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
import torch

from helpers.made_up import LAYOUT, SETTINGS, tiny_bundle, tiny_reranker
from helpers.pyg import hetero_data_of, in_pyg
from radrank.core.graph import ARCHIVE_RELATIONS, CANDIDATE, QUERY, RELATIONS, GraphBatch, GraphBuilder, GraphSettings
from radrank.core.studies import Modality
from radrank.engines.bundle import Bundle, open_bundle
from radrank.export.golden import random_batch
from radrank.training.layers import KINDS
from radrank.training.reranker import VARIANTS, GraphReranker

SIZES = [(1, 10), (4, 25), (7, 3), (2, 1)]  # queries, candidates of each
ROOMY = replace(SETTINGS, candidate_buckets=(64,))
NETWORKS = [name for name, variant in VARIANTS.items() if variant.layer and not variant.shuffled]


def batch_of(graphs: int, candidates: int, settings: GraphSettings = SETTINGS, *, seed: int = 0) -> GraphBatch:
    return random_batch(np.random.default_rng(seed), LAYOUT, settings, graphs=graphs, candidates=candidates)


def row_of(batch: GraphBatch, row: int) -> GraphBatch:
    """One query of a batch, alone; archive items belong to the batch."""
    arrays = {name: a if name in list(Modality) else a[[row]] for name, a in batch.arrays.items()}
    rows = {name: found[[row]] for name, found in batch.rows.items()}
    return GraphBatch(arrays=arrays, candidates=batch.candidates[row : row + 1], rows=rows)


@torch.inference_mode()
def in_torch(model: GraphReranker, batch: GraphBatch) -> np.ndarray:
    return model({n: torch.from_numpy(a) for n, a in batch.feed(model.array_names).items()}).numpy()


def close(found: np.ndarray, expected: np.ndarray, batch: GraphBatch, tolerance: float) -> None:
    """Scores of real candidates; padded places hold anything."""
    for row, count in enumerate(batch.candidates):
        np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(tiny_bundle())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layers", [1, 3])
def test_torch_scores_as_pyg_does(layers, name, size):
    model, batch = tiny_reranker(name, layers=layers), batch_of(*size)
    close(in_torch(model, batch), in_torch(in_pyg(model, batch), batch), batch, 1e-4)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
def test_onnx_scores_as_pyg_does(bundle, kind, size):
    batch = batch_of(*size, seed=1)
    close(bundle.rerankers[kind].score(batch), in_torch(in_pyg(tiny_reranker(kind), batch), batch), batch, 1e-4)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_archive_items_handed_over_whole_or_copied_score_the_same(name, monkeypatch):
    """In training all of the archive's items are, in serving one for each edge."""
    model, copied = tiny_reranker(name, layers=2), batch_of(4, 25)
    monkeypatch.setattr(GraphBuilder, "batch", partialmethod(GraphBuilder.batch, whole=True))
    whole = batch_of(4, 25)
    assert whole.arrays["image"].shape[0] == 80 < copied.arrays["image"].shape[0]
    close(in_torch(model, whole), in_torch(model, copied), copied, 1e-6)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_larger_bucket_changes_no_score(name):
    tight, roomy = batch_of(4, 25), batch_of(4, 25, ROOMY)
    assert roomy.arrays["base"].shape == (4, 64) > tight.arrays["base"].shape
    model = tiny_reranker(name, layers=2)
    close(in_torch(model, roomy), in_torch(model, tight), tight, 1e-6)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_what_stands_in_padded_places_reaches_no_score(name):
    batch = batch_of(4, 25)
    padded = batch.arrays["mask"] == 0
    loud = {
        "base": np.where(padded, np.float32(9.0), batch.arrays["base"]),
        CANDIDATE: np.where(padded[:, :, None], np.float32(0.9), batch.arrays[CANDIDATE]),
    }
    model, spoilt = tiny_reranker(name, layers=2), replace(batch, arrays={**batch.arrays, **loud})
    close(in_torch(model, spoilt), in_torch(model, batch), batch, 1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_larger_bucket_changes_no_score_in_onnx(bundle, kind):
    tight, roomy = batch_of(4, 25), batch_of(4, 25, ROOMY)
    close(bundle.rerankers[kind].score(roomy), bundle.rerankers[kind].score(tight), tight, 1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_query_alone_and_in_a_batch_gets_the_same_scores(bundle, kind):
    batch = batch_of(5, 12)
    for score in (bundle.rerankers[kind].score, lambda batch: in_torch(tiny_reranker(kind), batch)):
        together = score(batch)
        for row in range(5):
            np.testing.assert_allclose(score(row_of(batch, row))[0, :12], together[row, :12], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("relation", [r.name for r in RELATIONS])
def test_every_relation_is_heard(kind, relation):
    """A parity of two things that ignore an edge proves nothing about it."""
    batch = batch_of(4, 25)
    model, deaf = (tiny_reranker(kind, layers=2) for _ in range(2))
    for layer in deaf.layers:
        for parameter in layer.relations[relation].parameters():
            torch.nn.init.zeros_(parameter)
    assert not np.allclose(in_torch(model, batch)[:, :25], in_torch(deaf, batch)[:, :25], atol=1e-6)


def test_dropout_is_for_training_only():
    model, batch = tiny_reranker("sage"), batch_of(2, 10)
    torch.manual_seed(0)
    model.train()
    assert not np.array_equal(in_torch(model, batch), in_torch(model, batch))
    model.eval()
    assert np.array_equal(in_torch(model, batch), in_torch(model, batch))


def test_the_oracles_graph_holds_every_real_node_once_and_no_other():
    batch = batch_of(4, 25)
    data = hetero_data_of(batch)
    assert (data[QUERY].num_nodes, data[CANDIDATE].num_nodes) == (4, 4 * 25)
    for m in Modality:
        rows = [batch.rows[r.name] for r in ARCHIVE_RELATIONS if r.source == m]
        held = [{row for table in rows for row in table[graph].ravel() if row >= 0} for graph in range(4)]
        assert data[m.value].num_nodes == sum(map(len, held)) < len(batch.arrays[m.value])
    for r in RELATIONS:
        edges = data[r.source, r.name, r.target].edge_index.shape[1]
        assert edges == np.count_nonzero(batch.arrays[f"{r.name}.idx"] >= 0)
