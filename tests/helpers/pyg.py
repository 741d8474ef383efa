"""The oracle: PyG's layers and a HeteroData graph, with a re-ranker's own weights."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from radrank.core.graph import QUERY, RELATIONS, GraphBatch
from radrank.core.studies import Modality
from radrank.training.layers import GatRelation, GcnRelation, SageRelation
from radrank.training.reranker import GraphReranker, RelationalLayer

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyG still scripts some of its classes while it is imported
    from torch_geometric.data import HeteroData
    from torch_geometric.nn import GATConv, GraphConv, HeteroConv, SAGEConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm
    from torch_geometric.utils import scatter

__all__ = ["SAGEConv", "conv_of", "edges_of", "gcn_norm", "hetero_conv_of", "hetero_data_of", "scores_of"]

EdgeType = tuple[str, str, str]
EDGE_TYPES: dict[str, EdgeType] = {r.name: (r.source, r.name, r.target) for r in RELATIONS}


def edges_of(idx: Tensor, weight: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """A padded table [B, T, k] over B graphs of `sources` nodes as PyG's edge_index [2, e] and edge weights [e]."""
    graph, target, slot = (idx >= 0).nonzero(as_tuple=True)
    index = torch.stack([graph * sources + idx[graph, target, slot], graph * idx.shape[1] + target])
    return index, weight[graph, target, slot]


def conv_of(layer: SageRelation | GcnRelation | GatRelation) -> torch.nn.Module:
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
    return HeteroConv({EDGE_TYPES[r.name]: conv_of(layer.relations[r.name]) for r in RELATIONS}, aggr="sum")


def hetero_data_of(batch: GraphBatch) -> HeteroData:
    """The graphs of a batch as one HeteroData of real nodes only: nothing in it is padded.

    `place` of a node type: int64 [B, N], where each of the batch's nodes stands, −1 for padding.
    """
    arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in batch.arrays.items()}
    data = HeteroData()
    vectors = {QUERY: arrays["query"][:, None], **{m.value: arrays[m.value] for m in Modality}}
    scalars = {QUERY: arrays["query_scalars"][:, None], **{m.value: arrays[f"{m}_scalars"] for m in Modality}}
    for node_type, found in vectors.items():
        real = (found != 0).any(dim=-1)
        data[node_type].x, data[node_type].scalars = found[real], scalars[node_type][real]
        data[node_type].place = torch.where(real, real.flatten().cumsum(0).reshape(real.shape) - 1, -1)
    for r in RELATIONS:
        idx = arrays[f"{r.name}.idx"]
        graph, target, slot = (idx >= 0).nonzero(as_tuple=True)
        ends = data[r.source].place[graph, idx[graph, target, slot]], data[r.target].place[graph, target]
        edges = data[EDGE_TYPES[r.name]]
        edges.edge_index, edges.edge_weight = torch.stack(ends), arrays[f"{r.name}.weight"][graph, target, slot]
        assert (edges.edge_index >= 0).all(), "an edge touches a padded node"
    return data


def messages_of(layer: RelationalLayer, kind: str, states: dict[str, Tensor], data: HeteroData) -> dict[str, Tensor]:
    """What every node hears from all relations, by PyG."""
    weights: dict[EdgeType, Tensor] = data.collect("edge_weight")
    if kind == "gcn":
        weights = {edge_type: _normalised(data, edge_type) for edge_type in weights}
    if kind == "gat":
        attributes: dict[str, Any] = {"edge_attr_dict": {key: w[:, None] for key, w in weights.items()}}
    else:
        attributes = {"edge_weight_dict": weights}
    heard: dict[str, Tensor] = hetero_conv_of(layer)(states, data.edge_index_dict, **attributes)
    return heard


@torch.inference_mode()
def scores_of(model: GraphReranker, batch: GraphBatch) -> list[Tensor]:
    """Scores of each query's candidates, padding left out, by message passing over `hetero_data_of(batch)`."""
    data = hetero_data_of(batch)
    states = {t: F.relu(model.inputs[t](torch.cat([data[t].x, data[t].scalars], dim=1))) for t in data.node_types}
    for layer in model.layers:
        heard = messages_of(layer, model.shape.kind, states, data)
        states = {t: layer.norms[t](x + F.relu(layer.roots[t](x) + heard[t])) for t, x in states.items()}
    images = batch.arrays["image"].shape[1]
    found = []
    for row, count in enumerate(batch.candidates):
        slots = torch.from_numpy(batch.arrays["slots"][row, :count])
        target = Modality.REPORT.value if int(slots[0]) >= images else Modality.IMAGE.value
        nodes = data[target].place[row, slots - (images if target == Modality.REPORT.value else 0)]
        candidate, query = states[target][nodes], states[QUERY][row].expand(count, -1)
        read = torch.cat([candidate, query, candidate * query, data[target].scalars[nodes]], dim=1)
        found.append(torch.from_numpy(batch.arrays["base"][row, :count]) + model.gate * model.read(read)[:, 0])
    return found


def _normalised(data: HeteroData, edge_type: EdgeType) -> Tensor:
    """w_ij / √(d_i d_j), degrees being sums of weights at either end of this relation."""
    (source, target), weight = data[edge_type].edge_index, data[edge_type].edge_weight
    leaving = scatter(weight, source, dim_size=data[edge_type[0]].num_nodes)
    arriving = scatter(weight, target, dim_size=data[edge_type[2]].num_nodes)
    product = leaving[source] * arriving[target]
    return torch.where(product > 0, weight / product.clamp(min=1e-30).sqrt(), 0.0)
