"""Every relation layer against PyG's layer of the same name, with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.pyg import SAGEConv, conv_of, edges_of, hetero_data_of, messages_of
from radrank.core.graph import NODE_TYPES, RELATIONS, GraphBatch, GraphSettings
from radrank.export.golden import random_batch
from radrank.training.layers import KINDS, GatRelation, GcnRelation, SageRelation, gather
from radrank.training.reranker import RelationalLayer, RerankerShape

WIDTH = 16
SETTINGS = GraphSettings(neighbours=3, table_width=6, query_neighbours=4, query_candidates=5, pairs=2)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def states(graphs: int, nodes: int) -> Tensor:
    return torch.randn(graphs, nodes, WIDTH)


def table(graphs: int, targets: int, sources: int, degree: int, *, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Distinct sources for every target, about `share` of them present; the first target of a graph has none."""
    idx = torch.stack([torch.randperm(sources)[:degree] for _ in range(graphs * targets)])
    idx = idx.reshape(graphs, targets, degree)
    idx[torch.rand(idx.shape) > share] = -1
    idx[:, 0] = -1
    return idx, torch.where(idx >= 0, torch.rand(idx.shape), 0.0)


def in_pyg(layer, source: Tensor, target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    index, edge_weight = edges_of(idx, weight, source.shape[1])
    edges = {"edge_attr": edge_weight[:, None]} if isinstance(layer, GatRelation) else {"edge_weight": edge_weight}
    heard = conv_of(layer)((source.flatten(0, 1), target.flatten(0, 1)), index, **edges)
    return heard.reshape(target.shape)


def test_gather_takes_each_graphs_own_states():
    found = gather(torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[[2, 0]], [[1, -1]]]))
    assert found.shape == (2, 1, 2, 2)
    assert found[0, 0].tolist() == [[4, 5], [0, 1]]
    assert found[1, 0, 0].tolist() == [8, 9]


@pytest.mark.parametrize("graphs", [1, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_hears_what_it_hears_in_pyg(kind, graphs):
    layer = KINDS[kind](WIDTH)
    source, target, edges = states(graphs, 11), states(graphs, 7), table(graphs, 7, 11, 5)
    torch.testing.assert_close(
        layer(source, target, *edges), in_pyg(layer, source, target, *edges), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("graphs", [1, 5])
def test_sage_with_weights_of_one_is_sageconv(graphs):
    layer = SageRelation(WIDTH)
    source, target, (idx, _) = states(graphs, 11), states(graphs, 7), table(graphs, 7, 11, 5)
    ones = (idx >= 0).float()
    conv = SAGEConv((WIDTH, WIDTH), WIDTH, root_weight=False)
    conv.load_state_dict({"lin_l.weight": layer.linear.weight, "lin_l.bias": layer.linear.bias})
    index, _ = edges_of(idx, ones, 11)
    expected = conv((source.flatten(0, 1), target.flatten(0, 1)), index).reshape(target.shape)
    torch.testing.assert_close(layer(source, target, idx, ones), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_without_any_edge_says_its_bias(kind):
    layer = KINDS[kind](WIDTH)
    torch.nn.init.uniform_(layer.bias if isinstance(layer, GatRelation) else layer.linear.bias)
    idx, weight = torch.full((2, 7, 5), -1), torch.zeros(2, 7, 5)
    heard = layer(states(2, 11), states(2, 7), idx, weight)
    bias = layer.bias if isinstance(layer, GatRelation) else layer.linear.bias
    assert torch.equal(heard, bias.expand(2, 7, WIDTH))


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_stands_at_an_absent_edge_is_not_heard(kind):
    layer = KINDS[kind](WIDTH)
    source, target, (idx, weight) = states(1, 11), states(1, 7), table(1, 7, 11, 5)
    loud = source.clone()
    unheard = [node for node in range(11) if node not in idx.unique().tolist()]
    loud[:, unheard] = 1e6
    assert torch.equal(layer(loud, target, idx, weight), layer(source, target, idx, weight))


def test_attention_needs_a_width_that_its_heads_share():
    with pytest.raises(ValueError, match="multiple of 4"):
        GatRelation(18)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_whole_layer_hears_what_heteroconv_hears(kind):
    layer = RelationalLayer(RerankerShape(kind=kind, dimensions=8, width=WIDTH))
    batch = random_batch(np.random.default_rng(3), 8, SETTINGS, graphs=4, candidates=9)
    data = hetero_data_of(batch)
    dense = {t: torch.randn(4, data[t].place.shape[1], WIDTH) for t in NODE_TYPES}
    real = {t: data[t].place >= 0 for t in NODE_TYPES}
    expected = messages_of(layer, kind, {t: dense[t][real[t]] for t in NODE_TYPES}, data)
    heard = layer.messages(dense, tensors(batch, GcnRelation.edge_array if kind == "gcn" else "weight"))
    for t in NODE_TYPES:
        rooted = expected[t] + layer.roots[t](dense[t][real[t]])
        torch.testing.assert_close(heard[t][real[t]], rooted, atol=1e-5, rtol=1e-5)


def tensors(batch: GraphBatch, edge_array: str) -> dict[str, Tensor]:
    names = [f"{r.name}.{part}" for r in RELATIONS for part in ("idx", edge_array)]
    return {name: torch.from_numpy(array) for name, array in batch.feed(names).items()}
