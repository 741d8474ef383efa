"""Every relation layer against PyG's layer of the same name, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.pyg import GCNConv, SAGEConv, conv_of, edges_of
from radrank.core.graph import GraphBatch
from radrank.training.layers import KINDS, Edges, GatRelation, Relation, Sources, heard_with

WIDTH = 16
Table = tuple[Tensor, Tensor]  # idx and weight


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def made(kind: str) -> Relation:
    """A layer whose bias counts."""
    layer = KINDS[kind](WIDTH)
    torch.nn.init.uniform_(bias_of(layer))
    return layer


def bias_of(layer: Relation) -> Tensor:
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


def heard(layers: list[Relation], sources: list[Tensor], target: Tensor, tables: list[Table]) -> Tensor:
    """What the target's nodes hear from several relations, each from states [B, S, h] or [S, h] of its own."""
    parts, start = [], 0
    for states, (idx, weight) in zip(sources, tables, strict=True):
        each = states.shape[1] if states.dim() == 3 else 0
        parts.append((Sources(start=start, graph=each), idx, weight))
        start += states.reshape(-1, WIDTH).shape[0]
    joined = torch.cat([states.reshape(-1, WIDTH) for states in sources])
    return mapped(layers, [(joined, Edges.joined(parts))], target)


def mapped(layers: list[Relation], heard: list[tuple[Tensor, Edges]], target: Tensor) -> Tensor:
    """What is heard, without a root's share."""
    root = torch.nn.Linear(WIDTH, WIDTH)
    torch.nn.init.zeros_(root.weight)
    torch.nn.init.zeros_(root.bias)
    own = target.reshape(-1, WIDTH)
    return heard_with(root, layers, type(layers[0]).sums(layers, heard, own), own).reshape(target.shape)


def in_pyg(layer: Relation, source: Tensor, target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    index, edge_weight = edges_of(idx, weight, source.shape[-2] if source.dim() == 3 else 0)
    edges = {"edge_attr": edge_weight[:, None]} if isinstance(layer, GatRelation) else {"edge_weight": edge_weight}
    heard = conv_of(layer)((source.reshape(-1, WIDTH), target.reshape(-1, WIDTH)), index, **edges)
    return heard.reshape(target.shape)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_edges_gather_each_graphs_own_states_and_those_that_all_share():
    own, shared = torch.tensor([[[2, 0]], [[1, -1]]]), torch.tensor([[[1]], [[0]]])
    edges = Edges.joined([(Sources(start=0, graph=3), own, own), (Sources(start=6, graph=0), shared, shared)])
    assert edges.degrees == (2, 1)
    assert edges.present.tolist() == [[[1, 1, 1]], [[1, 0, 1]]]
    found = edges.gather(torch.arange(16.0).reshape(8, 2))
    assert found[0].tolist() == [[4, 5], [0, 1], [14, 15]]
    assert found[1, [0, 2]].tolist() == [[8, 9], [12, 13]]


@pytest.mark.parametrize("shared", [False, True], ids=["own sources", "shared sources"])
@pytest.mark.parametrize("share", [1.0, 0.6], ids=["dense", "padded"])
@pytest.mark.parametrize("graphs", [1, 5])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_hears_what_it_hears_in_pyg(kind, graphs, share, shared):
    layer = made(kind)
    source = states(11) if shared else states(graphs, 11)
    target, edges = states(graphs, 7), table(graphs, 7, 11, 5, share=share)
    close(heard([layer], [source], target, [edges]), in_pyg(layer, source, target, *edges))


@pytest.mark.parametrize("kind", list(KINDS))
def test_several_relations_are_heard_at_once_as_the_sum_of_each_alone(kind):
    layers, target = [made(kind) for _ in range(3)], states(2, 7)
    sources = [states(11), states(2, 5), states(2, 1)]
    tables = [table(2, 7, count, degree) for count, degree in ((11, 5), (5, 4), (1, 1))]
    alone = [heard([layers[i]], [sources[i]], target, [tables[i]]) for i in range(3)]
    close(heard(layers, sources, target, tables), alone[0] + alone[1] + alone[2])


@pytest.mark.parametrize("kind", list(KINDS))
def test_tables_of_their_own_are_heard_as_one_that_is_joined(kind):
    layers, target = [made(kind) for _ in range(2)], states(2, 7)
    sources, tables = [states(11), states(2, 5)], [table(2, 7, 11, 5), table(2, 7, 5, 4)]
    apart = [
        (sources[0], Edges.joined([(Sources(start=0, graph=0), *tables[0])])),
        (sources[1].reshape(-1, WIDTH), Edges.joined([(Sources(start=0, graph=5), *tables[1])])),
    ]
    close(mapped(layers, apart, target), heard(layers, sources, target, tables))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_node_hears_itself_through_the_root(kind):
    layer, root, target = made(kind), torch.nn.Linear(WIDTH, WIDTH), states(2, 7)
    source, edges = states(2, 11), table(2, 7, 11, 5)
    tables = [(source.reshape(-1, WIDTH), Edges.joined([(Sources(start=0, graph=11), *edges)]))]
    own = target.reshape(-1, WIDTH)
    found = heard_with(root, [layer], KINDS[kind].sums([layer], tables, own), own).reshape(target.shape)
    close(found, root(target) + heard([layer], [source], target, [edges]))


@pytest.mark.parametrize("kind", list(KINDS))
def test_shared_sources_are_heard_as_a_copy_in_every_graph(kind):
    layer, source, target, edges = made(kind), states(11), states(5, 7), table(5, 7, 11, 5)
    copied = source.expand(5, 11, WIDTH)
    close(heard([layer], [source], target, [edges]), heard([layer], [copied], target, [edges]))


@pytest.mark.parametrize("graphs", [1, 5])
def test_sage_with_weights_of_one_is_sageconv(graphs):
    layer = KINDS["sage"](WIDTH)
    source, target, (idx, _) = states(graphs, 11), states(graphs, 7), table(graphs, 7, 11, 5)
    ones = (idx >= 0).float()
    conv = SAGEConv((WIDTH, WIDTH), WIDTH, root_weight=False)
    conv.load_state_dict({"lin_l.weight": layer.linear.weight, "lin_l.bias": layer.linear.bias})
    index, _ = edges_of(idx, ones, 11)
    expected = conv((source.flatten(0, 1), target.flatten(0, 1)), index).reshape(target.shape)
    close(heard([layer], [source], target, [(idx, ones)]), expected)


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
    norm_there = torch.from_numpy(norm["candidate_candidate.norm"])
    found = heard([layer], [nodes], nodes, [(idx, norm_there)])
    close(found[0], conv(nodes[0], *edges_of(idx, weight, 7)))


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_relation_without_any_edge_says_its_bias(kind):
    layer = made(kind)
    idx, weight = torch.full((2, 7, 5), -1), torch.zeros(2, 7, 5)
    found = heard([layer], [states(2, 11)], states(2, 7), [(idx, weight)])
    assert torch.equal(found, bias_of(layer).expand(2, 7, WIDTH))


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_stands_at_an_absent_edge_is_not_heard(kind):
    layer = made(kind)
    source, target, (idx, weight) = states(1, 11), states(1, 7), table(1, 7, 11, 5)
    nobodys = idx == 0  # the node that a gather takes where there is none
    idx, weight = idx.masked_fill(nobodys, -1), weight.masked_fill(nobodys, 0.0)
    loud = source.clone()
    loud[:, 0] = 1e6
    edges = [(idx, weight)]
    assert torch.equal(heard([layer], [loud], target, edges), heard([layer], [source], target, edges))


def test_attention_needs_a_width_that_its_heads_share():
    with pytest.raises(ValueError, match="multiple of 4"):
        GatRelation(18)
