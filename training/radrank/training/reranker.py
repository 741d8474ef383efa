"""The graph re-ranker: relation-aware messages over a GraphBatch sharpen what is believed of query and candidates.

    s = s_clip + spread · (g · f + b · p(normal)),    g starting at zero: untrained, it changes nothing

spread is the standard deviation of s_clip over the candidates; f compares the sharpened beliefs in fixed ways, weighs
these, and adds what a small network reads from the states. b is not learnt but set, so that the share of normal studies
among the first ten stays what the encoder's own order has: moving normal reports up would otherwise be all it learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional as F

from radrank.core.graph import (
    ARCHIVE_RELATIONS,
    CANDIDATE,
    DIRECTIONS,
    MESSAGES,
    NODE_TYPES,
    QUERY,
    RELATIONS,
    TOLD_RELATIONS,
    Relation,
)
from radrank.core.studies import Modality
from radrank.training.layers import KINDS, Edges, Sources, heard_with

_TRUST = {QUERY: 0.02, CANDIDATE: 0.2}  # share of the archive's votes in what is believed, where training begins
_SOURCES = tuple(source is Modality.REPORT for source, _ in DIRECTIONS)
_TARGETS = tuple(target is Modality.REPORT for _, target in DIRECTIONS)
_ARCHIVE, _GRAPH = "archive", "graph"
_TABLES = {_ARCHIVE: tuple(Modality), _GRAPH: (QUERY, CANDIDATE)}  # nodes that hear from nobody, and those that do


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What a re-ranker of some name is. layer: of KINDS, None for no edges at all; votes: reads its archive
    neighbours' labels, counted; messages: hears from archive nodes; shuffled: reads a graph with shuffled edges.
    """

    layer: str | None
    votes: bool = True
    messages: bool = True
    shuffled: bool = False

    @property
    def apart(self) -> bool:
        """Whether what candidates hear from the archive is the same for every query: it can be told beforehand."""
        hears = self.votes or (self.layer is not None and self.messages)
        return hears and not self.shuffled and (self.layer is None or KINDS[self.layer].fixed)


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

    def forward(
        self,
        states: Mapping[str, Tensor],
        arrays: Mapping[str, Tensor],
        archive: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """states: [B, h] of queries, [B · K, h] of candidates, [M, h] of archive items. All, two of them anew.

        archive: [n, R · h] by type of node, what is heard from archive items in a batch with messages
        """
        new = dict(states)
        for t in (QUERY, CANDIDATE):
            told = [archive[t]] if archive else []
            dense = MESSAGES in arrays
            sums = [*told, *_dense_sums(states, arrays, t)] if dense else self._sums(states, arrays, t)
            relations: list[Any] = [self.relations[r.name] for name in _TABLES for r in self._into(t, name)]
            heard = F.relu(heard_with(cast(nn.Linear, self.roots[t]), relations, sums, states[t]))
            new[t] = self.norms[t](states[t] + F.dropout(heard, self.shape.dropout, self.training))
        return new

    def _into(self, target: str, table: str) -> list[Relation]:
        return _from(self.shape.relations, target, table)

    def _sums(self, states: Mapping[str, Tensor], arrays: Mapping[str, Tensor], target: str) -> list[Tensor]:
        """What nodes of a type hear, by table and relation."""
        sums: list[Tensor] = []
        for name, types in _TABLES.items():
            if found := self._into(target, name):
                relations: list[Any] = [self.relations[r.name] for r in found]
                heard = torch.cat([states[t] for t in types]), _edges(arrays, found, self.kind.edge_array)
                sums += self.kind.sums(relations, [heard], states[target])
        return sums


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
    def input_names(self) -> list[str]:
        """The arrays that scores are computed from, in the order of ONNX inputs: messages stand for what they read."""
        if not self.shape.variant.apart:
            return self.array_names
        names = ["direction", QUERY, CANDIDATE, *Modality, *(f"query_{m}.weight" for m in Modality)]
        if self._archive:
            names += [f"query_{m}.mean" for m in Modality]
        if self.shape.variant.layer:
            names += ["candidate_candidate.dense", "candidate_query.weight", "query_candidate.dense"]
        return [*names, "base", "mask", MESSAGES]

    @property
    def message_names(self) -> list[str]:
        """The arrays that `messages` are computed from."""
        told = [r.name for r in TOLD_RELATIONS]
        return [name for name in self.array_names if name in list(Modality) or name.split(".")[0] in told]

    @property
    def array_names(self) -> list[str]:
        """The arrays of a whole GraphBatch that this re-ranker reads."""
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

    def messages(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """What candidates hear from the archive, where that is `apart`: [B, K, w]. arrays: those of `message_names`."""
        told = [_votes(arrays, CANDIDATE, 1 + self.shape.groups)] if self.shape.variant.votes else []
        if self._archive:
            relations = _from(self.shape.relations, CANDIDATE, _ARCHIVE)
            kind, states = KINDS[str(self.shape.variant.layer)], self._archive_states(arrays)
            heard = torch.cat([states[m] for m in Modality]), _edges(arrays, relations, kind.edge_array)
            (sums,) = kind.sums([], [heard], heard[0])
            told.append(sums.reshape(*arrays[f"{relations[0].name}.idx"].shape[:2], -1))
        return torch.cat(told, dim=2)

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """arrays: a GraphBatch's, by name. Returns scores [B, K]; padded places hold anything."""
        unheld, spread = self.scored(arrays)
        offset = self.offset.index_select(0, arrays["direction"]).unsqueeze(1)
        return arrays["base"] + spread * (unheld + offset * arrays[CANDIDATE][:, :, 0])

    def scored(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """g · f [B, K], and the spread [B, 1] that it is scaled by."""
        mask, base = arrays["mask"].unsqueeze(2), arrays["base"].unsqueeze(2)
        beliefs = {QUERY: arrays[QUERY].unsqueeze(1), CANDIDATE: arrays[CANDIDATE]}
        votes, sums = self._heard(arrays)
        of = self._of_direction(arrays["direction"])
        standing, spread = _standard(base, mask)
        # Places count from 1 along the candidates, which come in the order of `base`.
        rank = mask / mask.cumsum(dim=1).clamp(min=1.0).sqrt()
        scalars = torch.cat([standing, rank], dim=2)
        states = self._states(beliefs, votes, of, scalars)
        if MESSAGES not in arrays:
            states |= self._archive_states(arrays)
        for layer in self.layers:
            states = layer(states, arrays, sums) if sums else layer(states, arrays)
        mixed = {t: _trusting(beliefs[t], votes[t], of[f"trust_{t}"]) for t in beliefs} if votes else beliefs
        found = {t: states[t].reshape(*beliefs[t].shape[:2], self.shape.width) for t in beliefs}
        sharp = {t: (_logit(mixed[t]) + self.sharpen[t](found[t])).sigmoid() for t in beliefs}
        compared = [
            expected_jaccard(sharp[QUERY], sharp[CANDIDATE]),
            self._centred_cosine(sharp[QUERY], sharp[CANDIDATE]),
            equal_sets(sharp[QUERY], sharp[CANDIDATE]),
            *([expected_jaccard(votes[QUERY], votes[CANDIDATE])] if votes else []),
        ]
        standard, _ = _standard(torch.cat(compared, dim=2), mask)
        # The direction's own weights are read from a table, so that no other's is computed.
        read = torch.cat([self._read(found[QUERY], found[CANDIDATE], standard, scalars), standard], dim=2)
        weighed = torch.matmul(read, of["weights"].transpose(1, 2)) + of["bias"]
        return weighed.squeeze(2), spread.squeeze(2)

    def _read(self, query: Tensor, candidates: Tensor, *more: Tensor) -> Tensor:
        """What the network reads of states [B, 1, h] and [B, K, h] and of more [B, K, n], side by side: [B, K, h]."""
        first, width = cast(nn.Linear, self.read[0]), self.shape.width
        own, asked, rest = (
            first.weight[:, part] for part in (slice(width), slice(width, 2 * width), slice(2 * width, None))
        )
        # The query's part is mapped once instead of for every candidate.
        told = torch.cat([candidates, candidates * query, *more], dim=2)
        mapped = F.linear(told, torch.cat([own, rest], dim=1)) + F.linear(query, asked, first.bias)
        read: Tensor = self.read[1:-1](mapped)
        return read

    def _of_direction(self, direction: Tensor) -> dict[str, Tensor]:
        """What each direction has of its own, [B, 1, n]: all of it in one table, which is looked up once."""
        final = cast(nn.Linear, self.read[-1])
        parts = {f"trust_{t}": share.sigmoid().unsqueeze(1) for t, share in self.trust.items()}
        for t, of_report in ((QUERY, _SOURCES), (CANDIDATE, _TARGETS)):
            report = torch.tensor(of_report, dtype=self.gate.dtype).unsqueeze(1)
            parts |= {f"image_{t}": 1.0 - report, f"report_{t}": report}
        parts["weights"] = self.gate.unsqueeze(1) * torch.cat([final.weight, self.mixture], dim=1)
        parts["bias"] = (self.gate * final.bias).unsqueeze(1)
        rows = torch.cat(list(parts.values()), dim=1).index_select(0, direction).unsqueeze(1)
        return dict(zip(parts, torch.split(rows, [part.shape[1] for part in parts.values()], dim=2), strict=True))

    @property
    def _archive(self) -> bool:
        """Whether archive nodes have states."""
        return any(r in ARCHIVE_RELATIONS for r in self.shape.relations)

    def _archive_states(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States of archive items, [..., h], where they have any. arrays: their facts [..., 3 c]"""
        return {m.value: F.relu(self.inputs[m.value](arrays[m.value])) for m in Modality} if self._archive else {}

    def _heard(self, arrays: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By type of node, the votes [B, n, c], where they count, and of a batch with messages the sums [n, R · h] of
        what is heard from archive items; else these are for the layers to take."""
        votes, width = self.shape.variant.votes, 1 + self.shape.groups
        if MESSAGES not in arrays:
            return {t: _votes(arrays, t, width) for t in (QUERY, CANDIDATE)} if votes else {}, {}
        messages, batch = arrays[MESSAGES], arrays[MESSAGES].shape[0]
        facts = {m.value: arrays[m].reshape(batch, -1, 3 * width) for m in Modality}
        counted, summed = {}, {}
        if votes:
            labels = _labels(torch.cat(list(facts.values()), dim=1), width)
            weight = torch.cat([arrays[f"query_{m}.weight"] for m in Modality], dim=2)
            counted = {QUERY: _counted(labels, weight), CANDIDATE: messages[:, :, :width]}
        if self._archive:
            states = self._archive_states(facts)
            means = [torch.matmul(arrays[f"query_{m}.mean"], states[m]).flatten(0, 1) for m in Modality]
            own = messages[:, :, width:] if votes else messages
            summed = {QUERY: torch.cat(means, dim=1), CANDIDATE: own.flatten(0, 1)}
        return counted, summed

    def _states(
        self, beliefs: Mapping[str, Tensor], votes: Mapping[str, Tensor], of: Mapping[str, Tensor], scalars: Tensor
    ) -> dict[str, Tensor]:
        """First states of queries [B, h] and of candidates [B · K, h]."""
        states = {}
        for t, found in beliefs.items():
            known = torch.cat([found, votes[t]], dim=2) if votes else found
            # Images and reports have weights of their own: each fills a half, the other stays empty.
            parts = [known * of[f"image_{t}"], known * of[f"report_{t}"], *([scalars] if t == CANDIDATE else [])]
            linear = cast(nn.Linear, self.inputs[t])
            states[t] = F.relu(linear(torch.cat(parts, dim=2).reshape(-1, linear.in_features)))
        return states

    def _centred_cosine(self, query: Tensor, candidates: Tensor) -> Tensor:
        """Cosine of beliefs in units of each finding's own spread about its frequency. [B, K, 1]"""
        scale = 1.0 / (self.prior * (1.0 - self.prior)).sqrt()
        left, right = (found * scale - self.prior * scale for found in (query, candidates))
        lengths: Tensor = vector_norm(left, dim=2, keepdim=True) * vector_norm(right, dim=2, keepdim=True)
        return _products(left, right) / lengths.clamp(min=1e-6)


def expected_jaccard(query: Tensor, candidates: Tensor) -> Tensor:
    """Expected shared over expected united findings of beliefs [B, 1, c] and [B, K, c]. [B, K, 1]"""
    shared = _products(query, candidates)
    every = query.sum(dim=2, keepdim=True) + candidates.sum(dim=2, keepdim=True)
    return shared / (every - shared).clamp(min=1e-3)


def equal_sets(query: Tensor, candidates: Tensor) -> Tensor:
    """√ of the probability that both have the same findings, each finding being there by itself. [B, K, 1]"""
    agreed = query * candidates + (1.0 - query) * (1.0 - candidates)
    return (0.5 * agreed.clamp(min=1e-4).log().sum(dim=2, keepdim=True)).exp()


def _products(query: Tensor, candidates: Tensor) -> Tensor:
    """Dot products of [B, 1, c] and [B, K, c]: [B, K, 1]."""
    return torch.matmul(candidates, query.transpose(1, 2))


def _logit(beliefs: Tensor) -> Tensor:
    held = beliefs.clamp(1e-3, 1.0 - 1e-3)
    return (held / (1.0 - held)).log()


def _trusting(beliefs: Tensor, votes: Tensor, share: Tensor) -> Tensor:
    """Beliefs [B, n, c] mixed with a share [B, 1, 1] of votes; those without a known neighbour keep their own."""
    known = (votes.sum(dim=2, keepdim=True) > 0).to(votes.dtype)
    return beliefs + share * known * (votes - beliefs)


def _votes(arrays: Mapping[str, Tensor], target: str, width: int) -> Tensor:
    """Share of each finding among a node's archive neighbours whose study is known. [B, n, width]

    They count by the fourth power of their similarity: the nearest have the say.
    """
    relations = _from(ARCHIVE_RELATIONS, target, _ARCHIVE)
    edges = _edges(arrays, relations, "weight")
    labels = _labels(torch.cat([arrays[m.value] for m in Modality]), width)
    return _counted(edges.gather(labels), edges.weight).reshape(*arrays[f"{relations[0].name}.idx"].shape[:2], width)


def _labels(facts: Tensor, width: int) -> Tensor:
    """Of facts [..., 3 c] the labels, and whether there are any: [..., c + 1]."""
    labels = facts[..., 2 * width :]
    # Of a known study one finding at least, or normal, is 1.
    return torch.cat([labels, labels.sum(dim=-1, keepdim=True).clamp(max=1.0)], dim=-1)


def _counted(labels: Tensor, weight: Tensor) -> Tensor:
    """Votes [n, 1, c] of `_labels` [n, k, c + 1] with weights [n, 1, k]."""
    square = weight.square()
    counted = torch.matmul(square * square, labels)
    return counted[:, :, :-1] / counted[:, :, -1:].clamp(min=1e-6)


def _dense_sums(states: Mapping[str, Tensor], arrays: Mapping[str, Tensor], target: str) -> list[Tensor]:
    """What nodes of a type hear from query and candidates by SAGE's means, as dense products: no gather. [n, h] each"""
    batch, width = arrays["base"].shape
    candidates = states[CANDIDATE].reshape(batch, width, -1)
    if target == QUERY:
        return [torch.matmul(arrays["query_candidate.dense"], candidates).flatten(0, 1)]
    among = torch.matmul(arrays["candidate_candidate.dense"], candidates)
    return [among.flatten(0, 1), (arrays["candidate_query.weight"] * states[QUERY].unsqueeze(1)).flatten(0, 1)]


def _from(relations: Sequence[Relation], target: str, table: str) -> list[Relation]:
    """Those that lead from the nodes of a table to nodes of a type."""
    return [r for r in relations if r.target == target and r.source in _TABLES[table]]


def _edges(arrays: Mapping[str, Tensor], relations: Sequence[Relation], weight: str) -> Edges:
    """Relations from the nodes of one table to those of one type. weight: the array that they are weighted by."""
    return Edges.joined(
        [(_sources(arrays, r.source), arrays[f"{r.name}.idx"], arrays[f"{r.name}.{weight}"]) for r in relations]
    )


def _sources(arrays: Mapping[str, Tensor], node_type: str) -> Sources:
    """Where nodes of a type stand in their table."""
    if node_type == CANDIDATE:
        batch, candidates = arrays["base"].shape
        return Sources(start=batch, graph=candidates)
    if node_type == Modality.REPORT:
        return Sources(start=arrays[Modality.IMAGE].shape[0], graph=0)
    return Sources(start=0, graph=1 if node_type == QUERY else 0)


def _standard(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, K, n] standardised over the candidates, 0 where there is none, and their spread [B, 1, n].

    mask: [B, K, 1]
    """
    share = (mask / mask.sum(dim=1, keepdim=True).clamp(min=1.0)).transpose(1, 2)
    centred = (values - torch.matmul(share, values)) * mask
    # Not 1e-8: the ONNX exporter takes that for 0 and drops it, and equal values become NaN.
    spread = (torch.matmul(share, centred * centred) + 1e-6).sqrt()
    return centred / spread, spread


def _zero(layer: nn.Linear) -> nn.Linear:
    """A layer that answers 0 until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
