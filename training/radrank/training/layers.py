"""Graph layers over padded neighbour tables: gathers and products of fixed shape, no scatter anywhere.

Each passes messages as PyG's layer of the same name does (SAGEConv, GraphConv with edge weights, GATConv), those of all
relations into one type of nodes at once, as HeteroConv(aggr="sum") adds them up; `tests/unit/training/test_layers.py`
holds them to 1e-5 of it. A small graph costs as much as the operators it takes, so there are few of them: nodes of a
batch's graphs stand one after the other in tables of two axes, and sums are mapped together with the node's own state.
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
    """The edges of R relations into n nodes of one type, side by side; their sources stand in one table of states.

    places: int64 [n · k], the sources' rows in that table; any where there is no edge
    present: float32 [n, 1, k], 1 for an edge; weight: float32 [n, 1, k], 0 where there is no edge
    degrees: slots of each relation, k in all
    """

    places: Tensor
    present: Tensor
    weight: Tensor
    degrees: tuple[int, ...]

    @classmethod
    def joined(cls, tables: Sequence[tuple[Sources, Tensor, Tensor]]) -> Self:
        """tables: of each relation its sources, idx int64 [B, T, k_r] (−1: no edge) and weight float32 [B, T, k_r]."""
        degrees = tuple(idx.shape[2] for _, idx, _ in tables)
        idx = torch.cat([idx for _, idx, _ in tables], dim=2)
        weight = torch.cat([weight for _, _, weight in tables], dim=2)
        return cls(
            places=torch.cat([_places(sources, idx) for sources, idx, _ in tables], dim=2).reshape(-1),
            present=(idx + 1).clamp(max=1).reshape(-1, 1, sum(degrees)).to(weight.dtype),
            weight=weight.reshape(-1, 1, sum(degrees)),
            degrees=degrees,
        )

    def gather(self, states: Tensor) -> Tensor:
        """Of a table of states [N, h], those of the sources: [n, k, h]."""
        # One index_select of a flat index, since that becomes a plain ONNX Gather on axis 0.
        return states.index_select(0, self.places).reshape(-1, sum(self.degrees), states.shape[1])

    @property
    def relations(self) -> Tensor:
        """Which slot is whose: float32 [R, k], one 1 a column."""
        rows = [
            [float(of == row) for of, k in enumerate(self.degrees) for _ in range(k)]
            for row in range(len(self.degrees))
        ]
        return torch.tensor(rows)

    def sums(self, states: Tensor, weight: Tensor) -> Tensor:
        """Of states [N, h] by weight [n, 1, k], within each relation: [n, R · h]."""
        if len(self.degrees) > 1:
            weight = weight * self.relations
        return torch.matmul(weight, self.gather(states)).reshape(-1, len(self.degrees) * states.shape[1])

    @property
    def means(self) -> Tensor:
        """The weights over how many edges their relation has there: [n, 1, k]."""
        if len(self.degrees) == 1:
            return self.weight / self.present.sum(dim=2, keepdim=True).clamp(min=1.0)
        counts = torch.matmul(self.present, self.relations.T).clamp(min=1.0)
        return self.weight / torch.matmul(counts, self.relations)


Heard = Sequence[tuple[Tensor, Edges]]
"""Tables of states [N, h], and the edges that lead from each to the same n nodes."""


def _places(sources: Sources, idx: Tensor) -> Tensor:
    places = idx.clamp(min=0)
    if sources.graph:
        graphs = torch.arange(idx.shape[0], device=idx.device).reshape(-1, 1, 1)
        return places + (graphs * sources.graph + sources.start)
    return places + sources.start


class SageRelation(nn.Module):
    """Mean of weighted neighbours, then a linear map (Hamilton et al. 2017); weights of one give PyG's SAGEConv."""

    edge_array = "weight"
    fixed = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    @staticmethod
    def sums(_relations: Sequence[SageRelation], heard: Heard, _own: Tensor) -> list[Tensor]:
        """What nodes hear before it is mapped: [n, R · h] of each table, zeros where there is no edge."""
        return [edges.sums(states, edges.means) for states, edges in heard]

    @staticmethod
    def mapping(relations: Sequence[SageRelation]) -> tuple[Tensor, Tensor]:
        """What maps these sums, side by side: weight [h, R · h] and bias [h]."""
        return _linear(relations)


class GcnRelation(nn.Module):
    """Sum of neighbours under symmetric normalisation (Kipf & Welling 2017): `weight` is w_ij / √(d_i d_j)."""

    edge_array = "norm"
    fixed = False  # degrees count the edges of one query's graph

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    @staticmethod
    def sums(_relations: Sequence[GcnRelation], heard: Heard, _own: Tensor) -> list[Tensor]:
        """As SageRelation.sums."""
        return [edges.sums(states, edges.weight) for states, edges in heard]

    @staticmethod
    def mapping(relations: Sequence[GcnRelation]) -> tuple[Tensor, Tensor]:
        """As SageRelation.mapping."""
        return _linear(relations)


class GatRelation(nn.Module):
    """Attention over neighbours and their similarities (Veličković et al. 2018), as GATConv with edge_dim=1."""

    edge_array = "weight"
    fixed = False  # attention reads who hears
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
    def sums(relations: Sequence[GatRelation], heard: Heard, own: Tensor) -> list[Tensor]:
        """As SageRelation.sums, [n, R · heads · h]: attention and messages are linear in states, which are mapped last.

        own: states [n, h] of the nodes that hear
        """
        found, start = [], 0
        for states, edges in heard:
            each = relations[start : start + len(edges.degrees)]
            found.append(GatRelation._attended(each, states, own, edges))
            start += len(each)
        return found

    @staticmethod
    def mapping(relations: Sequence[GatRelation]) -> tuple[Tensor, Tensor]:
        """As SageRelation.mapping, weight [h, R · heads · h]: what a head has summed goes through its rows alone."""
        heads = relations[0].heads
        maps = torch.stack([each._by_head(each.source) for each in relations])  # [R, heads, size, h]
        own = torch.eye(heads).reshape(heads, 1, 1, heads, 1)
        weight = (maps.permute(1, 2, 0, 3).unsqueeze(3) * own).flatten(2).flatten(0, 1)
        return weight, torch.stack([each.bias for each in relations]).sum(0)

    @staticmethod
    def _attended(relations: Sequence[GatRelation], states: Tensor, own: Tensor, edges: Edges) -> Tensor:
        heads = relations[0].heads
        found = edges.gather(states)
        from_source = torch.matmul(
            torch.cat([each._folded(each.source, each.attend_source) for each in relations]), found.transpose(1, 2)
        )
        from_target = F.linear(own, torch.cat([each._folded(each.target, each.attend_target) for each in relations]))
        per_weight = torch.cat([each._folded(each.edge, each.attend_edge) for each in relations])
        logits = F.leaky_relu(from_source + from_target.unsqueeze(2) + per_weight * edges.weight, GatRelation.slope)
        present = edges.present * edges.relations.repeat_interleave(heads, dim=0)
        logits = logits + (present - 1.0) * 1e9
        attention = torch.softmax(logits, dim=2) * present  # [n, R · heads, k]
        return torch.matmul(attention, found).reshape(-1, len(relations) * heads * states.shape[-1])

    def _folded(self, linear: nn.Linear, attend: Tensor) -> Tensor:
        """A map and the attention after it, as one: [heads, inputs of the map]."""
        return (self._by_head(linear) * attend.unsqueeze(-1)).sum(1)

    def _by_head(self, linear: nn.Linear) -> Tensor:
        """A map's rows by the head that reads them: [heads, size, inputs]."""
        return linear.weight.reshape(self.heads, self.size, -1)


def heard_with(root: nn.Linear, relations: Sequence[Relation], sums: Sequence[Tensor], own: Tensor) -> Tensor:
    """What nodes hear from all relations and, through the root, from themselves. own [n, h] → [n, h].

    sums: of these relations, in their order. A node without edges hears the root and the relations' biases.
    """
    kind: Kind = type(relations[0])
    weight, bias = kind.mapping(relations)
    return F.linear(torch.cat([own, *sums], dim=1), torch.cat([root.weight, weight], dim=1), root.bias + bias)


def _linear(relations: Sequence[SageRelation] | Sequence[GcnRelation]) -> tuple[Tensor, Tensor]:
    weight = torch.cat([relation.linear.weight for relation in relations], dim=1)
    return weight, torch.stack([relation.linear.bias for relation in relations]).sum(0)


Relation = SageRelation | GcnRelation | GatRelation
"""The parameters of one relation."""


class Kind(Protocol):
    """One of the classes above. edge_array: what of a GraphBatch its edges are weighted by; fixed: what is heard from
    nodes that hear from nobody is the same in every layer and for every query."""

    edge_array: str
    fixed: bool

    def __call__(self, width: int) -> Relation: ...
    def sums(self, relations: Sequence[Any], heard: Heard, own: Tensor, /) -> list[Tensor]:
        """What nodes hear before it is mapped: [n, …] of each table, zeros where there is no edge. own: [n, h]"""
        ...

    def mapping(self, relations: Sequence[Any], /) -> tuple[Tensor, Tensor]:
        """What maps these sums, side by side: weight [h, …] and bias [h]."""
        ...


KINDS: Mapping[str, Kind] = {"sage": SageRelation, "gcn": GcnRelation, "gat": GatRelation}
"""Re-rankers by name, and their layers."""
