"""The heterogeneous graph of one query: built here, and only here, for training, evaluation and serving.

Nodes are the query, the candidates (images or reports) and archive items of both modalities. A candidate stands in the
graph as a mere gallery item: it hears from the archive, never from the other item of its own study, and its labels are
not known. An archive item brings what the encoder believes of it and of the other item of its study, and that study's
labels. A study that is excluded contributes no archive node at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.layout import VectorLayout
from radrank.core.nodes import NO_ROW, Nodes, first_kept
from radrank.core.studies import Modality
from radrank.core.vectors import Rows, Vector, top_k
from radrank.core.weights import clipped, cosines_among, mean_of_nearest, means_of, widened

QUERY, CANDIDATE = "query", "candidate"
NODE_TYPES = (QUERY, CANDIDATE, Modality.IMAGE.value, Modality.REPORT.value)


@dataclass(frozen=True, slots=True)
class Relation:
    """Edges from `source` nodes into `target` nodes, each target with at most a fixed number of them."""

    name: str
    target: str
    source: str


# Every relation is defined by its own top-k, so in-degrees are fixed and no layer needs a scatter.
RELATIONS = (
    Relation("candidate_image", CANDIDATE, "image"),
    Relation("candidate_report", CANDIDATE, "report"),
    Relation("candidate_candidate", CANDIDATE, CANDIDATE),
    Relation("candidate_query", CANDIDATE, QUERY),
    Relation("query_image", QUERY, "image"),
    Relation("query_report", QUERY, "report"),
    Relation("query_candidate", QUERY, CANDIDATE),
)
ARCHIVE_RELATIONS = tuple(r for r in RELATIONS if r.source in list(Modality))
RELATION_NAMES = frozenset(r.name for r in RELATIONS)
TOLD_RELATIONS = tuple(r for r in ARCHIVE_RELATIONS if r.target == CANDIDATE)
"""What they bring to a candidate does not depend on the query."""
MESSAGES = "messages"

DIRECTIONS = tuple((source, target) for source in Modality for target in Modality)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSettings:
    """How large the graph is. Kept in the bundle: a re-ranker is served with the graph it was trained on.

    neighbours: archive items of each modality, and other candidates, that a candidate hears from
    table_width: neighbours kept in the archive's tables; the surplus replaces excluded ones
    query_neighbours: archive items of each modality that the query hears from
    query_candidates: candidates that the query hears from
    shuffled: a control: edges keep their weights, and lead to sources of chance
    """

    neighbours: int = 8
    table_width: int = 12
    query_neighbours: int = 16
    query_candidates: int = 16
    shuffled: bool = False
    candidate_buckets: tuple[int, ...] = (10, 25, 50, 100, 200, 500, 1000)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> GraphSettings:
        """Settings as JSON keeps them, its lists made tuples. Raises TypeError for an unknown name."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """First-stage result for one query.

    rows: int64 [K], rows of the gallery, best first
    cosines: float32 [K], in [−1, 1], descending; ties by row
    """

    rows: Rows
    cosines: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edges:
    """One relation's neighbour table: sources int32 [n, k] (−1: none) and similarity weights float32 [n, k].

    Sources are archive rows in relations from the archive, else places among the candidates; the query is 0.
    """

    idx: NDArray[np.int32]
    weight: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """The topology of one query's graph; node features are gathered when graphs become a batch.

    messages: float32 [K, w], what stands for TOLD_RELATIONS, which have no edges then; None where they have
    dense: beside messages, by relation, what stands for edges from candidates: weights over their number as a matrix,
    float32 [n of its target, K]
    """

    query: Vector
    query_modality: Modality
    target: Modality
    candidates: Candidates
    edges: Mapping[str, Edges]
    messages: NDArray[np.float32] | None = None
    dense: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphBatch:
    """Graphs of B queries as padded arrays: what a re-ranker's engine reads. K is a bucket, c = 1 + finding groups.

    direction: int64 [B], place of (query's modality, target) among DIRECTIONS
    query: float32 [B, c], beliefs of the query; candidate: float32 [B, K, c], beliefs of the candidates
    image, report: float32 [M, 3 c], archive items: own beliefs, those of the study's other item, the study's labels
    <relation>.idx: int64 [B, n of its target, k], places among the source's nodes (in the batch for archive items, in
    the graph for candidates), −1 where there is no edge; <relation>.weight: float32, alike
    base: float32 [B, K], first-stage cosines; mask: float32 [B, K], 1 for candidates, 0 for padding

    Where a re-ranker reads messages, these stand for TOLD_RELATIONS, and the rest is laid out so that nothing is left
    to gather:

    messages: float32 [B, K, w], what candidates hear from the archive
    image, report: float32 [B · k, 3 c], the archive items that queries hear from, in the order of their edges
    query_image.weight, query_report.weight: float32 [B, 1, k], 0 where there is no edge; .mean: over their number
    candidate_query.weight: float32 [B, K, 1]
    candidate_candidate.dense [B, K, K], query_candidate.dense [B, 1, K]: float32, weights over their number as matrices
    """

    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]]
    candidates: tuple[int, ...]
    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Archive rows of the sources in relations from the archive, int64 [B, n, k]: one item may have several places."""

    def feed(self, names: Iterable[str]) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """The arrays of these names; `<relation>.norm` is made when it is asked for, where it is not there."""
        return {name: self.arrays[name] if name in self.arrays else self._norm(name) for name in names}

    def told_by(self, make: Callable[[GraphBatch], NDArray[np.float32]]) -> GraphBatch:
        """The same with the messages that this makes of what candidates hear from the archive."""
        return self.told(make(self.hearing(TOLD_RELATIONS)))

    def told(self, messages: NDArray[np.float32]) -> GraphBatch:
        """The same, laid out for a re-ranker that reads messages [B, K, w]."""
        heard = self.hearing(r for r in ARCHIVE_RELATIONS if r not in TOLD_RELATIONS)
        arrays = {name: array for name, array in heard.arrays.items() if "." not in name}
        edges = {
            r.name: (
                np.asarray(heard.arrays[f"{r.name}.idx"], dtype=np.int64),
                np.asarray(heard.arrays[f"{r.name}.weight"], dtype=np.float32),
            )
            for r in RELATIONS
            if r not in TOLD_RELATIONS
        }
        return GraphBatch(
            arrays=arrays | _laid_out(edges, self.arrays["base"].shape[1]) | {MESSAGES: messages},
            candidates=self.candidates,
        )

    def hearing(self, relations: Iterable[Relation]) -> GraphBatch:
        """The same with these relations from the archive alone, and none but their items."""
        kept = {r.name: r for r in relations}
        others = {r.name for r in ARCHIVE_RELATIONS if r.name not in kept}
        arrays = {name: array for name, array in self.arrays.items() if name.split(".")[0] not in others}
        for m in Modality:
            tables = {name: self.arrays[f"{name}.idx"].astype(np.int64, copy=False) for name in kept}
            items, places = _copies(m, tables)
            arrays |= places
            arrays[m.value] = self.arrays[m.value].take(items, axis=0)
        rows = {name: found for name, found in self.rows.items() if name in kept}
        return GraphBatch(arrays=arrays, candidates=self.candidates, rows=rows)

    def _norm(self, name: str) -> NDArray[np.float32]:
        """w_ij / √(d_i d_j) with weighted degrees (Kipf & Welling 2017, eq. 2, over one relation). [B, n, k]"""
        relation = name.removesuffix(".norm")
        weight = np.asarray(self.arrays[f"{relation}.weight"], dtype=np.float32)
        sources = np.asarray(self.rows.get(relation, self.arrays[f"{relation}.idx"]), dtype=np.int64)
        norm = np.zeros_like(weight)
        for b, found in enumerate(sources):
            _, place = np.unique(found, return_inverse=True)
            out = np.bincount(place.ravel(), weights=weight[b].ravel())[place.reshape(found.shape)]
            degrees = weight[b].sum(axis=1, keepdims=True) * out
            np.divide(weight[b], np.sqrt(degrees), out=norm[b], where=degrees > 0)
        return norm


class GraphBuilder:
    """Builds graphs over one gallery and one archive; in serving they are the same items in two roles."""

    def __init__(
        self,
        *,
        gallery: Mapping[Modality, Nodes],
        archive: Mapping[Modality, Nodes],
        layout: VectorLayout,
        settings: GraphSettings,
        relations: Collection[str] = RELATION_NAMES,
    ) -> None:
        """relations: those that a graph with messages has; a whole one has all."""
        self.relations = relations
        self.gallery = gallery
        self.archive = archive
        self.layout = layout
        self.settings = settings
        self._shuffles = {m: _shuffle(len(archive[m])) for m in Modality} if settings.shuffled else None

    def build(
        self,
        *,
        query: Vector,
        query_modality: Modality,
        target: Modality,
        candidates: Candidates,
        bridges: Mapping[Modality, Candidates],
        excluded: NDArray[np.int32] | Sequence[int] = (),
        messages: NDArray[np.float32] | None = None,
    ) -> Graph:
        """The graph of one query.

        query: float32 [d], unit; candidates: rows of the gallery's target modality, best first
        bridges: the query's nearest archive items of each modality
        excluded: study indices that contribute no archive node
        messages: float32 [K, w], in place of what candidates hear from the archive
        """
        shunned = np.asarray(excluded, dtype=np.int32)
        edges = {
            f"query_{m}": self._heard(
                m, near.rows[None, :], near.cosines[None, :], shunned, self.settings.query_neighbours
            )
            for m, near in bridges.items()
        }
        if messages is None:
            edges |= self._told(target, candidates.rows, shunned) | self._between(target, candidates)
        return Graph(
            query=query,
            query_modality=query_modality,
            target=target,
            candidates=candidates,
            edges=edges,
            messages=messages,
            dense={} if messages is None else self._dense(target, candidates),
        )

    def around(self, target: Modality, rows: Rows, excluded: NDArray[np.int32] | Sequence[int] = ()) -> GraphBatch:
        """TOLD_RELATIONS alone, into any of the gallery's items [n], as one graph: what messages are made of."""
        edges = self._told(target, rows, np.asarray(excluded, dtype=np.int32))
        width = bucket(len(rows), self.settings.candidate_buckets)
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
        found: dict[str, NDArray[np.int64]] = {}
        for name, each in edges.items():
            found[name] = _stacked([each.idx], width, NO_ROW).astype(np.int64)
            arrays[f"{name}.weight"] = _stacked([each.weight], width)
        for m in Modality:
            arrays[m.value] = self._copied(m, found, arrays)
        return GraphBatch(arrays=arrays, candidates=(len(rows),), rows=found)

    def batch(self, graphs: Sequence[Graph], *, whole: bool = False) -> GraphBatch:
        """Pads graphs to a common bucket and gathers their nodes' features.

        whole: hands over all of the archive's items instead of a copy for each edge, which pays for many graphs over a
        small archive: in training
        """
        width = bucket(max(len(g.candidates) for g in graphs), self.settings.candidate_buckets)
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
            "direction": np.array([DIRECTIONS.index((g.query_modality, g.target)) for g in graphs], dtype=np.int64),
            "query": self.layout.beliefs(np.stack([g.query for g in graphs])),
            "candidate": _stacked([self.gallery[g.target].beliefs(g.candidates.rows) for g in graphs], width),
            "base": _stacked([g.candidates.cosines for g in graphs], width),
            "mask": _stacked([np.ones(len(g.candidates), dtype=np.float32) for g in graphs], width),
        }
        messages = [g.messages for g in graphs if g.messages is not None]
        if messages:
            arrays |= self._told_arrays(graphs, np.asarray(arrays["base"], dtype=np.float32))
            arrays[MESSAGES] = _stacked(messages, width)
            return GraphBatch(arrays=arrays, candidates=tuple(len(g.candidates) for g in graphs))
        rows: dict[str, NDArray[np.int64]] = {}
        for relation in RELATIONS:
            name, targets = relation.name, 1 if relation.target == QUERY else width
            found = _stacked([g.edges[name].idx for g in graphs], targets, NO_ROW).astype(np.int64)
            arrays[f"{name}.idx"] = found
            arrays[f"{name}.weight"] = _stacked([g.edges[name].weight for g in graphs], targets)
            if relation in ARCHIVE_RELATIONS:
                rows[name] = found
        for m in Modality:
            arrays[m.value] = self.archive[m].facts.whole if whole else self._copied(m, rows, arrays)
        return GraphBatch(arrays=arrays, candidates=tuple(len(g.candidates) for g in graphs), rows=rows)

    def _told_arrays(
        self, graphs: Sequence[Graph], base: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """What a batch with messages has of edges and of archive items. base: float32 [B, K]"""
        width = base.shape[1]
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
            "candidate_query.weight": clipped(base)[..., None]
        }
        for m in Modality:
            each = [g.edges[f"query_{m}"] for g in graphs]
            idx = _stacked([found.idx for found in each], 1)
            arrays |= _weighed(f"query_{m}", idx, _stacked([found.weight for found in each], 1))
            arrays[m.value] = self._facts(m, np.maximum(idx.ravel(), 0))
        for name in graphs[0].dense:
            matrices = [g.dense[name] for g in graphs]
            rows = width if name == "candidate_candidate" else 1
            arrays[f"{name}.dense"] = _stacked([widened(one, width) for one in matrices], rows)
        return arrays

    def _between(self, target: Modality, candidates: Candidates) -> dict[str, Edges]:
        """The edges between candidates, and between them and the query."""
        similar = clipped(candidates.cosines)
        first = np.full((1, self.settings.query_candidates), NO_ROW, dtype=np.int32)
        heard = np.zeros(first.shape, dtype=np.float32)
        count = min(len(candidates), first.shape[1])
        first[0, :count], heard[0, :count] = np.arange(count), similar[:count]
        return {
            "candidate_candidate": self._nearest(self.gallery[target].vectors.take(candidates.rows)),
            "candidate_query": Edges(idx=np.zeros((len(candidates), 1), dtype=np.int32), weight=similar[:, None]),
            "query_candidate": Edges(idx=first, weight=heard),
        }

    def _dense(self, target: Modality, candidates: Candidates) -> dict[str, NDArray[np.float32]]:
        """What stands for edges from candidates, of those relations that are read."""
        dense = {}
        if "candidate_candidate" in self.relations:
            vectors = self.gallery[target].vectors.take(candidates.rows)
            dense["candidate_candidate"] = mean_of_nearest(cosines_among(vectors), self.settings.neighbours)
        if "query_candidate" in self.relations:
            first = candidates.cosines[: self.settings.query_candidates]
            means = np.zeros((1, len(candidates)), dtype=np.float32)
            np.multiply(clipped(first), np.float32(1.0 / max(1, len(first))), out=means[0, : len(first)])
            dense["query_candidate"] = means
        return dense

    def _told(self, target: Modality, rows: Rows, shunned: NDArray[np.int32]) -> dict[str, Edges]:
        """The edges of TOLD_RELATIONS into the gallery's items [n]."""
        ranked = self.gallery[target]
        edges = {}
        for m in Modality:
            table = ranked.same if m is target else ranked.cross
            edges[f"candidate_{m}"] = self._heard(
                m,
                table.rows.take(rows),
                table.cosines.take(rows),
                shunned,
                self.settings.neighbours,
                own=ranked.study.take(rows),
            )
        return edges

    def _heard(
        self,
        m: Modality,
        rows: NDArray[np.integer],
        cosines: NDArray[np.float32],
        shunned: NDArray[np.int32],
        k: int,
        *,
        own: NDArray[np.int32] | None = None,
    ) -> Edges:
        """The first k archive items of each row [n, width] that live and are not shunned. own: [n], rows' studies."""
        nodes = self.archive[m]
        if not len(nodes):
            rows = np.full_like(rows, NO_ROW)
            keep = rows >= 0
        else:
            if self._shuffles:
                rows = np.where(rows >= 0, self._shuffles[m][rows], NO_ROW)
            safe = np.maximum(rows, 0)
            keep = rows >= 0
            keep &= nodes.alive.take(safe)
            if len(shunned):
                keep &= ~np.isin(nodes.study.take(safe), shunned)
            if self._shuffles and own is not None:  # tables leave out the own study, chance does not
                keep &= nodes.study.take(safe) != own[:, None]
        kept, weight = first_kept(rows, cosines, keep, k)
        return Edges(idx=kept.astype(np.int32, copy=False), weight=clipped(weight))

    def _nearest(self, vectors: NDArray[np.float32]) -> Edges:
        """kNN edges between the candidates themselves. vectors: float32 [K, d]."""
        k, count = self.settings.neighbours, len(vectors)
        near = min(k, count - 1)
        if near <= 0:
            return Edges(idx=np.full((count, k), NO_ROW, dtype=np.int32), weight=np.zeros((count, k), dtype=np.float32))
        cosines = cosines_among(vectors)
        best = top_k(cosines, near)
        idx = best.astype(np.int32)
        best += np.arange(0, count * count, count)[:, None]  # places in the whole of it
        weight = clipped(cosines.take(best))
        if self._shuffles:
            led = _shuffle(count)[idx]
            itself = led == np.arange(count)[:, None]  # chance may lead back to where an edge ends
            idx, weight = np.where(itself, NO_ROW, led).astype(np.int32), np.where(itself, np.float32(0.0), weight)
        if near < k:
            gap = ((0, 0), (0, k - near))
            idx, weight = np.pad(idx, gap, constant_values=NO_ROW), np.pad(weight, gap)
        return Edges(idx=idx, weight=weight)

    def _copied(
        self,
        m: Modality,
        rows_of: Mapping[str, NDArray[np.int64]],
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]],
    ) -> NDArray[np.float32]:
        """Facts of every edge's source, one after the other, and the edges' places among them.

        What stands where there is no edge is never read.
        """
        items, places = _copies(m, rows_of)
        arrays |= places
        return self._facts(m, items)

    def _facts(self, m: Modality, items: NDArray[np.integer]) -> NDArray[np.float32]:
        """Of archive items; zeros where there are none at all."""
        if not len(self.archive[m]):
            return np.zeros((len(items), 3 * self.layout.beliefs_width), dtype=np.float32)
        facts: NDArray[np.float32] = self.archive[m].facts.take(items)
        return facts


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`; past the largest, `size` itself."""
    return next((b for b in buckets if b >= size), size)


def _shuffle(count: int) -> NDArray[np.int64]:
    """A permutation, the same for the same count."""
    return np.random.default_rng(count).permutation(count)


def _laid_out(
    edges: Mapping[str, tuple[NDArray[np.integer], NDArray[np.float32]]], width: int
) -> dict[str, NDArray[np.float32]]:
    """What of a whole batch becomes one with messages. edges: idx and weight [B, n, k] of its relations; width: K"""
    arrays = {"candidate_query.weight": edges["candidate_query"][1]}
    for m in Modality:
        arrays |= _weighed(f"query_{m}", *edges[f"query_{m}"])
    for name in ("candidate_candidate", "query_candidate"):
        if name not in edges:
            continue
        idx, weight = edges[name]
        there = idx >= 0
        dense = np.zeros((*idx.shape[:2], width), dtype=np.float32)
        places = idx + np.arange(0, dense.size, width).reshape(*idx.shape[:2], 1)
        dense.put(places[there], means_of(there, weight)[there])
        arrays[f"{name}.dense"] = dense
    return arrays


def _weighed(name: str, idx: NDArray[np.integer], weight: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """A relation's weights [B, n, k], and the same over their number."""
    return {f"{name}.weight": weight, f"{name}.mean": means_of(idx >= 0, weight)}


def _copies(
    m: Modality, sources: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """The sources of all edges from one modality's items, one after the other, and every edge's place among them.

    sources: int64 [B, n, k] by relation, −1 where there is no edge. Returns int64 [edges], none negative, and places
    by `<relation>.idx`.
    """
    taken, places, start = [np.empty(0, dtype=np.int64)], {}, 0
    for relation in ARCHIVE_RELATIONS:
        if relation.source == m and relation.name in sources:
            found = sources[relation.name]
            numbers = np.arange(start, start + found.size, dtype=np.int64).reshape(found.shape)
            places[f"{relation.name}.idx"] = np.where(found >= 0, numbers, NO_ROW)
            taken.append(found.ravel())
            start += found.size
    return np.maximum(np.concatenate(taken), 0), places


def _stacked(parts: Sequence[NDArray[Any]], rows: int, padding: float = 0) -> NDArray[Any]:
    """[B, rows, …] of B arrays, each padded to so many rows."""
    if len(parts) == 1 and len(parts[0]) == rows:
        return parts[0][None]
    first = parts[0]
    stacked = np.full((len(parts), rows, *first.shape[1:]), padding, dtype=first.dtype)
    for b, part in enumerate(parts):
        stacked[b, : len(part)] = part
    return stacked
