"""The builder on an archive of six studies, whose images and reports lie on a circle: near in degrees is alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers.doubles import joined
from radrank.core.graph import (
    ARCHIVE_RELATIONS,
    CANDIDATE,
    DIRECTIONS,
    NODE_TYPES,
    QUERY,
    RELATIONS,
    Candidates,
    Graph,
    GraphBatch,
    GraphBuilder,
    GraphSettings,
    bucket,
)
from radrank.core.layout import VectorLayout
from radrank.core.nodes import Column, Nodes, exact_gallery, exact_nodes
from radrank.core.studies import Modality
from radrank.core.vectors import exact_neighbours, unit

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
    return {m: replace(nodes[m], beliefs=Column(beliefs_of(m, degrees))) for m in Modality}


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
    gallery = {m: replace(gallery[m], beliefs=Column(beliefs_of(m, GALLERY))) for m in Modality}
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


# -- what is in the graph ---------------------------------------------------------------------------------------------


def test_relations_lead_from_every_node_type_to_the_query_and_the_candidates():
    assert {r.source for r in RELATIONS} == set(NODE_TYPES) == {QUERY, CANDIDATE, "image", "report"}
    assert {r.target for r in RELATIONS} == {QUERY, CANDIDATE}
    assert [r.name for r in RELATIONS] == [f"{r.target}_{r.source}" for r in RELATIONS]


@pytest.mark.parametrize("m", list(Modality))
@pytest.mark.parametrize("target", list(Modality))
def test_candidates_hear_from_their_nearest_archive_items_of_either_modality(target, m):
    graph = build(builder_of(), target=target)
    assert idx(graph, f"candidate_{m}") == [[1, 0], [4, 3]]
    assert graph.edges[f"candidate_{m}"].weight.ravel().tolist() == cosine(4, 6, 6, 7)


@pytest.mark.parametrize("target", list(Modality))
def test_what_candidates_hear_from_is_what_a_full_scan_finds(target):
    """Where images and reports of a study lie anywhere."""
    rng = np.random.default_rng(0)
    vectors = {m: unit(rng.normal(size=(40, LAYOUT.dimensions))) for m in Modality}
    studies = {IMAGE: np.arange(40, dtype=np.int32), REPORT: rng.permutation(40).astype(np.int32)}
    known = dict.fromkeys(Modality, np.zeros((40, 3), np.uint8))
    nothing = dict.fromkeys(Modality, np.zeros(40, np.int8))
    nodes = exact_nodes(vectors=vectors, studies=studies, normal=nothing, findings=known, layout=LAYOUT, width=4)
    builder = GraphBuilder(gallery=nodes, archive=nodes, layout=LAYOUT, settings=SETTINGS)
    rows, excluded = np.array([7, 3, 30]), [5, 6]
    graph = build(builder, target=target, candidates=Candidates(rows=rows, cosines=np.ones(3, np.float32)))
    without = build(
        builder, target=target, candidates=Candidates(rows=rows, cosines=np.ones(3, np.float32)), excluded=excluded
    )
    for m in Modality:
        cosines = vectors[target][rows] @ vectors[m].T
        cosines[studies[m][None, :] == studies[target][rows][:, None]] = -1
        assert idx(graph, f"candidate_{m}") == np.argsort(-cosines, axis=1)[:, :2].tolist()
        cosines[:, np.isin(studies[m], excluded)] = -1
        assert idx(without, f"candidate_{m}") == np.argsort(-cosines, axis=1)[:, :2].tolist()


def test_candidates_hear_from_their_nearest_among_themselves():
    edges = build(builder_of(), k=3).edges["candidate_candidate"]
    assert edges.idx.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert edges.weight.ravel().tolist() == cosine(34, 84, 34, 50, 50, 84)


def test_two_candidates_have_but_one_another_and_one_has_none():
    assert idx(build(builder_of(), k=2), "candidate_candidate") == [[1, -1], [0, -1]]
    assert idx(build(builder_of(), k=1), "candidate_candidate") == [[-1, -1]]


def test_the_query_hears_from_its_nearest_archive_items_and_its_first_candidates():
    graph = build(builder_of(), k=3)
    for relation, weights in (
        ("query_report", cosine(4, 6)),
        ("query_image", cosine(4, 6)),
        ("query_candidate", cosine(2, 36)),
    ):
        assert idx(graph, relation) == [[0, 1]]
        assert graph.edges[relation].weight[0].tolist() == weights
    assert idx(build(builder_of(), k=1), "query_candidate") == [[0, -1]]


def test_all_candidates_hear_from_the_query_as_near_as_they_are_to_it():
    edges = build(builder_of(), k=3).edges["candidate_query"]
    assert edges.idx.tolist() == [[0], [0], [0]]
    assert edges.weight[:, 0].tolist() == cosine(2, 36, 86)


def test_similarities_below_zero_weigh_nothing():
    away = Candidates(rows=np.array([0, 2]), cosines=np.array([0.2, -0.5], dtype=np.float32))
    graph = build(builder_of(), candidates=away, bridges=dict.fromkeys(Modality, away))
    assert graph.edges["candidate_query"].weight[:, 0].tolist() == pytest.approx([0.2, 0.0])
    assert graph.edges["query_image"].weight[0].tolist() == pytest.approx([0.2, 0.0])
    assert all((edges.weight >= 0).all() for edges in graph.edges.values())


@pytest.mark.parametrize("target", list(Modality))
@pytest.mark.parametrize("k", [1, 3])
def test_in_degrees_are_the_settings_whatever_the_graph(target, k):
    graph = build(builder_of(), target=target, k=k)
    sources = {QUERY: 1, CANDIDATE: k, "image": 6, "report": 6}
    for r in RELATIONS:
        edges = graph.edges[r.name]
        degree = 1 if r.source == QUERY else 2
        assert edges.idx.shape == edges.weight.shape == (1 if r.target == QUERY else k, degree)
        assert edges.idx.max() < sources[r.source]
        assert not edges.weight[edges.idx < 0].any()


def test_an_empty_archive_leaves_the_query_and_its_candidates():
    builder = builder_of(archive_of([]))
    graph = build(builder, bridges=dict.fromkeys(Modality, nearest(QUERY_DEGREES, [], 2)))
    for r in ARCHIVE_RELATIONS:
        assert set(graph.edges[r.name].idx.ravel().tolist()) == {-1}
    batch = builder.batch([graph])
    assert batch.arrays["base"][0, :2].tolist() == cosine(2, 36)
    for m in Modality:
        assert not heard(batch, f"candidate_{m}").any()


# -- who is left out --------------------------------------------------------------------------------------------------


def test_an_excluded_study_is_no_source_and_the_tables_surplus_takes_over():
    graph = build(builder_of(), excluded=[1])
    for m in Modality:
        assert idx(graph, f"candidate_{m}") == [[0, 2], [4, 3]]
        assert graph.edges[f"candidate_{m}"].weight[0].tolist() == cosine(6, 15)
        assert idx(graph, f"query_{m}") == [[0, -1]]
        assert graph.edges[f"query_{m}"].weight[0].tolist() == cosine(4, None)


def test_where_the_surplus_is_used_up_there_are_fewer_edges():
    graph = build(builder_of(), excluded=[0, 1, 2])
    assert idx(graph, "candidate_image")[0] == [3, -1]  # of a table of four
    assert graph.edges["candidate_image"].weight[0].tolist() == cosine(27, None)


@pytest.mark.parametrize("settings", [SETTINGS, SHUFFLED], ids=["plain", "shuffled"])
@pytest.mark.parametrize("shunned", [[0], [0, 1], [3, 4], [0, 2, 4, 5], list(range(6))], ids=str)
def test_no_edge_leads_from_an_excluded_study(shunned, settings):
    for builder in (builder_of(settings=settings), serving_builder(settings)):
        for target in Modality:
            assert not archive_rows(build(builder, target=target, excluded=shunned)) & set(shunned)


@pytest.mark.parametrize("settings", [SETTINGS, SHUFFLED], ids=["plain", "shuffled"])
@pytest.mark.parametrize("target", list(Modality))
def test_a_candidate_never_hears_from_its_own_study(target, settings):
    graph = build(serving_builder(settings), target=target, candidates=nearest(QUERY_DEGREES, ARCHIVE, 6))
    for m in Modality:
        for own, sources in zip(graph.candidates.rows.tolist(), idx(graph, f"candidate_{m}"), strict=True):
            assert own not in sources
            assert -1 not in sources


def test_an_excluded_study_is_still_ranked_where_it_is_a_candidate():
    graph = build(serving_builder(), candidates=nearest(QUERY_DEGREES, ARCHIVE, 2), excluded=[0])
    assert graph.candidates.rows.tolist() == [0, 1]
    assert idx(graph, "candidate_report") == [[1, 2], [2, 3]]
    assert 0 not in archive_rows(graph)


def test_a_dead_row_counts_as_one_that_was_never_there():
    dead = np.array([True, False, True, True, True, True])
    archive = {m: replace(nodes, alive=dead) for m, nodes in archive_of().items()}
    assert same(build(builder_of(archive)), build(builder_of(), excluded=[1]))


# -- arrays -----------------------------------------------------------------------------------------------------------


def heard(batch: GraphBatch, relation: str) -> np.ndarray:
    """What every edge of a relation from the archive brings, [B, n, k, 3 c]; zeros where there is none."""
    source = next(r.source for r in RELATIONS if r.name == relation)
    table = batch.arrays[f"{relation}.idx"]
    return np.where((table >= 0)[..., None], batch.arrays[source][np.maximum(table, 0)], np.float32(0))


def test_a_bucket_is_the_smallest_that_holds():
    assert [bucket(n, (4, 8)) for n in (0, 4, 5, 8, 9)] == [4, 4, 8, 8, 9]


def test_a_batch_is_padded_to_the_bucket_of_its_largest_graph():
    builder = builder_of()
    batch = builder.batch([build(builder), build(builder, target=IMAGE, k=3)])
    assert batch.candidates == (2, 3)
    assert {name: array.shape for name, array in batch.arrays.items() if not name.endswith(".weight")} == {
        "direction": (2,),
        "query": (2, 3),
        "candidate": (2, 4, 3),
        "image": (20, 9),  # 2 graphs · (4 candidates + 1 query) · 2 neighbours
        "report": (20, 9),
        "candidate_image.idx": (2, 4, 2),
        "candidate_report.idx": (2, 4, 2),
        "candidate_candidate.idx": (2, 4, 2),
        "candidate_query.idx": (2, 4, 1),
        "query_image.idx": (2, 1, 2),
        "query_report.idx": (2, 1, 2),
        "query_candidate.idx": (2, 1, 2),
        "base": (2, 4),
        "mask": (2, 4),
    }
    for r in RELATIONS:
        assert batch.arrays[f"{r.name}.weight"].shape == batch.arrays[f"{r.name}.idx"].shape
    integers = {name for name, array in batch.arrays.items() if array.dtype == np.int64}
    assert integers == {"direction", *(f"{r.name}.idx" for r in RELATIONS)}
    assert {array.dtype for name, array in batch.arrays.items() if name not in integers} == {np.dtype(np.float32)}


def test_padding_is_masked_and_has_no_edges():
    builder = builder_of()
    arrays = builder.batch([build(builder), build(builder, k=3)]).arrays
    assert arrays["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert arrays["base"][0].tolist() == cosine(2, 36, None, None)
    padded = arrays["mask"] == 0
    assert not arrays["candidate"][padded].any()
    for r in RELATIONS:
        if r.target == CANDIDATE:
            assert (arrays[f"{r.name}.idx"][padded] == -1).all()
            assert not arrays[f"{r.name}.weight"][padded].any()


def test_the_direction_tells_the_querys_modality_and_the_target():
    builder = builder_of()
    pairs = [(IMAGE, IMAGE), (IMAGE, REPORT), (REPORT, IMAGE), (REPORT, REPORT)]
    graphs = [build(builder, query_modality=source, target=target) for source, target in pairs]
    assert builder.batch(graphs).arrays["direction"].tolist() == [0, 1, 2, 3]
    assert list(DIRECTIONS) == pairs


def test_a_query_brings_the_beliefs_that_its_vector_holds():
    builder = builder_of()
    query = joined(np.array([[1.0, 0.0]]), np.array([[0.75, 0.25, 0.5]]), IMAGE, LAYOUT)[0]
    batch = builder.batch([build(builder), build(builder, query=query)])
    np.testing.assert_allclose(batch.arrays["query"], [[0, 0, 0], [0.75, 0.25, 0.5]], atol=1e-6)


@pytest.mark.parametrize("builder", [builder_of, serving_builder])
@pytest.mark.parametrize("target", list(Modality))
def test_a_candidate_brings_its_beliefs_and_neither_labels_nor_its_pair(builder, target):
    """Even in serving, where the archive holds both of it."""
    built = builder()
    batch = built.batch([build(built, target=target)])
    found = [GALLERY, ARCHIVE][builder is serving_builder]
    assert np.array_equal(batch.arrays["candidate"][0, :2], beliefs_of(target, found[:2]))


def test_an_archive_item_brings_its_beliefs_its_pairs_and_its_studys_findings():
    batch_of = builder_of()
    batch = batch_of.batch([build(batch_of)])
    for m in Modality:
        told = np.concatenate([beliefs_of(m, ARCHIVE), beliefs_of(m.other, ARCHIVE), FINDINGS], axis=1)
        assert np.array_equal(heard(batch, f"candidate_{m}")[0, :2], told[[[1, 0], [4, 3]]])
        assert np.array_equal(heard(batch, f"query_{m}")[0, 0], told[[0, 1]])


def test_a_graph_is_the_same_alone_and_in_a_batch():
    builder = builder_of()
    graphs = [build(builder, **one) for one in asked_at_random(12)]
    together = builder.batch(graphs)
    moved = {"image", "report", *(f"{r.name}.idx" for r in ARCHIVE_RELATIONS)}  # places depend on the batch
    for row, graph in enumerate(graphs):
        alone = builder.batch([graph])
        assert all(np.array_equal(alone.arrays[n][0], together.arrays[n][row]) for n in set(alone.arrays) - moved)
        for r in ARCHIVE_RELATIONS:
            assert np.array_equal(heard(alone, r.name)[0], heard(together, r.name)[row])
            norms = [batch.feed([f"{r.name}.norm"])[f"{r.name}.norm"] for batch in (alone, together)]
            assert np.array_equal(norms[0][0], norms[1][row])


def test_the_whole_archive_makes_the_graph_that_copies_make():
    builder = builder_of()
    graphs = [build(builder, **one) for one in asked_at_random(12)]
    copied, whole = builder.batch(graphs), builder.batch(graphs, whole=True)
    assert whole.arrays["image"].shape == whole.arrays["report"].shape == (6, 9)
    for r in RELATIONS:
        assert np.array_equal(whole.arrays[f"{r.name}.weight"], copied.arrays[f"{r.name}.weight"])
        names = [f"{r.name}.norm"]
        assert np.array_equal(whole.feed(names)[names[0]], copied.feed(names)[names[0]])
    for r in ARCHIVE_RELATIONS:
        assert np.array_equal(heard(whole, r.name), heard(copied, r.name))
        assert heard(whole, r.name).any()
        assert np.array_equal(whole.arrays[f"{r.name}.idx"], whole.rows[r.name])
    for name in set(copied.arrays) - {"image", "report", *(f"{r.name}.idx" for r in ARCHIVE_RELATIONS)}:
        assert np.array_equal(whole.arrays[name], copied.arrays[name])


# -- norm -------------------------------------------------------------------------------------------------------------


def kipf_and_welling(sources: list[list[int]], weight: np.ndarray) -> list[list[float]]:
    """w_ij / √(d_i d_j) over one relation of one graph, an edge at a time."""
    arriving = [sum(float(w) for w in row) for row in weight]
    leaving: dict[int, float] = {}
    for row, heard_from in enumerate(sources):
        for slot, source in enumerate(heard_from):
            leaving[source] = leaving.get(source, 0.0) + float(weight[row, slot])
    found = []
    for row, heard_from in enumerate(sources):
        products = [arriving[row] * leaving[source] for source in heard_from]
        found.append([float(w) / p**0.5 if p > 0 else 0.0 for w, p in zip(weight[row], products, strict=True)])
    return found


def test_norm_divides_by_the_degrees_at_both_ends():
    """Two candidates in one place hear from the same two images: an image's degree is what both hear of it."""
    builder = builder_of()
    close = Candidates(rows=np.array([0, 0]), cosines=np.array([0.9, 0.9], np.float32))
    batch = builder.batch([build(builder, candidates=close)])
    weight = batch.arrays["candidate_image.weight"][0]
    assert batch.rows["candidate_image"][0, :2].tolist() == [[1, 0], [1, 0]]
    assert len(set(batch.arrays["candidate_image.idx"][0, :2].ravel().tolist())) == 4  # four copies of two items
    norm = batch.feed(["candidate_image.norm"])["candidate_image.norm"][0]
    assert norm[0, 0] == pytest.approx(weight[0, 0] / np.sqrt((weight[0, 0] + weight[0, 1]) * 2 * weight[0, 0]))
    assert norm[1].tolist() == norm[0].tolist()
    assert not norm[2:].any()


@pytest.mark.parametrize("whole", [False, True], ids=["copies", "whole"])
def test_norm_is_kipf_and_wellings_in_every_relation(whole):
    builder = builder_of()
    graphs = [build(builder, **one) for one in asked_at_random(12)]
    batch = builder.batch(graphs, whole=whole)
    shared = 0
    for r in RELATIONS:
        norm = batch.feed([f"{r.name}.norm"])[f"{r.name}.norm"]
        assert norm.dtype == np.float32
        for b, graph in enumerate(graphs):
            edges = graph.edges[r.name]
            expected = kipf_and_welling(edges.idx.tolist(), edges.weight)
            np.testing.assert_allclose(norm[b, : len(expected)], expected, atol=1e-6)
            assert not norm[b, len(expected) :].any()
            if r in ARCHIVE_RELATIONS:
                known = edges.idx[edges.idx >= 0]
                shared += len(known) - len(np.unique(known))
    assert shared > 10  # edges from items that others hear from too


def test_norm_is_made_where_it_is_not_there_and_never_kept():
    builder = builder_of()
    batch = builder.batch([build(builder)])
    made = batch.feed(["base", "candidate_image.norm"])
    assert list(made) == ["base", "candidate_image.norm"]
    assert made["base"] is batch.arrays["base"]
    assert "candidate_image.norm" not in batch.arrays
    stored = np.zeros((1, 4, 2), np.float32)
    kept = replace(batch, arrays={**batch.arrays, "candidate_image.norm": stored})
    assert kept.feed(["candidate_image.norm"])["candidate_image.norm"] is stored


# -- the control ------------------------------------------------------------------------------------------------------


def test_shuffled_edges_keep_their_weights_and_lead_elsewhere():
    plain, shuffled = builder_of(), builder_of(settings=SHUFFLED)
    led: dict[str, set[tuple[int, int]]] = {"image": set(), "report": set()}
    for one in asked_at_random(30):
        known, chance = build(plain, **(one | {"excluded": ()})), build(shuffled, **(one | {"excluded": ()}))
        for r in RELATIONS:
            if r.name != "candidate_candidate":  # of which one may lead back to where it ends
                assert np.array_equal(known.edges[r.name].weight, chance.edges[r.name].weight)
                assert np.array_equal(known.edges[r.name].idx < 0, chance.edges[r.name].idx < 0)
            if r in ARCHIVE_RELATIONS:
                led[r.source] |= set(zip(known.edges[r.name].idx.flat, chance.edges[r.name].idx.flat, strict=True))
    for pairs in led.values():
        # One item for one item: as many edges lead from each, so that nothing but who is who is lost.
        assert len({source for source, _ in pairs}) == len({source for _, source in pairs}) == len(pairs)
        assert sum(known != chance for known, chance in pairs) > len(pairs) / 2


def test_of_shuffled_edges_those_from_excluded_studies_fall_away():
    """As of the true ones: the others move up, with the weights of their own places in the table."""
    builder, shuffled = builder_of(), builder_of(settings=SHUFFLED)
    whole = replace(SETTINGS, neighbours=4, shuffled=True)  # as many as the table holds
    everything = build(builder_of(settings=whole))
    for excluded in ([1], [0, 4], [2, 3, 5]):
        graph, plain = build(shuffled, excluded=excluded), build(builder, excluded=excluded)
        for m in Modality:
            table = everything.edges[f"candidate_{m}"]
            for row, sources in enumerate(idx(graph, f"candidate_{m}")):
                left = [place for place, source in enumerate(table.idx[row]) if source not in excluded][:2]
                assert sources == [*table.idx[row, left], -1, -1][:2]
                weights = [*table.weight[row, left], 0.0, 0.0][:2]
                assert graph.edges[f"candidate_{m}"].weight[row].tolist() == weights
        assert not same(graph, plain)


@pytest.mark.parametrize("count", range(2, 7))
def test_shuffled_candidates_hear_from_other_candidates(count):
    """An edge that chance leads back to where it ends is dropped; the others keep their places and weights."""
    some = Candidates(rows=np.arange(count), cosines=np.linspace(0.9, 0.4, count, dtype=np.float32))
    plain, chance = (
        build(serving_builder(s), candidates=some).edges["candidate_candidate"] for s in (SETTINGS, SHUFFLED)
    )
    led: dict[int, set[int]] = {}
    for node, places in enumerate(plain.idx.tolist()):
        for slot, place in enumerate(places):
            found, weight = chance.idx[node, slot], chance.weight[node, slot]
            assert found != node
            if found < 0:
                assert weight == 0.0
            else:
                assert weight == plain.weight[node, slot]
                led.setdefault(place, set()).add(int(found))
    targets = [target for found in led.values() for target in found]
    assert len(targets) == len(set(targets)) == len(led)  # one candidate for one candidate
    assert set(targets) <= set(range(count))


def test_some_shuffled_edges_among_candidates_are_dropped_and_most_are_not():
    """As many as there would have been edges to oneself: or the test above would see nothing."""
    dropped = kept = 0
    for count in range(2, 7):
        some = Candidates(rows=np.arange(count), cosines=np.linspace(0.9, 0.4, count, dtype=np.float32))
        plain, chance = (
            build(serving_builder(s), candidates=some).edges["candidate_candidate"].idx for s in (SETTINGS, SHUFFLED)
        )
        dropped += int(((plain >= 0) & (chance < 0)).sum())
        kept += int((chance >= 0).sum())
    assert 0 < dropped < kept


def test_shuffled_graphs_are_the_same_again():
    asked = asked_at_random(6)
    first, again = builder_of(settings=SHUFFLED), builder_of(settings=SHUFFLED)
    assert all(same(build(first, **one), build(again, **one)) for one in asked)


# -- the builder itself -----------------------------------------------------------------------------------------------


def test_four_threads_build_the_graphs_of_one():
    builder = builder_of()
    asked = asked_at_random(200)
    alone = [build(builder_of(), **one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: build(builder, **one), asked))
    assert all(same(left, right) for left, right in zip(alone, together, strict=True))


def test_settings_survive_json():
    assert GraphSettings.from_json(json.loads(json.dumps(asdict(SHUFFLED)))) == SHUFFLED
    with pytest.raises(TypeError, match="pairs"):
        GraphSettings.from_json(asdict(SETTINGS) | {"pairs": 2})
