"""The graph re-ranker: relation-aware messages over a GraphBatch sharpen what is believed of query and candidates.

    s = s_clip + spread · (g · f + b · p(normal)),    g starting at zero: untrained, it changes nothing

spread is the standard deviation of s_clip over the candidates; f compares the sharpened beliefs in fixed ways, weighs
these, and adds what a small network reads from the states. b is not learnt but set, so that the share of normal studies
among the first ten stays what the encoder's own order has: moving normal reports up would otherwise be all it learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radrank.core.graph import ARCHIVE_RELATIONS, CANDIDATE, DIRECTIONS, NODE_TYPES, QUERY, RELATIONS, Relation
from radrank.core.studies import Modality
from radrank.training.layers import KINDS, Edges, Sources

_TRUST = {QUERY: 0.02, CANDIDATE: 0.2}  # share of the archive's votes in what is believed, where training begins
_SOURCES = tuple(source is Modality.REPORT for source, _ in DIRECTIONS)
_TARGETS = tuple(target is Modality.REPORT for _, target in DIRECTIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What a re-ranker of some name is. layer: of KINDS, None for no edges at all; votes: reads its archive
    neighbours' labels, counted; messages: hears from archive nodes; shuffled: reads a graph with shuffled edges.
    """

    layer: str | None
    votes: bool = True
    messages: bool = True
    shuffled: bool = False


VARIANTS: Mapping[str, Variant] = {
    **{kind: Variant(layer=kind) for kind in KINDS},
    "mlp": Variant(layer=None),
    "mlp_bare": Variant(layer=None, votes=False),
    **{f"{kind}_shuffled": Variant(layer=kind, shuffled=True) for kind in KINDS},
    **{f"{kind}_alone": Variant(layer=kind, messages=False) for kind in KINDS},
}
"""Re-rankers by name: the three graph networks, and the controls that show what they owe to the graph."""

SERVED = (*KINDS, "mlp")
"""What may be a bundle's default: the others are poorer on purpose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerShape:
    """name: of a variant; groups: finding groups; width: of node states; layers: message passes; dropout: of states."""

    name: str
    groups: int
    width: int = 32
    layers: int = 2
    dropout: float = 0.2

    @property
    def variant(self) -> Variant:
        return VARIANTS[self.name]

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Whose messages it hears."""
        if self.variant.layer is None:
            return ()
        return tuple(r for r in RELATIONS if self.variant.messages or r not in ARCHIVE_RELATIONS)


class RelationalLayer(nn.Module):
    """One pass: query and candidates hear from all their relations, add their own state, and are normalised."""

    def __init__(self, shape: RerankerShape, layer: str) -> None:
        super().__init__()
        self.shape, self.kind = shape, KINDS[layer]
        self.relations = nn.ModuleDict({r.name: self.kind(shape.width) for r in shape.relations})
        self.roots = nn.ModuleDict({t: nn.Linear(shape.width, shape.width) for t in (QUERY, CANDIDATE)})
        self.norms = nn.ModuleDict({t: nn.LayerNorm(shape.width) for t in (QUERY, CANDIDATE)})

    def messages(self, states: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of all relations' messages and the root's, by node type: HeteroConv(aggr="sum")."""
        every, sources = _side_by_side(states)
        heard = {}
        for t in (QUERY, CANDIDATE):
            relations = [r for r in self.shape.relations if r.target == t]
            layers = [self.relations[r.name] for r in relations]
            tables = [(arrays[f"{r.name}.idx"], arrays[f"{r.name}.{self.kind.edge_array}"]) for r in relations]
            edges = Edges.joined([(sources[r.source], *table) for r, table in zip(relations, tables, strict=True)])
            heard[t] = self.roots[t](states[t]) + self.kind.heard(layers, every, states[t], edges)
        return heard

    def forward(self, states: Mapping[str, Tensor], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heard = self.messages(states, arrays)
        dropped = {t: F.dropout(F.relu(found), self.shape.dropout, self.training) for t, found in heard.items()}
        return {**states, **{t: self.norms[t](states[t] + found) for t, found in dropped.items()}}


class GraphReranker(nn.Module):
    """Scores candidates from a GraphBatch."""

    prior: Tensor
    offset: Tensor

    def __init__(self, shape: RerankerShape, prior: Tensor | None = None) -> None:
        """prior: float32 [1 + groups], how frequent normal and each finding are; ½ if not given."""
        super().__init__()
        self.shape = shape
        beliefs, width, variant = 1 + shape.groups, shape.width, shape.variant
        own = 2 * beliefs * (2 if variant.votes else 1)
        widths = {QUERY: own, CANDIDATE: own + 2} | ({m.value: 3 * beliefs for m in Modality} if self._archive else {})
        self.inputs = nn.ModuleDict({t: nn.Linear(widths[t], width) for t in NODE_TYPES if t in widths})
        self.layers = nn.ModuleList(RelationalLayer(shape, variant.layer) for _ in range(shape.layers) if variant.layer)
        self.sharpen = nn.ModuleDict({t: _zero(nn.Linear(width, beliefs)) for t in (QUERY, CANDIDATE)})
        compared = 4 if variant.votes else 3
        self.read = nn.Sequential(
            nn.Linear(3 * width + compared + 2, width),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
            _zero(nn.Linear(width, len(DIRECTIONS))),
        )
        # Where training begins: the best fixed mixture found without any.
        start = torch.tensor([1.0, 0.5, 0.0, 0.0][:compared])
        self.mixture = nn.Parameter(start.repeat(len(DIRECTIONS), 1))
        self.trust = nn.ParameterDict(
            {t: torch.logit(torch.full((len(DIRECTIONS),), share)) for t, share in _TRUST.items()}
            if variant.votes
            else {}
        )
        self.gate = nn.Parameter(torch.zeros(len(DIRECTIONS)))
        self.register_buffer("offset", torch.zeros(len(DIRECTIONS)))
        self.register_buffer("prior", torch.full((beliefs,), 0.5) if prior is None else prior.clamp(0.005, 0.995))

    @property
    def array_names(self) -> list[str]:
        """The arrays of a GraphBatch that this re-ranker reads, in the order of its ONNX inputs."""
        variant, names = self.shape.variant, ["direction", QUERY, CANDIDATE]
        edges = KINDS[variant.layer].edge_array if variant.layer else ""
        heard = dict.fromkeys((r.name for r in self.shape.relations), edges)
        if variant.votes or self._archive:
            names += [m.value for m in Modality]
        for r in RELATIONS:
            counted = variant.votes and r in ARCHIVE_RELATIONS
            if r.name in heard or counted:
                names.append(f"{r.name}.idx")
            if counted:
                names.append(f"{r.name}.weight")
            if heard.get(r.name, "weight") != "weight" or (r.name in heard and not counted):
                names.append(f"{r.name}.{heard[r.name]}")
        return [*names, "base", "mask"]

    def mixers(self) -> list[nn.Parameter]:
        """The few parameters that weigh fixed comparisons; the others are those of networks."""
        return [self.mixture, self.gate, *self.trust.values()]

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """arrays: a GraphBatch's, by name. Returns scores [B, K]; padded places hold anything."""
        unheld, spread = self.scored(arrays)
        normal = arrays[CANDIDATE][:, :, 0]
        return arrays["base"] + spread * (unheld + self.offset[arrays["direction"]].unsqueeze(1) * normal)

    def scored(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """g · f [B, K], and the spread [B, 1] that it is scaled by."""
        direction, mask, base = arrays["direction"], arrays["mask"], arrays["base"]
        beliefs = {QUERY: arrays[QUERY].unsqueeze(1), CANDIDATE: arrays[CANDIDATE]}
        votes = {t: _votes(arrays, t, 1 + self.shape.groups) for t in beliefs} if self.shape.variant.votes else {}
        standing, spread = _standard(base, mask)
        # Places count from 1 along the candidates, which come in the order of `base`.
        rank = mask / mask.cumsum(dim=1).clamp(min=1.0).sqrt()
        states = self._states(arrays, beliefs, votes, torch.stack([standing, rank], dim=-1))
        for layer in self.layers:
            states = layer(states, arrays)
        mixed = {t: self._trusting(t, beliefs[t], votes[t], direction) for t in beliefs} if votes else beliefs
        sharp = {t: (torch.logit(mixed[t], eps=1e-3) + self.sharpen[t](states[t])).sigmoid() for t in beliefs}
        compared = [
            expected_jaccard(sharp[QUERY], sharp[CANDIDATE]),
            self._centred_cosine(sharp[QUERY], sharp[CANDIDATE]),
            equal_sets(sharp[QUERY], sharp[CANDIDATE]),
            *([expected_jaccard(votes[QUERY], votes[CANDIDATE])] if votes else []),
        ]
        standard = torch.stack([_standard(found, mask)[0] for found in compared], dim=-1)
        weighed = (standard * self.mixture[direction].unsqueeze(1)).sum(dim=-1)
        query = states[QUERY].expand_as(states[CANDIDATE])
        told = [states[CANDIDATE], query, states[CANDIDATE] * query, standard, torch.stack([standing, rank], dim=-1)]
        every = self.read(torch.cat(told, dim=-1))
        place = direction.reshape(-1, 1, 1).expand(-1, every.shape[1], 1)
        residual = every.gather(2, place).squeeze(-1)
        return self.gate[direction].unsqueeze(1) * (weighed + residual), spread

    def _trusting(self, target: str, beliefs: Tensor, votes: Tensor, direction: Tensor) -> Tensor:
        """Beliefs [B, n, c] mixed with votes; those without a known neighbour keep their own."""
        share: Tensor = self.trust[target][direction].sigmoid().reshape(-1, 1, 1)
        share = share * (votes.sum(dim=-1, keepdim=True) > 0)
        return beliefs + share * (votes - beliefs)

    @property
    def _archive(self) -> bool:
        """Whether archive nodes have states."""
        return any(r in ARCHIVE_RELATIONS for r in self.shape.relations)

    def _states(
        self, arrays: Mapping[str, Tensor], beliefs: Mapping[str, Tensor], votes: Mapping[str, Tensor], scalars: Tensor
    ) -> dict[str, Tensor]:
        """First states: query [B, 1, h], candidates [B, K, h], archive items [M, h]."""
        of_report = {QUERY: _SOURCES, CANDIDATE: _TARGETS}
        states: dict[str, Tensor] = {}
        for t, found in beliefs.items():
            known = torch.cat([found, votes[t]], dim=-1) if votes else found
            # Images and reports have weights of their own: each fills a half, the other stays empty.
            side = torch.tensor(of_report[t], dtype=found.dtype)[arrays["direction"]].reshape(-1, 1, 1)
            parts = [known * (1.0 - side), known * side, *([scalars] if t == CANDIDATE else [])]
            states[t] = F.relu(self.inputs[t](torch.cat(parts, dim=-1)))
        if self._archive:
            states |= {m.value: F.relu(self.inputs[m.value](arrays[m.value])) for m in Modality}
        return states

    def _centred_cosine(self, query: Tensor, candidates: Tensor) -> Tensor:
        """Cosine of beliefs in units of each finding's own spread about its frequency. [B, K]"""
        deviation = (self.prior * (1.0 - self.prior)).sqrt()
        left, right = (F.normalize((found - self.prior) / deviation, dim=-1) for found in (query, candidates))
        return (left * right).sum(dim=-1)


def expected_jaccard(query: Tensor, candidates: Tensor) -> Tensor:
    """Expected shared over expected united findings of beliefs [B, 1, c] and [B, K, c]. [B, K]"""
    shared = (query * candidates).sum(dim=-1)
    return shared / (query.sum(dim=-1) + candidates.sum(dim=-1) - shared).clamp(min=1e-3)


def equal_sets(query: Tensor, candidates: Tensor) -> Tensor:
    """√ of the probability that both have the same findings, each finding being there by itself. [B, K]"""
    agreed = query * candidates + (1.0 - query) * (1.0 - candidates)
    return (0.5 * agreed.clamp(min=1e-4).log().sum(dim=-1)).exp()


def _votes(arrays: Mapping[str, Tensor], target: str, width: int) -> Tensor:
    """Share of each finding among a node's archive neighbours whose study is known. [B, n, width]

    They count by the fourth power of their similarity: the nearest have the say.
    """
    relations = [r for r in ARCHIVE_RELATIONS if r.target == target]
    table, sources = _side_by_side({r.source: arrays[r.source][:, 2 * width :] for r in relations})
    edges = Edges.joined([(sources[r.source], arrays[f"{r.name}.idx"], arrays[f"{r.name}.weight"]) for r in relations])
    known = (table.sum(dim=-1, keepdim=True) > 0).to(table.dtype)
    square = edges.weight.square()
    voices = (square * square).unsqueeze(2)
    counted = torch.matmul(voices, edges.gather(torch.cat([table, known], dim=-1))).squeeze(2)
    return counted[..., :-1] / counted[..., -1:].clamp(min=1e-6)


def _side_by_side(states: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Sources]]:
    """States of all nodes [N, h], and where those of each type stand: [M, h] that graphs share, or [B, n, h]."""
    sources, start = {}, 0
    for t, found in states.items():
        each = found.shape[1] if found.dim() == 3 else 0
        sources[t] = Sources(start=start, graph=each)
        start = start + found.shape[0] * (each or 1)
    return torch.cat([found.flatten(end_dim=-2) for found in states.values()]), sources


def _standard(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K] standardised over the candidates, 0 where there is none, and their spread [B, 1]."""
    count = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
    centred = (values - (values * mask).sum(dim=1, keepdim=True) / count) * mask
    # Not 1e-8: the ONNX exporter takes that for 0 and drops it, and equal values become NaN.
    spread = ((centred * centred).sum(dim=1, keepdim=True) / count + 1e-6).sqrt()
    return centred / spread, spread


def _zero(layer: nn.Linear) -> nn.Linear:
    """A layer that answers 0 until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
