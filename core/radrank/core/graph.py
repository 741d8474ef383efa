"""The heterogeneous graph of one query: built here, and only here, for training, evaluation and serving.

Nodes are the query, the candidates (images or reports) and archive items of both modalities. A candidate stands in the
graph as a mere gallery item: it hears from the archive, never from the other item of its own study, and its labels are
not known. An archive item brings what the encoder believes of it and of the other item of its study, and that study's
labels. A study that is excluded contributes no archive node at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.layout import VectorLayout
from radrank.core.nodes import NO_ROW, Nodes, first_kept
from radrank.core.studies import Modality
from radrank.core.vectors import Rows, Vector, top_k

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
    """The topology of one query's graph; node features are gathered when graphs become a batch."""

    query: Vector
    query_modality: Modality
    target: Modality
    candidates: Candidates
    edges: Mapping[str, Edges]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphBatch:
    """Graphs of B queries as padded arrays: what a re-ranker's engine reads. K is a bucket, c = 1 + finding groups.

    direction: int64 [B], place of (query's modality, target) among DIRECTIONS
    query: float32 [B, c], beliefs of the query; candidate: float32 [B, K, c], beliefs of the candidates
    image, report: float32 [M, 3 c], archive items: own beliefs, those of the study's other item, the study's labels
    <relation>.idx: int64 [B, n of its target, k], places among the source's nodes (in the batch for archive items, in
    the graph for candidates), −1 where there is no edge; <relation>.weight: float32, alike
    base: float32 [B, K], first-stage cosines; mask: float32 [B, K], 1 for candidates, 0 for padding
    """

    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]]
    candidates: tuple[int, ...]
    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Archive rows of the sources in relations from the archive, int64 [B, n, k]: one item may have several places."""

    def feed(self, names: Iterable[str]) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """The arrays of these names; `<relation>.norm` is made when it is asked for, where it is not there."""
        return {name: self.arrays[name] if name in self.arrays else self._norm(name) for name in names}

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
    ) -> None:
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
    ) -> Graph:
        """The graph of one query.

        query: float32 [d], unit; candidates: rows of the gallery's target modality, best first
        bridges: the query's nearest archive items of each modality
        excluded: study indices that contribute no archive node
        """
        settings, found = self.settings, len(candidates)
        shunned = np.asarray(excluded, dtype=np.int32)
        ranked = self.gallery[target]
        edges: dict[str, Edges] = {}
        for m in Modality:
            table = ranked.same if m is target else ranked.cross
            edges[f"candidate_{m}"] = self._heard(
                m,
                table.rows.take(candidates.rows),
                table.cosines.take(candidates.rows),
                shunned,
                settings.neighbours,
                own=ranked.study.take(candidates.rows),
            )
            near = bridges[m]
            edges[f"query_{m}"] = self._heard(
                m, near.rows[None, :], near.cosines[None, :], shunned, settings.query_neighbours
            )
        edges["candidate_candidate"] = self._among(ranked.vectors.take(candidates.rows))
        clipped = _clipped(candidates.cosines)
        edges["candidate_query"] = Edges(idx=np.zeros((found, 1), dtype=np.int32), weight=clipped[:, None])
        first = np.full((1, settings.query_candidates), NO_ROW, dtype=np.int32)
        heard = np.zeros(first.shape, dtype=np.float32)
        count = min(found, settings.query_candidates)
        first[0, :count], heard[0, :count] = np.arange(count), clipped[:count]
        edges["query_candidate"] = Edges(idx=first, weight=heard)
        return Graph(query=query, query_modality=query_modality, target=target, candidates=candidates, edges=edges)

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
        return Edges(idx=kept.astype(np.int32, copy=False), weight=_clipped(weight))

    def _among(self, vectors: NDArray[np.float32]) -> Edges:
        """kNN edges between the candidates themselves. vectors: float32 [K, d]."""
        k, count = self.settings.neighbours, len(vectors)
        idx = np.full((count, k), NO_ROW, dtype=np.int32)
        weight = np.zeros(idx.shape, dtype=np.float32)
        near = min(k, count - 1)
        if near > 0:
            cosines = vectors @ vectors.T
            np.fill_diagonal(cosines, -np.inf)
            best = top_k(cosines, near)
            idx[:, :near] = best
            best += np.arange(0, count * count, count)[:, None]  # places in the whole of it
            weight[:, :near] = _clipped(cosines.take(best))
            if self._shuffles:
                led = _shuffle(count)[idx[:, :near]]
                itself = led == np.arange(count)[:, None]  # chance may lead back to where an edge ends
                idx[:, :near] = np.where(itself, NO_ROW, led)
                weight[:, :near][itself] = 0.0
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
        taken, start = [], 0
        for relation in ARCHIVE_RELATIONS:
            if relation.source == m:
                rows = rows_of[relation.name]
                places = np.arange(start, start + rows.size, dtype=np.int64).reshape(rows.shape)
                arrays[f"{relation.name}.idx"] = np.where(rows >= 0, places, NO_ROW)
                taken.append(rows.ravel())
                start += rows.size
        if not len(self.archive[m]):
            return np.zeros((start, 3 * self.layout.beliefs_width), dtype=np.float32)
        facts: NDArray[np.float32] = self.archive[m].facts.take(np.maximum(np.concatenate(taken), 0))
        return facts


def batch_shapes(
    layout: VectorLayout, settings: GraphSettings, *, graphs: int, candidates: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays of a GraphBatch of this many graphs, padded to this many candidates; norms too."""
    near, first = settings.query_neighbours, settings.query_candidates
    width, degree = layout.beliefs_width, settings.neighbours
    degrees = {
        "candidate_image": degree,
        "candidate_report": degree,
        "candidate_candidate": degree,
        "candidate_query": 1,
        "query_image": near,
        "query_report": near,
        "query_candidate": first,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "direction": (graphs,),
        "query": (graphs, width),
        "candidate": (graphs, candidates, width),
        "base": (graphs, candidates),
        "mask": (graphs, candidates),
    }
    for m in Modality:
        shapes[m.value] = (graphs * (candidates * degree + near), 3 * width)
    for r in RELATIONS:
        table = (graphs, 1 if r.target == QUERY else candidates, degrees[r.name])
        shapes |= {f"{r.name}.{kind}": table for kind in ("idx", "weight", "norm")}
    return shapes


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`; past the largest, `size` itself."""
    return next((b for b in buckets if b >= size), size)


def _shuffle(count: int) -> NDArray[np.int64]:
    """A permutation, the same for the same count."""
    return np.random.default_rng(count).permutation(count)


def _stacked(parts: Sequence[NDArray[Any]], rows: int, padding: float = 0) -> NDArray[Any]:
    """[B, rows, …] of B arrays, each padded to so many rows."""
    if len(parts) == 1 and len(parts[0]) == rows:
        return parts[0][None]
    first = parts[0]
    stacked = np.full((len(parts), rows, *first.shape[1:]), padding, dtype=first.dtype)
    for b, part in enumerate(parts):
        stacked[b, : len(part)] = part
    return stacked


def _clipped(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edge weights are similarities; what points away counts nothing."""
    return np.maximum(cosines, np.float32(0.0))
