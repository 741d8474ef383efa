"""Every relation layer against PyG's layer of the same name, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.pyg import GCNConv, SAGEConv, conv_of, edges_of
from radrank.core.graph import GraphBatch
from radrank.training.layers import KINDS, GatRelation, GcnRelation, SageRelation, gather

WIDTH = 16
Layer = SageRelation | GcnRelation | GatRelation


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def made(kind: str) -> Layer:
    """A layer whose bias counts."""
    layer = KINDS[kind](WIDTH)
    torch.nn.init.uniform_(bias_of(layer))
    return layer


def bias_of(layer: Layer) -> Tensor:
    return layer.bias if isinstance(layer, GatRelation) else layer.linear.bias


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH)


def table(graphs: int, targets: int, sources: int, degree: int, *, share: float = 0.6) -> tuple[Tensor, Tensor]:
    """Distinct sources for every target, about `share` of them present, all at 1; below, the first target of a graph
    has none."""
    idx = torch.stack([torch.randperm(sources)[:degree] for _ in range(graphs * targets)])
    idx = idx.reshape(graphs, targets, degree)
    if share < 1.0:
        idx[torch.rand(idx.shape) > share] = -1
        idx[:, 0] = -1
    return idx, torch.where(idx >= 0, torch.rand(idx.shape), 0.0)


def in_pyg(layer: Layer, source: Tensor, target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    index, edge_weight = edges_of(idx, weight, source.shape[-2] if source.dim() == 3 else 0)
    edges = {"edge_attr": edge_weight[:, None]} if isinstance(layer, GatRelation) else {"edge_weight": edge_weight}
    heard = conv_of(layer)((source.reshape(-1, WIDTH), target.reshape(-1, WIDTH)), index, **edges)
    return heard.reshape(target.shape)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gather_takes_each_graphs_own_states():
    found = gather(torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[[2, 0]], [[1, -1]]]))
    assert found.shape == (2, 1, 2, 2)
    assert found[0, 0].tolist() == [[4, 5], [0, 1]]
    assert found[1, 0, 0].tolist() == [8, 9]


def test_gather_takes_states_that_all_graphs_share():
    found = gather(torch.arange(6.0).reshape(3, 2), torch.tensor([[[2, 0]], [[1, -1]]]))
    assert found.shape == (2, 1, 2, 2)
    assert found[0, 0].tolist() == [[4, 5], [0, 1]]
    assert found[1, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize("shared", [False, True], ids=["own sources", "shared sources"])
@pytest.mark.parametrize("share", [1.0, 0.6], ids=["dense", "padded"])
@pytest.mark.parametrize("graphs", [1, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_hears_what_it_hears_in_pyg(kind, graphs, share, shared):
    layer = made(kind)
    source = states(11) if shared else states(graphs, 11)
    target, edges = states(graphs, 7), table(graphs, 7, 11, 5, share=share)
    close(layer(source, target, *edges), in_pyg(layer, source, target, *edges))


@pytest.mark.parametrize("kind", list(KINDS))
def test_shared_sources_are_heard_as_a_copy_in_every_graph(kind):
    layer, source, target, edges = made(kind), states(11), states(5, 7), table(5, 7, 11, 5)
    close(layer(source, target, *edges), layer(source.expand(5, 11, WIDTH), target, *edges))


@pytest.mark.parametrize("graphs", [1, 5])
def test_sage_with_weights_of_one_is_sageconv(graphs):
    layer = SageRelation(WIDTH)
    source, target, (idx, _) = states(graphs, 11), states(graphs, 7), table(graphs, 7, 11, 5)
    ones = (idx >= 0).float()
    conv = SAGEConv((WIDTH, WIDTH), WIDTH, root_weight=False)
    conv.load_state_dict({"lin_l.weight": layer.linear.weight, "lin_l.bias": layer.linear.bias})
    index, _ = edges_of(idx, ones, 11)
    expected = conv((source.flatten(0, 1), target.flatten(0, 1)), index).reshape(target.shape)
    close(layer(source, target, idx, ones), expected)


def test_gcn_under_a_batchs_norm_is_gcnconv():
    """Nodes that hear from nodes of their own kind, as candidates do: there GCNConv's own normalisation applies, with
    in-degrees at both ends, so edges go both ways."""
    layer = made("gcn")
    weight = torch.rand(7, 7).triu(1) * (torch.rand(7, 7) < 0.7)
    weight = (weight + weight.T)[None]
    idx = torch.where(weight > 0, torch.arange(7), -1)
    arrays = {"candidate_candidate.idx": idx.numpy(), "candidate_candidate.weight": weight.numpy()}
    norm = GraphBatch(arrays=arrays, candidates=(7,)).feed(["candidate_candidate.norm"])
    conv = GCNConv(WIDTH, WIDTH, add_self_loops=False)
    conv.load_state_dict({"lin.weight": layer.linear.weight, "bias": layer.linear.bias})
    nodes = states(1, 7)
    found = layer(nodes, nodes, idx, torch.from_numpy(norm["candidate_candidate.norm"]))
    close(found[0], conv(nodes[0], *edges_of(idx, weight, 7)))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_without_any_edge_says_its_bias(kind):
    layer = made(kind)
    idx, weight = torch.full((2, 7, 5), -1), torch.zeros(2, 7, 5)
    heard = layer(states(2, 11), states(2, 7), idx, weight)
    assert torch.equal(heard, bias_of(layer).expand(2, 7, WIDTH))


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_stands_at_an_absent_edge_is_not_heard(kind):
    layer = made(kind)
    source, target, (idx, weight) = states(1, 11), states(1, 7), table(1, 7, 11, 5)
    nobodys = idx == 0  # the node that a gather takes where there is none
    idx, weight = idx.masked_fill(nobodys, -1), weight.masked_fill(nobodys, 0.0)
    loud = source.clone()
    loud[:, 0] = 1e6
    assert torch.equal(layer(loud, target, idx, weight), layer(source, target, idx, weight))


def test_attention_needs_a_width_that_its_heads_share():
    with pytest.raises(ValueError, match="multiple of 4"):
        GatRelation(18)
