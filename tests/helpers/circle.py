"""An archive of six studies, whose images and reports lie on a circle: near in degrees is alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from radrank.core.graph import (
    ARCHIVE_RELATIONS,
    RELATIONS,
    Candidates,
    Graph,
    GraphBatch,
    GraphBuilder,
    GraphSettings,
)
from radrank.core.layout import VectorLayout
from radrank.core.nodes import Column, Nodes, exact_gallery, exact_nodes
from radrank.core.studies import Modality
from radrank.core.vectors import exact_neighbours

IMAGE, REPORT = Modality.IMAGE, Modality.REPORT
LAYOUT = VectorLayout(projection=2, share=0.5, groups=("edema", "opacity"))
SETTINGS = GraphSettings(neighbours=2, table_width=4, query_neighbours=2, query_candidates=2, candidate_buckets=(4, 8))
SHUFFLED = replace(SETTINGS, shuffled=True)
ARCHIVE = (0, 10, 21, 33, 46, 60)  # degrees of studies 0 to 5
GALLERY = (6, 40, 90)  # degrees of studies 10, 11, 12
FINDINGS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], np.uint8)
QUERY_DEGREES = 4  # an image's, of study 10


def circle(degrees: Sequence[float]) -> np.ndarray:
    """Vectors that are all projection, so that their cosines are those of their degrees."""
    radians = np.deg2rad(degrees)
    vectors = np.zeros((len(degrees), LAYOUT.dimensions), np.float32)
    vectors[:, :2] = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return vectors


def beliefs_of(m: Modality, degrees: Sequence[float]) -> np.ndarray:
    """What is believed of items at these degrees: numbers that tell one item from all others."""
    return np.array([[d / 100, float(m is REPORT), 0.5] for d in degrees], np.float32).reshape(-1, 3)


def believing(nodes: Nodes, other: Nodes | None, degrees: Sequence[float]) -> Nodes:
    """The nodes with these beliefs; the item of the other modality that stands in the same place is the pair."""
    facts = nodes.facts.base.copy()
    width = facts.shape[1] // 3
    facts[:, :width] = beliefs_of(nodes.modality, degrees)
    if other is not None:
        facts[:, width : 2 * width] = beliefs_of(other.modality, degrees)
    return replace(nodes, facts=Column(facts))


def cosine(*degrees: float | None) -> list[float]:
    """Cosines of differences in degrees, 0 for None."""
    return pytest.approx([0.0 if d is None else float(np.cos(np.deg2rad(d))) for d in degrees], abs=1e-6)


def archive_of(degrees: Sequence[float] = ARCHIVE) -> dict[Modality, Nodes]:
    count = len(degrees)
    nodes = exact_nodes(
        vectors=dict.fromkeys(Modality, circle(degrees)),
        studies=dict.fromkeys(Modality, np.arange(count, dtype=np.int32)),
        normal=dict.fromkeys(Modality, np.zeros(count, dtype=np.int8)),
        findings=dict.fromkeys(Modality, FINDINGS[:count]),
        layout=LAYOUT,
        width=SETTINGS.table_width,
    )
    return {m: believing(nodes[m], nodes[m.other], degrees) for m in Modality}


def builder_of(archive: Mapping[Modality, Nodes] | None = None, settings: GraphSettings = SETTINGS) -> GraphBuilder:
    """A gallery of studies that the archive does not hold."""
    archive = archive or archive_of()
    gallery = exact_gallery(
        vectors=dict.fromkeys(Modality, circle(GALLERY)),
        studies=dict.fromkeys(Modality, np.arange(10, 13, dtype=np.int32)),
        archive=archive,
        layout=LAYOUT,
        width=settings.table_width,
    )
    gallery = {m: believing(gallery[m], None, GALLERY) for m in Modality}
    return GraphBuilder(gallery=gallery, archive=archive, layout=LAYOUT, settings=settings)


def serving_builder(settings: GraphSettings = SETTINGS) -> GraphBuilder:
    """In serving, gallery and archive are the same items."""
    archive = archive_of()
    return GraphBuilder(gallery=archive, archive=archive, layout=LAYOUT, settings=settings)


def nearest(query: float, degrees: Sequence[float], k: int) -> Candidates:
    rows, cosines = exact_neighbours(circle([query]), circle(degrees), k)
    return Candidates(rows=rows[0], cosines=cosines[0])


def build(builder: GraphBuilder, *, target: Modality = REPORT, k: int = 2, **changes: object) -> Graph:
    """The graph of the query with its k nearest gallery items of the target."""
    near = nearest(QUERY_DEGREES, ARCHIVE, builder.settings.query_neighbours)
    asked: dict[str, object] = {
        "query": circle([QUERY_DEGREES])[0],
        "query_modality": IMAGE,
        "target": target,
        "candidates": nearest(QUERY_DEGREES, GALLERY, k),
        "bridges": dict.fromkeys(Modality, near),
    }
    return builder.build(**(asked | changes))  # type: ignore[arg-type]


def idx(graph: Graph, relation: str) -> list[list[int]]:
    return graph.edges[relation].idx.tolist()


def archive_rows(graph: Graph) -> set[int]:
    """Archive rows that any edge of the graph leads from; rows are studies here."""
    return {row for r in ARCHIVE_RELATIONS for row in graph.edges[r.name].idx.ravel().tolist() if row >= 0}


def same(left: Graph, right: Graph) -> bool:
    return all(
        np.array_equal(left.edges[r.name].idx, right.edges[r.name].idx)
        and np.array_equal(left.edges[r.name].weight, right.edges[r.name].weight)
        for r in RELATIONS
    )


def asked_at_random(count: int) -> list[dict[str, object]]:
    """Queries anywhere, into either modality, with none to two studies excluded."""
    rng = np.random.default_rng(0)
    asked = []
    for place in range(count):
        query = float(rng.uniform(0, 70))
        asked.append(
            {
                "query": circle([query])[0],
                "query_modality": list(Modality)[place // 2 % 2],
                "target": list(Modality)[place % 2],
                "candidates": nearest(query, GALLERY, 1 + place % 3),
                "bridges": dict.fromkeys(Modality, nearest(query, ARCHIVE, 2)),
                "excluded": rng.choice(6, place % 3, replace=False).tolist(),
            }
        )
    return asked


def heard(batch: GraphBatch, relation: str) -> np.ndarray:
    """What every edge of a relation from the archive brings, [B, n, k, 3 c]; zeros where there is none."""
    source = next(r.source for r in RELATIONS if r.name == relation)
    table = batch.arrays[f"{relation}.idx"]
    return np.where((table >= 0)[..., None], batch.arrays[source][np.maximum(table, 0)], np.float32(0))
