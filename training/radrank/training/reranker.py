"""The graph re-ranker: relation-aware message passing over a GraphBatch, and a residual score for every candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.graph import NODE_SCALARS, NODE_TYPES, QUERY, QUERY_SCALARS, RELATIONS
from radrank.core.studies import Modality
from radrank.training.layers import KINDS, gather


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerShape:
    """kind: sage, gcn or gat; dimensions: of the embedding space; width: of node states; layers: message passes;
    dropout: of the embeddings while training, so that scores lean on similarities and labels rather than on places in
    the training archive."""

    kind: str
    dimensions: int
    width: int = 64
    layers: int = 2
    dropout: float = 0.5


class RelationalLayer(nn.Module):
    """One pass: every node type hears from all its relations, adds its own state, and is normalised."""

    def __init__(self, shape: RerankerShape) -> None:
        super().__init__()
        self.relations = nn.ModuleDict({r.name: KINDS[shape.kind](shape.width) for r in RELATIONS})
        self.roots = nn.ModuleDict({t: nn.Linear(shape.width, shape.width) for t in NODE_TYPES})
        self.norms = nn.ModuleDict({t: nn.LayerNorm(shape.width) for t in NODE_TYPES})

    def messages(self, states: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of all relations' messages and the root's, by node type: HeteroConv(aggr="sum")."""
        heard = {t: self.roots[t](states[t]) for t in NODE_TYPES}
        for r in RELATIONS:
            layer = self.relations[r.name]
            edges = arrays[f"{r.name}.{layer.edge_array}"]
            heard[r.target] = heard[r.target] + layer(
                states[r.source], states[r.target], arrays[f"{r.name}.idx"], edges
            )
        return heard

    def forward(self, states: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heard = self.messages(states, arrays)
        return {t: self.norms[t](states[t] + F.relu(heard[t])) for t in NODE_TYPES}


class GraphReranker(nn.Module):
    """s = s_clip + g·f(graph), g starting at zero: untrained, it changes nothing."""

    def __init__(self, shape: RerankerShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        scalars = {t: QUERY_SCALARS if t == QUERY else NODE_SCALARS for t in NODE_TYPES}
        self.inputs = nn.ModuleDict({t: nn.Linear(shape.dimensions + scalars[t], width) for t in NODE_TYPES})
        self.layers = nn.ModuleList(RelationalLayer(shape) for _ in range(shape.layers))
        self.read = nn.Sequential(nn.Linear(3 * width + NODE_SCALARS, width), nn.ReLU(), nn.Linear(width, 1))
        self.gate = nn.Parameter(torch.zeros(()))

    @property
    def array_names(self) -> list[str]:
        """The arrays of a GraphBatch that this re-ranker reads, in the order of its ONNX inputs."""
        edges = KINDS[self.shape.kind](self.shape.width).edge_array
        nodes = ["query", "query_scalars", *(n for m in Modality for n in (m.value, f"{m}_scalars"))]
        return [*nodes, *(n for r in RELATIONS for n in (f"{r.name}.idx", f"{r.name}.{edges}")), "slots", "base"]

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """arrays: a GraphBatch's, by name. Returns scores [B, K]; padded slots hold anything."""
        scalars = {m.value: arrays[f"{m}_scalars"] for m in Modality}
        kept = self._kept_dimensions(arrays["query"])
        inputs = {m.value: torch.cat([arrays[m.value] * kept, scalars[m.value]], dim=-1) for m in Modality}
        inputs[QUERY] = torch.cat([arrays["query"].unsqueeze(1) * kept, arrays["query_scalars"].unsqueeze(1)], dim=-1)
        states = {t: F.relu(self.inputs[t](inputs[t])) for t in NODE_TYPES}
        for layer in self.layers:
            states = layer(states, arrays)
        slots = arrays["slots"].unsqueeze(-1)
        candidates = gather(torch.cat([states[m.value] for m in Modality], dim=1), slots).squeeze(2)
        known = gather(torch.cat([scalars[m.value] for m in Modality], dim=1), slots).squeeze(2)
        query = states[QUERY].expand_as(candidates)
        residual = self.read(torch.cat([candidates, query, candidates * query, known], dim=-1)).squeeze(-1)
        scores: Tensor = arrays["base"] + self.gate * residual
        return scores

    def _kept_dimensions(self, query: Tensor) -> Tensor | float:
        """Dropout of whole dimensions of the space, the same ones for all nodes of a graph: [B, 1, d], or 1."""
        if not self.training:
            return 1.0
        return F.dropout(torch.ones_like(query), self.shape.dropout).unsqueeze(1)
