"""The oracle: PyG's layers and a HeteroData graph, with a re-ranker's own weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.graph import ARCHIVE_RELATIONS, CANDIDATE, QUERY, RELATIONS, GraphBatch
from radrank.core.studies import Modality
from radrank.training.layers import GatRelation, GcnRelation, SageRelation
from radrank.training.reranker import GraphReranker, RelationalLayer

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyG still scripts some of its classes while it is imported
    from torch_geometric.data import Batch, HeteroData
    from torch_geometric.nn import GATConv, GCNConv, GraphConv, HeteroConv, SAGEConv
    from torch_geometric.utils import scatter

__all__ = ["GCNConv", "SAGEConv", "conv_of", "edges_of", "hetero_conv_of", "hetero_data_of", "in_pyg"]

EdgeType = tuple[str, str, str]
EDGE_TYPES: dict[str, EdgeType] = {r.name: (r.source, r.name, r.target) for r in RELATIONS}


def edges_of(idx: Tensor, weight: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """A padded table [B, T, k] as PyG's edge_index [2, e] and edge weights [e].

    sources: nodes of each of the B graphs that edges leave from; 0 where all graphs share their sources
    """
    graph, target, slot = (idx >= 0).nonzero(as_tuple=True)
    index = torch.stack([graph * sources + idx[graph, target, slot], graph * idx.shape[1] + target])
    return index, weight[graph, target, slot]


def conv_of(layer: SageRelation | GcnRelation | GatRelation) -> nn.Module:
    """PyG's layer with this layer's weights."""
    if isinstance(layer, GatRelation):
        width = layer.heads * layer.size
        conv = GATConv((width, width), layer.size, heads=layer.heads, add_self_loops=False, edge_dim=1)
        linear = {"lin_src": layer.source, "lin_dst": layer.target, "lin_edge": layer.edge}
        weights = {f"{name}.weight": module.weight for name, module in linear.items()}
        attend = {"att_src": layer.attend_source, "att_dst": layer.attend_target, "att_edge": layer.attend_edge}
        conv.load_state_dict({**weights, **{n: p[None] for n, p in attend.items()}, "bias": layer.bias})
        return conv
    width = layer.linear.in_features
    conv = GraphConv((width, width), width, aggr="mean" if isinstance(layer, SageRelation) else "add")
    root = torch.zeros(width, width)  # a relation's own layer does not read the target's state
    conv.load_state_dict(
        {"lin_rel.weight": layer.linear.weight, "lin_rel.bias": layer.linear.bias, "lin_root.weight": root}
    )
    return conv


def hetero_conv_of(layer: RelationalLayer) -> HeteroConv:
    """All relations of one layer: HeteroConv(aggr="sum")."""
    convs = {EDGE_TYPES[r.name]: conv_of(layer.relations[r.name]) for r in layer.shape.relations}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There exist node types", UserWarning)  # archive items hear from nobody
        return HeteroConv(convs, aggr="sum")


def hetero_data_of(batch: GraphBatch) -> HeteroData:
    """The graphs of a batch side by side, each with nodes of its own; nothing in it is padded.

    An archive item that several edges of one graph leave from is one node there. `place` of a node type, int64 [N], is
    where a node stands among the batch's: for candidates B · K places, for archive items any of its copies.
    """
    return Batch.from_data_list([_one(batch, row) for row in range(len(batch.candidates))])


def _one(batch: GraphBatch, row: int) -> HeteroData:
    """The graph of one query."""
    arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in batch.arrays.items()}
    rows = {r.name: torch.from_numpy(np.asarray(batch.rows[r.name]))[row] for r in ARCHIVE_RELATIONS}
    width, found = arrays["base"].shape[1], batch.candidates[row]
    data = HeteroData()
    data[QUERY].place = torch.tensor([row])
    data[QUERY].x = arrays[QUERY][[row]]
    data[CANDIDATE].place = torch.arange(found) + row * width
    data[CANDIDATE].x = arrays[CANDIDATE][row, :found]
    held: dict[str, Tensor] = {}
    for m in Modality:
        names = [r.name for r in ARCHIVE_RELATIONS if r.source == m]
        every = torch.cat([rows[name].flatten() for name in names])
        copies = torch.cat([arrays[f"{name}.idx"][row].flatten() for name in names])
        held[m] = every[every >= 0].unique()
        data[m.value].place = torch.stack([copies[every == item][0] for item in held[m]])
        data[m.value].x = arrays[m.value][data[m.value].place]
    for r in RELATIONS:
        idx = rows[r.name] if r.name in rows else arrays[f"{r.name}.idx"][row]
        target, slot = (idx >= 0).nonzero(as_tuple=True)
        sources = idx[target, slot]
        edges = data[EDGE_TYPES[r.name]]
        if r.name in rows:
            sources = torch.searchsorted(held[r.source], sources)
        edges.edge_index = torch.stack([sources, target])
        edges.edge_weight = arrays[f"{r.name}.weight"][row, target, slot]
        assert (sources < data[r.source].num_nodes).all(), "an edge leaves from a padded node"
        assert (target < data[r.target].num_nodes).all(), "an edge leads to a padded node"
    return data


class InPyg(nn.Module):
    """A layer of a re-ranker whose messages PyG passes, over the same graphs as HeteroData."""

    def __init__(self, layer: RelationalLayer, data: HeteroData) -> None:
        super().__init__()
        self.layer, self.data, self.conv = layer, data, hetero_conv_of(layer)

    def forward(self, states: Mapping[str, Tensor], _arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        real = {t: found[self.data[t].place] for t, found in states.items()}
        heard: dict[str, Tensor] = self.conv(real, self.data.edge_index_dict, **self._edges())
        new = dict(states)
        for t in (QUERY, CANDIDATE):
            own = real[t] + F.relu(self.layer.roots[t](real[t]) + heard[t])
            new[t] = torch.zeros_like(states[t])
            new[t][self.data[t].place] = self.layer.norms[t](own)
        return new

    def _edges(self) -> dict[str, Any]:
        weights: dict[EdgeType, Tensor] = self.data.collect("edge_weight")
        one = next(iter(self.layer.relations.values()))
        if isinstance(one, GatRelation):
            return {"edge_attr_dict": {key: weight[:, None] for key, weight in weights.items()}}
        if isinstance(one, GcnRelation):
            weights = {edge_type: _normalised(self.data, edge_type) for edge_type in weights}
        return {"edge_weight_dict": weights}


def in_pyg(model: GraphReranker, batch: GraphBatch) -> GraphReranker:
    """The same re-ranker, but PyG passes all of its messages, over `hetero_data_of(batch)`: for this batch alone."""
    data = hetero_data_of(batch)
    other = copy.deepcopy(model)
    other.layers = nn.ModuleList(InPyg(layer, data) for layer in other.layers)
    return other


def _normalised(data: HeteroData, edge_type: EdgeType) -> Tensor:
    """w_ij / √(d_i d_j), degrees being sums of weights at either end of this relation."""
    (source, target), weight = data[edge_type].edge_index, data[edge_type].edge_weight
    leaving = scatter(weight, source, dim_size=data[edge_type[0]].num_nodes)
    arriving = scatter(weight, target, dim_size=data[edge_type[2]].num_nodes)
    product = leaving[source] * arriving[target]
    return torch.where(product > 0, weight / product.clamp(min=1e-30).sqrt(), 0.0)
