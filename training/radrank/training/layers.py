"""Graph layers over padded neighbour tables: gathers and products of fixed shape, no scatter anywhere.

Each passes messages as PyG's layer of the same name does (SAGEConv, GraphConv with edge weights, GATConv), those of all
relations into one type of nodes at once, as HeteroConv(aggr="sum") adds them up; `tests/unit/training/test_layers.py`
holds them to 1e-5 of it. A small graph costs as much as the operators it takes, so there are few of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where the nodes of one type stand in a table of states. start: the first of them; graph: how many belong to each
    graph, 0 where all graphs share them."""

    start: int
    graph: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Edges:
    """The edges of R relations into nodes of one type, side by side.

    places: int64 [B, T, k], the sources' rows in a table of states; any where there is no edge
    present: bool [B, T, k]; weight: float32 [B, T, k], 0 where there is no edge
    degrees: slots of each relation, k in all
    """

    places: Tensor
    present: Tensor
    weight: Tensor
    degrees: tuple[int, ...]

    @classmethod
    def joined(cls, tables: Sequence[tuple[Sources, Tensor, Tensor]]) -> Self:
        """tables: of each relation its sources, idx int64 [B, T, k_r] (−1: no edge) and weight float32 [B, T, k_r]."""
        places = [_places(sources, idx) for sources, idx, _ in tables]
        idx = torch.cat([idx for _, idx, _ in tables], dim=2)
        return cls(
            places=torch.cat(places, dim=2),
            present=idx >= 0,
            weight=torch.cat([weight for _, _, weight in tables], dim=2),
            degrees=tuple(idx.shape[2] for _, idx, _ in tables),
        )

    def gather(self, states: Tensor) -> Tensor:
        """Of a table of states [N, h], those of the sources: [B, T, k, h]."""
        # One index_select of a flat index, since that becomes a plain ONNX Gather on axis 0.
        return states.index_select(0, self.places.reshape(-1)).reshape(*self.places.shape, states.shape[-1])

    @property
    def relations(self) -> Tensor:
        """Which slot is whose: float32 [R, k], one 1 a column."""
        rows = [
            [float(of == row) for of, k in enumerate(self.degrees) for _ in range(k)]
            for row in range(len(self.degrees))
        ]
        return torch.tensor(rows)

    def sums(self, states: Tensor, weight: Tensor) -> Tensor:
        """Of states [N, h] by weight [B, T, k], within each relation: [B, T, R, h]."""
        return torch.matmul(weight.unsqueeze(2) * self.relations, self.gather(states))

    @property
    def means(self) -> Tensor:
        """The weights over how many edges their relation has there: [B, T, k]."""
        counts = torch.matmul(self.present.to(self.weight.dtype), self.relations.T).clamp(min=1.0)
        return self.weight / torch.matmul(counts, self.relations)


def _places(sources: Sources, idx: Tensor) -> Tensor:
    places = idx.clamp(min=0) + sources.start
    if sources.graph:
        places = places + torch.arange(idx.shape[0], device=idx.device).reshape(-1, 1, 1) * sources.graph
    return places


class SageRelation(nn.Module):
    """Mean of weighted neighbours, then a linear map (Hamilton et al. 2017); weights of one give PyG's SAGEConv."""

    edge_array = "weight"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    @staticmethod
    def heard(relations: Sequence[SageRelation], states: Tensor, _target: Tensor, edges: Edges) -> Tensor:
        """What nodes hear from all relations. states [N, h], target [B, T, h] → [B, T, h].

        A node without edges hears nothing but the biases.
        """
        return _mapped([relation.linear for relation in relations], edges.sums(states, edges.means))


class GcnRelation(nn.Module):
    """Sum of neighbours under symmetric normalisation (Kipf & Welling 2017): `weight` is w_ij / √(d_i d_j)."""

    edge_array = "norm"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    @staticmethod
    def heard(relations: Sequence[GcnRelation], states: Tensor, _target: Tensor, edges: Edges) -> Tensor:
        """As SageRelation.heard."""
        return _mapped([relation.linear for relation in relations], edges.sums(states, edges.weight))


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

    @staticmethod
    def heard(relations: Sequence[GatRelation], states: Tensor, target: Tensor, edges: Edges) -> Tensor:
        """As SageRelation.heard. Attention and messages are linear in states: sums are taken first, and then mapped."""
        heads = relations[0].heads
        found = edges.gather(states)
        of_slot = edges.relations.T.repeat_interleave(heads, dim=1)  # [k, R · heads]
        from_source = F.linear(found, torch.cat([each._folded(each.source, each.attend_source) for each in relations]))
        from_target = F.linear(target, torch.cat([each._folded(each.target, each.attend_target) for each in relations]))
        per_weight = torch.cat([each._folded(each.edge, each.attend_edge) for each in relations]).squeeze(1)
        logits = from_source + from_target.unsqueeze(2) + edges.weight.unsqueeze(-1) * per_weight
        present = (edges.present.to(logits.dtype).unsqueeze(-1) * of_slot).transpose(2, 3)
        logits = F.leaky_relu(logits, GatRelation.slope).transpose(2, 3) + (present - 1.0) * 1e9
        attention = torch.softmax(logits, dim=3) * present  # [B, T, R · heads, k]
        sums = torch.matmul(attention, found)
        # What a head has summed goes through that head's rows alone.
        maps = torch.stack([each._by_head(each.source) for each in relations])  # [R, heads, size, h]
        own = torch.eye(heads).reshape(heads, 1, 1, heads, 1)
        weight = (maps.permute(1, 2, 0, 3).unsqueeze(3) * own).flatten(2).flatten(0, 1)
        bias = torch.stack([each.bias for each in relations]).sum(0)
        return F.linear(sums.flatten(start_dim=2), weight, bias)

    def _folded(self, linear: nn.Linear, attend: Tensor) -> Tensor:
        """A map and the attention after it, as one: [heads, inputs of the map]."""
        return (self._by_head(linear) * attend.unsqueeze(-1)).sum(1)

    def _by_head(self, linear: nn.Linear) -> Tensor:
        """A map's rows by the head that reads them: [heads, size, inputs]."""
        return linear.weight.reshape(self.heads, self.size, -1)


def _mapped(linears: Sequence[nn.Linear], sums: Tensor) -> Tensor:
    """Each relation's sums through its own map, added up: [B, T, R, h] → [B, T, h]."""
    weight = torch.cat([linear.weight for linear in linears], dim=1)
    bias = torch.stack([linear.bias for linear in linears]).sum(0)
    return F.linear(sums.flatten(start_dim=2), weight, bias)


Relation = SageRelation | GcnRelation | GatRelation
"""The parameters of one relation."""


class Kind(Protocol):
    """One of the classes above. edge_array: what of a GraphBatch its edges are weighted by."""

    edge_array: str

    def __call__(self, width: int) -> Relation: ...
    def heard(self, relations: Sequence[Any], states: Tensor, target: Tensor, edges: Edges, /) -> Tensor:
        """What nodes hear from all relations. states [N, h], target [B, T, h] → [B, T, h]."""
        ...


KINDS: Mapping[str, Kind] = {"sage": SageRelation, "gcn": GcnRelation, "gat": GatRelation}
"""Re-rankers by name, and their layers."""
