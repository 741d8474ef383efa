"""The heterogeneous graph of one query: built here, and only here, for training, evaluation and serving.

Node types are query, image and report. The items being ranked (candidates) come first among the nodes of their type
and stand in the graph as mere gallery items: they have archive neighbours, but never a `paired` edge. The other image
and report nodes are archive items: the neighbours of the query and of the candidates, and the pairs of the query's.
A study that is excluded contributes no archive node at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.nodes import NO_ROW, Nodes, first_kept
from radrank.core.studies import Modality
from radrank.core.vectors import Rows, Vector

QUERY = "query"
NODE_TYPES = (QUERY, Modality.IMAGE.value, Modality.REPORT.value)


@dataclass(frozen=True, slots=True)
class Relation:
    """Edges from `source` nodes into `target` nodes, each target with at most a fixed number of them."""

    name: str
    target: str
    source: str


# Every relation is defined by its own top-k, so in-degrees are fixed and no layer needs a scatter.
RELATIONS = (
    Relation("image_image", "image", "image"),
    Relation("report_report", "report", "report"),
    Relation("image_report", "image", "report"),
    Relation("report_image", "report", "image"),
    Relation("image_paired", "image", "report"),
    Relation("report_paired", "report", "image"),
    Relation("query_image", QUERY, "image"),
    Relation("query_report", QUERY, "report"),
    Relation("image_query", "image", QUERY),
    Relation("report_query", "report", QUERY),
)

# Per image and report node: cosine with the query, the same standardised over the candidates (0 for the archive),
# candidate or not, 1/√rank (0 for the archive), the archive's normal (+1) or abnormal (−1) label (0 for candidates).
NODE_SCALARS = 5
QUERY_SCALARS = 2  # image, report: what the query is


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSettings:
    """How large the graph is. Kept in the bundle: a re-ranker is served with the graph it was trained on.

    neighbours: kNN edges of a node in each of its two relations
    table_width: neighbours kept in the archive's tables; the surplus replaces excluded ones
    query_neighbours: archive items of each modality that the query is joined to
    query_candidates: candidates that the query hears from
    pairs: places for paired items that an archive node hears from; a study, being one item of each kind, fills one
    """

    neighbours: int = 6
    table_width: int = 12
    query_neighbours: int = 16
    query_candidates: int = 16
    pairs: int = 4
    candidate_buckets: tuple[int, ...] = (10, 25, 50, 100, 200, 500, 1000)
    node_buckets: tuple[int, ...] = (
        *range(64, 512, 64),
        *range(512, 1024, 128),
        *(1024, 1280, 1536, 1792, 2048, 3072, 4096, 8192, 16384),
    )

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
    """One relation's neighbour table: sources int32 [n, k] (−1: none) and similarity weights float32 [n, k]."""

    idx: NDArray[np.int32]
    weight: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """The topology of one query's graph; node features are gathered when graphs become a batch.

    archive_rows: archive rows of the image and of the report nodes, after the candidates of the target's type
    edges: a neighbour table for each relation, over this graph's own nodes
    """

    query: Vector
    query_modality: Modality
    target: Modality
    candidates: Candidates
    archive_rows: Mapping[Modality, Rows]
    edges: Mapping[str, Edges]

    def size(self, modality: Modality) -> int:
        """Nodes of this type, candidates included."""
        return len(self.archive_rows[modality]) + (len(self.candidates) if modality is self.target else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphBatch:
    """Graphs of B queries as padded arrays: what a re-ranker's engine reads.

    query: float32 [B, d]; query_scalars: float32 [B, 2]
    image, report: float32 [B, N, d]; image_scalars, report_scalars: float32 [B, N, 5]; N is a bucket
    <relation>.idx: int64 [B, N of its target, k], −1 where there is no edge; <relation>.weight: float32, alike
    slots: int64 [B, K], the candidates' places among image nodes followed by report nodes, −1 padded
    base: float32 [B, K], first-stage cosines, 0 where padded
    """

    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]]
    candidates: tuple[int, ...]
    _derived: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def feed(self, names: Iterable[str]) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        """The arrays of these names; `<relation>.norm` is made when it is asked for."""
        return {
            name: self.norm(name.removesuffix(".norm")) if name.endswith(".norm") else self.arrays[name]
            for name in names
        }

    def norm(self, relation: str) -> NDArray[np.float32]:
        """w_ij / √(d_i d_j) with weighted degrees (Kipf & Welling 2017, eq. 2, over one relation). [B, N, k]"""
        if relation not in self._derived:
            idx = np.asarray(self.arrays[f"{relation}.idx"], dtype=np.int64)
            weight = np.asarray(self.arrays[f"{relation}.weight"], dtype=np.float32)
            source = next(r.source for r in RELATIONS if r.name == relation)
            count = 1 if source == QUERY else self.arrays[source].shape[1]
            flat = np.maximum(idx, 0) + (np.arange(len(idx)) * count)[:, None, None]
            out = np.bincount(flat.ravel(), weights=weight.ravel(), minlength=len(idx) * count)
            degrees = weight.sum(axis=2, keepdims=True) * out[flat]
            norm = np.divide(weight, np.sqrt(degrees), out=np.zeros_like(weight), where=degrees > 0)
            self._derived[relation] = norm.astype(np.float32, copy=False)
        return self._derived[relation]


class _Scratch(threading.local):
    """Maps archive rows to a graph's local nodes; one array per thread and modality, kept between requests."""

    def __init__(self) -> None:
        self.places: dict[Modality, NDArray[np.int32]] = {}

    def of(self, modality: Modality, size: int) -> NDArray[np.int32]:
        places = self.places.get(modality)
        if places is None or len(places) != size:
            places = self.places[modality] = np.full(size, NO_ROW, dtype=np.int32)
        return places


class GraphBuilder:
    """Builds graphs over one gallery and one archive; in serving they are the same items in two roles."""

    def __init__(
        self, *, gallery: Mapping[Modality, Nodes], archive: Mapping[Modality, Nodes], settings: GraphSettings
    ) -> None:
        self.gallery = gallery
        self.archive = archive
        self.settings = settings
        self._scratch = _Scratch()

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
        k = self.settings.neighbours
        shunned = np.asarray(excluded, dtype=np.int32)
        ranked = self.gallery[target]
        near = {
            target: self._archived(target, ranked.same.rows.take(candidates.rows), shunned),
            target.other: self._archived(target.other, ranked.cross.rows.take(candidates.rows), shunned),
        }
        weights = {
            target: ranked.same.cosines.take(candidates.rows),
            target.other: ranked.cross.cosines.take(candidates.rows),
        }
        chosen = {m: first_kept(near[m], weights[m], near[m] >= 0, k) for m in Modality}
        bridge = {
            m: self._archived(m, bridges[m].rows[None, : self.settings.query_neighbours], shunned)[0] for m in Modality
        }
        nodes = {m: _distinct((chosen[m][0], bridge[m], self._pairs_of(m.other, bridge[m.other]))) for m in Modality}

        places = {m: self._scratch.of(m, len(self.archive[m])) for m in Modality}
        offsets = {m: len(candidates) if m is target else 0 for m in Modality}
        try:
            for m in Modality:
                places[m][nodes[m]] = np.arange(offsets[m], offsets[m] + len(nodes[m]), dtype=np.int32)
            edges: dict[str, Edges] = {}
            for m in Modality:
                for among, name in ((m, f"{m}_{m}"), (m.other, f"{m}_{m.other}")):
                    table = self._between(m, among, nodes[m], places[among])
                    if m is target:
                        rows, cosines = chosen[among]
                        table = Edges(
                            idx=np.concatenate([_located(places[among], rows), table.idx]),
                            weight=np.concatenate([_clipped(cosines), table.weight]),
                        )
                    edges[name] = table
                edges[f"{m}_paired"] = self._paired(m, nodes[m], places[m.other], offsets[m])
                local = _located(places[m], bridge[m])
                edges |= self._query_edges(
                    m, local, bridges[m].cosines, candidates if m is target else None, offsets[m] + len(nodes[m])
                )
        finally:
            for m in Modality:
                places[m][nodes[m]] = NO_ROW
        return Graph(
            query=query,
            query_modality=query_modality,
            target=target,
            candidates=candidates,
            archive_rows=nodes,
            edges=edges,
        )

    def batch(self, graphs: Sequence[Graph]) -> GraphBatch:
        """Pads graphs to common buckets and gathers their node features."""
        settings = self.settings
        width = bucket(max(len(g.candidates) for g in graphs), settings.candidate_buckets)
        sizes = {m: bucket(max(g.size(m) for g in graphs), settings.node_buckets) for m in Modality}
        count, dimensions = len(graphs), self.archive[Modality.IMAGE].vectors.width
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
            "query": np.stack([g.query for g in graphs]),
            "query_scalars": np.array([[g.query_modality is m for m in Modality] for g in graphs], dtype=np.float32),
            "slots": np.full((count, width), NO_ROW, dtype=np.int64),
            "base": np.zeros((count, width), dtype=np.float32),
        }
        for m in Modality:
            arrays[m.value] = np.zeros((count, sizes[m], dimensions), dtype=np.float32)
            arrays[f"{m}_scalars"] = np.zeros((count, sizes[m], NODE_SCALARS), dtype=np.float32)
        for relation in RELATIONS:
            rows = 1 if relation.target == QUERY else sizes[Modality(relation.target)]
            shape = (count, rows, graphs[0].edges[relation.name].idx.shape[1])
            arrays[f"{relation.name}.idx"] = np.full(shape, NO_ROW, dtype=np.int64)
            arrays[f"{relation.name}.weight"] = np.zeros(shape, dtype=np.float32)
        for b, graph in enumerate(graphs):
            self._fill(arrays, b, graph, sizes)
        return GraphBatch(arrays=arrays, candidates=tuple(len(g.candidates) for g in graphs))

    def _fill(
        self,
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]],
        b: int,
        graph: Graph,
        sizes: Mapping[Modality, int],
    ) -> None:
        found = len(graph.candidates)
        base = graph.candidates.cosines
        arrays["base"][b, :found] = base
        arrays["slots"][b, :found] = np.arange(found) + (
            sizes[Modality.IMAGE] if graph.target is Modality.REPORT else 0
        )
        for m in Modality:
            vectors, scalars, size = arrays[m.value][b], arrays[f"{m}_scalars"][b], graph.size(m)
            start = 0
            if m is graph.target:
                start = found
                vectors[:found] = self.gallery[m].vectors.take(graph.candidates.rows)
                spread = float(base.std()) if found > 1 else 0.0
                scalars[:found, 1] = (base - base.mean()) / (spread or 1.0) if found else 0.0
                scalars[:found, 2] = 1.0
                scalars[:found, 3] = 1.0 / np.sqrt(np.arange(1, found + 1))
            rows = graph.archive_rows[m]
            vectors[start:size] = self.archive[m].vectors.take(rows)
            scalars[start:size, 4] = self.archive[m].normal[rows]
            scalars[:size, 0] = vectors[:size] @ graph.query
        for name, edges in graph.edges.items():
            arrays[f"{name}.idx"][b, : len(edges.idx)] = edges.idx
            arrays[f"{name}.weight"][b, : len(edges.idx)] = edges.weight

    def _archived(self, m: Modality, rows: NDArray[np.integer], shunned: NDArray[np.int32]) -> NDArray[np.integer]:
        """The rows [n, k] with −1 in place of what is dead or excluded."""
        nodes = self.archive[m]
        if not len(nodes):
            return np.full_like(rows, NO_ROW)
        safe = np.maximum(rows, 0)
        keep = (rows >= 0) & nodes.alive[safe]
        if len(shunned):
            keep &= ~np.isin(nodes.study[safe], shunned)
        return np.where(keep, rows, NO_ROW)

    def _pairs_of(self, m: Modality, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Archive rows of the other modality that belong to these rows' studies. A study lives or dies whole."""
        return self.archive[m].pairs.take(rows[rows >= 0])[:, : self.settings.pairs]

    def _between(self, m: Modality, among: Modality, rows: Rows, places: NDArray[np.int32]) -> Edges:
        """kNN edges between archive nodes of this graph."""
        table = self.archive[m].same if among is m else self.archive[m].cross
        idx = _located(places, table.rows.take(rows))
        kept, weight = first_kept(idx, table.cosines.take(rows), idx >= 0, self.settings.neighbours)
        return Edges(idx=kept.astype(np.int32), weight=_clipped(weight))

    def _paired(self, m: Modality, rows: Rows, places: NDArray[np.int32], offset: int) -> Edges:
        """`paired` edges of archive nodes; the candidates before them (`offset` of them) have none."""
        idx = np.full((offset + len(rows), self.settings.pairs), NO_ROW, dtype=np.int32)
        pairs = self.archive[m].pairs.take(rows)[:, : self.settings.pairs]
        idx[offset:, : pairs.shape[1]] = _located(places, pairs)
        return Edges(idx=idx, weight=(idx >= 0).astype(np.float32))

    def _query_edges(
        self,
        m: Modality,
        local: NDArray[np.int32],
        cosines: NDArray[np.float32],
        candidates: Candidates | None,
        size: int,
    ) -> dict[str, Edges]:
        """Edges between the query and one type's nodes: its archive neighbours, and the candidates if they are here."""
        settings = self.settings
        inward = np.full((1, settings.query_neighbours + settings.query_candidates), NO_ROW, dtype=np.int32)
        weight = np.zeros(inward.shape, dtype=np.float32)
        outward = np.full((size, 1), NO_ROW, dtype=np.int32)
        strength = np.zeros((size, 1), dtype=np.float32)
        there = local >= 0
        similar = _clipped(cosines[: len(local)])
        inward[0, : len(local)] = local
        weight[0, : len(local)] = np.where(there, similar, 0.0)
        outward[local[there], 0] = 0
        strength[local[there], 0] = similar[there]
        if candidates is not None:
            heard = min(len(candidates), settings.query_candidates)
            inward[0, settings.query_neighbours : settings.query_neighbours + heard] = np.arange(heard)
            clipped = _clipped(candidates.cosines)
            weight[0, settings.query_neighbours : settings.query_neighbours + heard] = clipped[:heard]
            outward[: len(candidates), 0] = 0
            strength[: len(candidates), 0] = clipped
        return {f"query_{m}": Edges(idx=inward, weight=weight), f"{m}_query": Edges(idx=outward, weight=strength)}


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`; past the largest, `size` itself."""
    return next((b for b in buckets if b >= size), size)


def _distinct(groups: Iterable[NDArray[np.integer]]) -> Rows:
    """The rows that stand anywhere in these groups, ascending."""
    rows = np.unique(np.concatenate([group.ravel() for group in groups]))
    return rows[rows >= 0].astype(np.int64)


def _located(places: NDArray[np.int32], rows: NDArray[np.integer]) -> NDArray[np.int32]:
    """Local nodes of archive rows, −1 where a row is −1 or not in this graph."""
    if not len(places):
        return np.full(rows.shape, NO_ROW, dtype=np.int32)
    return np.where(rows >= 0, places[rows], NO_ROW).astype(np.int32)


def _clipped(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edge weights are similarities; what points away counts nothing."""
    return np.maximum(cosines, np.float32(0.0))
