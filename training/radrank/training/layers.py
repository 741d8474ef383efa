"""Graph layers over padded neighbour tables: gathers and reductions of fixed shape, no scatter anywhere.

Each computes one relation's messages as PyG's layer of the same name does (SAGEConv, GraphConv with edge weights,
GATConv); `tests/unit/training/test_layers.py` holds them to 1e-5 of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RelationLayer(Protocol):
    """Messages of one relation.

    source [B, S, h] and target [B, T, h] are node states, source [S, h] where all graphs share them; idx int64
    [B, T, k] are places among the source nodes, −1 where there is no edge; weight [B, T, k]. Returns [B, T, h]; a node
    without edges hears nothing but the bias.
    """

    def __call__(self, source: Tensor, target: Tensor, idx: Tensor, weight: Tensor) -> Tensor: ...


def gather(states: Tensor, idx: Tensor) -> Tensor:
    """states [B, S, h], or [S, h], at idx int64 [B, T, k] → [B, T, k, h]; −1 takes any, to be masked by the caller.

    One index_select over the flattened batch, since that becomes a plain ONNX Gather on axis 0.
    """
    places = idx.clamp(min=0)
    if states.dim() == 3:
        graphs, nodes, _ = states.shape
        places = places + torch.arange(graphs, device=idx.device).reshape(graphs, 1, 1) * nodes
        states = states.flatten(end_dim=1)
    return states.index_select(0, places.reshape(-1)).reshape(*idx.shape, states.shape[-1])


def weighted_sum(messages: Tensor, weight: Tensor) -> Tensor:
    """messages [B, T, k, h] by weight [B, T, k] → [B, T, h]: one small product a node, which is faster than
    a multiplication and a sum."""
    return torch.matmul(weight.unsqueeze(2), messages).squeeze(2)


class SageRelation(nn.Module):
    """Mean of weighted neighbours, then a linear map (Hamilton et al. 2017); weights of one give PyG's SAGEConv."""

    edge_array = "weight"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, source: Tensor, _target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        degree = (idx >= 0).sum(dim=2, keepdim=True).clamp(min=1)
        mapped: Tensor = self.linear(weighted_sum(gather(source, idx), weight / degree))
        return mapped


class GcnRelation(nn.Module):
    """Sum of neighbours under symmetric normalisation (Kipf & Welling 2017): `weight` is w_ij / √(d_i d_j)."""

    edge_array = "norm"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, source: Tensor, _target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        mapped: Tensor = self.linear(weighted_sum(gather(source, idx), weight))
        return mapped


class GatRelation(nn.Module):
    """Attention over neighbours and their similarities (Veličković et al. 2018), as GATConv with edge_dim=1."""

    edge_array = "weight"
    slope = 0.2

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of {heads} heads")
        self.heads, self.size = heads, width // heads
        self.source = nn.Linear(width, width, bias=False)
        self.target = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(1, width, bias=False)
        self.attend_source = nn.Parameter(torch.empty(heads, self.size))
        self.attend_target = nn.Parameter(torch.empty(heads, self.size))
        self.attend_edge = nn.Parameter(torch.empty(heads, self.size))
        self.bias = nn.Parameter(torch.zeros(width))
        for parameter in (self.attend_source, self.attend_target, self.attend_edge):
            nn.init.xavier_uniform_(parameter)

    def forward(self, source: Tensor, target: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        states: Tensor = self.source(source)
        values = self._by_head(states)
        # The attention of a node is linear in its state: computed once a node, then gathered, not once an edge.
        from_source = gather((values * self.attend_source).sum(-1), idx)
        from_target = (self._by_head(self.target(target)) * self.attend_target).sum(-1).unsqueeze(2)
        per_weight = (self.edge.weight.reshape(self.heads, self.size) * self.attend_edge).sum(-1)
        logits = F.leaky_relu(from_source + from_target + weight.unsqueeze(-1) * per_weight, self.slope)
        present = (idx >= 0).unsqueeze(-1)
        attention = torch.softmax(logits.masked_fill(~present, -1e9), dim=2) * present
        messages = self._by_head(gather(states, idx)) * attention.unsqueeze(-1)
        return messages.sum(dim=2).flatten(start_dim=-2) + self.bias

    def _by_head(self, states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:-1], self.heads, self.size)


KINDS: Mapping[str, Callable[[int], SageRelation | GcnRelation | GatRelation]] = {
    "sage": SageRelation,
    "gcn": GcnRelation,
    "gat": GatRelation,
}
"""Re-rankers by name: what makes one relation's layer of a given width."""
