"""The builder on an archive of six studies, whose images and reports lie on a circle: near in degrees is alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.pyg import edges_of, gcn_norm
from radrank.core.graph import (
    NODE_TYPES,
    RELATIONS,
    Candidates,
    Graph,
    GraphBatch,
    GraphBuilder,
    GraphSettings,
    bucket,
)
from radrank.core.nodes import Nodes, exact_gallery, exact_nodes
from radrank.core.studies import Modality
from radrank.core.vectors import exact_neighbours, unit

IMAGE, REPORT = Modality.IMAGE, Modality.REPORT
SETTINGS = GraphSettings(
    neighbours=2,
    table_width=4,
    query_neighbours=2,
    query_candidates=2,
    pairs=1,
    candidate_buckets=(4, 8),
    node_buckets=(8, 16, 32),
)
ARCHIVE = (0, 10, 21, 33, 46, 60)  # degrees of studies 0 to 5
GALLERY = (6, 40, 90)  # degrees of studies 10, 11, 12
NORMAL = (1, -1, 0, 1, -1, 0)
QUERY = 4  # an image at four degrees, of study 10


def circle(degrees: Sequence[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return unit(np.stack([np.cos(radians), np.sin(radians)], axis=1))


def cosine(*degrees: float | None) -> list[float]:
    """Cosines of differences in degrees, 0 for None."""
    return pytest.approx([0.0 if d is None else float(np.cos(np.deg2rad(d))) for d in degrees], abs=1e-6)


def archive_of(settings: GraphSettings = SETTINGS) -> dict[Modality, Nodes]:
    return exact_nodes(
        vectors=dict.fromkeys(Modality, circle(ARCHIVE)),
        studies=dict.fromkeys(Modality, np.arange(6, dtype=np.int32)),
        normal=dict.fromkeys(Modality, np.array(NORMAL, dtype=np.int8)),
        width=settings.table_width,
        pairs=settings.pairs,
    )


def builder_of(archive: Mapping[Modality, Nodes] | None = None, settings: GraphSettings = SETTINGS) -> GraphBuilder:
    archive = archive or archive_of(settings)
    gallery = exact_gallery(
        vectors=dict.fromkeys(Modality, circle(GALLERY)),
        studies=dict.fromkeys(Modality, np.arange(10, 13, dtype=np.int32)),
        archive=dict(archive),
        width=settings.table_width,
    )
    return GraphBuilder(gallery=gallery, archive=archive, settings=settings)


def nearest(query: float, degrees: Sequence[float], k: int) -> Candidates:
    rows, cosines = exact_neighbours(circle([query]), circle(degrees), k)
    return Candidates(rows=rows[0], cosines=cosines[0])


def build(builder: GraphBuilder, *, target: Modality = REPORT, k: int = 2, **changes: object) -> Graph:
    """The graph of QUERY with its k nearest gallery items of the target."""
    near = nearest(QUERY, ARCHIVE, builder.settings.query_neighbours)
    asked: dict[str, object] = {
        "query": circle([QUERY])[0],
        "query_modality": IMAGE,
        "target": target,
        "candidates": nearest(QUERY, GALLERY, k),
        "bridges": dict.fromkeys(Modality, near),
    }
    return builder.build(**(asked | changes))  # type: ignore[arg-type]


def idx(graph: Graph, relation: str) -> list[list[int]]:
    return graph.edges[relation].idx.tolist()


def same(left: Graph, right: Graph) -> bool:
    return all(
        np.array_equal(left.edges[r.name].idx, right.edges[r.name].idx)
        and np.array_equal(left.edges[r.name].weight, right.edges[r.name].weight)
        for r in RELATIONS
    ) and all(np.array_equal(left.archive_rows[m], right.archive_rows[m]) for m in Modality)


# -- what is in the graph ---------------------------------------------------------------------------------------------


def test_nodes_are_the_candidates_then_the_archive_around_them_and_the_query():
    graph = build(builder_of())
    assert graph.candidates.rows.tolist() == [0, 1]
    # 0 and 1 lie about the query and the candidate at 6 degrees, 3 and 4 about the candidate at 40.
    assert {m: graph.archive_rows[m].tolist() for m in Modality} == {IMAGE: [0, 1, 3, 4], REPORT: [0, 1, 3, 4]}
    assert (graph.size(REPORT), graph.size(IMAGE)) == (6, 4)


def test_candidates_hear_from_their_nearest_in_the_archive():
    graph = build(builder_of())
    assert idx(graph, "report_report")[:2] == [[3, 2], [5, 4]]  # archive reports stand after two candidates
    assert graph.edges["report_report"].weight[0].tolist() == cosine(4, 6)
    assert idx(graph, "report_image")[:2] == [[1, 0], [3, 2]]  # archive images stand first: no image is ranked
    assert graph.edges["report_image"].weight[1].tolist() == cosine(6, 7)


def test_archive_nodes_hear_from_their_neighbours_in_this_graph_and_never_from_candidates():
    graph = build(builder_of())
    # 0: 10, 33; 10: 0, 33; 33: 46, 10; 46: 33, 10 degrees. 21 and 60 are not here.
    assert idx(graph, "image_image") == [[1, 2], [0, 2], [3, 1], [2, 1]]
    assert idx(graph, "report_report")[2:] == [[3, 4], [2, 4], [5, 3], [4, 3]]
    assert graph.edges["image_report"].weight[2].tolist() == cosine(13, 23)
    assert (graph.edges["image_report"].idx >= 2).all()


def test_only_archive_studies_have_paired_edges():
    graph = build(builder_of())
    assert idx(graph, "report_paired") == [[-1], [-1], [0], [1], [2], [3]]
    assert idx(graph, "image_paired") == [[2], [3], [4], [5]]
    assert graph.edges["report_paired"].weight.tolist() == [[0], [0], [1], [1], [1], [1]]


def test_the_pairs_of_the_querys_neighbours_come_along():
    far = {REPORT: nearest(60, ARCHIVE, 2), IMAGE: nearest(QUERY, ARCHIVE, 2)}
    graph = build(builder_of(), bridges=far)
    assert set(far[REPORT].rows.tolist()) == {4, 5}
    assert graph.archive_rows[IMAGE].tolist() == [0, 1, 3, 4, 5]  # 5 by its report alone
    assert idx(graph, "report_paired")[-1] == [4]


def test_the_query_hears_from_its_neighbours_and_its_first_candidates():
    graph = build(builder_of(), k=3)
    assert idx(graph, "query_report") == [[3, 4, 0, 1]]
    assert graph.edges["query_report"].weight[0].tolist() == cosine(4, 6, 2, 36)
    assert idx(graph, "query_image") == [[0, 1, -1, -1]]


def test_candidates_and_the_querys_neighbours_hear_from_the_query():
    graph = build(builder_of(), k=3)
    assert idx(graph, "report_query") == [[0], [0], [0], [0], [0], [-1], [-1], [-1]]
    assert graph.edges["report_query"].weight[:, 0].tolist() == cosine(2, 36, 86, 4, 6, None, None, None)
    assert idx(graph, "image_query") == [[0], [0], [-1], [-1], [-1]]


def test_similarities_below_zero_weigh_nothing():
    away = Candidates(rows=np.array([0]), cosines=np.array([-0.5], dtype=np.float32))
    graph = build(builder_of(), candidates=away)
    assert graph.edges["report_query"].weight[0, 0] == 0.0
    assert all((edges.weight >= 0).all() for edges in graph.edges.values())


@pytest.mark.parametrize("target", list(Modality))
@pytest.mark.parametrize("k", [1, 3])
def test_in_degrees_are_the_settings_whatever_the_graph(target, k):
    graph = build(builder_of(), target=target, k=k)
    degrees = {"paired": 1, "query": 1}
    sizes = {"query": 1, **{m.value: graph.size(m) for m in Modality}}
    for r in RELATIONS:
        degree = 4 if r.target == "query" else degrees.get(r.name.split("_")[1], 2)
        assert graph.edges[r.name].idx.shape == graph.edges[r.name].weight.shape == (sizes[r.target], degree)
        assert (graph.edges[r.name].idx < sizes[r.source]).all()


def test_an_empty_archive_leaves_the_query_and_its_candidates():
    nothing = exact_nodes(
        vectors=dict.fromkeys(Modality, circle([])),
        studies=dict.fromkeys(Modality, np.empty(0, np.int32)),
        normal=dict.fromkeys(Modality, np.empty(0, np.int8)),
        width=4,
        pairs=1,
    )
    builder = builder_of(nothing)
    graph = build(builder, bridges=dict.fromkeys(Modality, nearest(QUERY, [], 2)))
    assert (graph.size(REPORT), graph.size(IMAGE)) == (2, 0)
    assert idx(graph, "report_report") == [[-1, -1], [-1, -1]]
    assert builder.batch([graph]).arrays["base"][0, :2].tolist() == cosine(2, 36)


# -- who is left out --------------------------------------------------------------------------------------------------


def test_an_excluded_study_contributes_nothing_and_the_tables_surplus_replaces_it():
    graph = build(builder_of(), excluded=[1])
    assert {m: graph.archive_rows[m].tolist() for m in Modality} == {IMAGE: [0, 2, 3, 4], REPORT: [0, 2, 3, 4]}
    assert idx(graph, "report_report")[0] == [2, 3]  # studies 0 and 2 for studies 1 and 0
    assert graph.edges["report_report"].weight[0].tolist() == cosine(6, 15)
    assert idx(graph, "query_report")[0][:2] == [2, -1]
    assert idx(graph, "report_paired") == [[-1], [-1], [0], [1], [2], [3]]


def test_an_excluded_study_is_still_ranked_where_it_is_a_candidate():
    """In serving, gallery and archive are the same items."""
    archive = archive_of()
    builder = GraphBuilder(gallery=archive, archive=archive, settings=SETTINGS)
    graph = build(builder, candidates=nearest(QUERY, ARCHIVE, 2), excluded=[0])
    assert graph.candidates.rows.tolist() == [0, 1]
    assert 0 not in graph.archive_rows[REPORT]
    assert 0 not in graph.archive_rows[IMAGE]
    assert idx(graph, "report_paired")[:2] == [[-1], [-1]]
    assert (builder.batch([graph]).arrays["report_scalars"][0, :2, 4] == 0).all()


def test_no_archive_node_of_an_excluded_study_is_left_for_any_exclusion():
    builder = builder_of()
    for shunned in ([0], [0, 1], [3, 4], range(6)):
        graph = build(builder, target=IMAGE, excluded=list(shunned))
        for m in Modality:
            assert not set(graph.archive_rows[m].tolist()) & set(shunned)


def test_a_dead_row_counts_as_one_that_was_never_there():
    dead = np.array([True, False, True, True, True, True])
    archive = {m: replace(nodes, alive=dead) for m, nodes in archive_of().items()}
    assert same(build(builder_of(archive)), build(builder_of(), excluded=[1]))


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_a_bucket_is_the_smallest_that_holds():
    assert [bucket(n, (4, 8)) for n in (0, 4, 5, 8, 9)] == [4, 4, 8, 8, 9]


def test_a_batch_is_padded_to_buckets():
    builder = builder_of()
    batch = builder.batch([build(builder), build(builder, target=IMAGE, k=3)])
    assert batch.candidates == (2, 3)
    assert {name: array.shape for name, array in batch.arrays.items() if "." not in name} == {
        "query": (2, 2),
        "query_scalars": (2, 2),
        "image": (2, 8, 2),
        "image_scalars": (2, 8, 5),
        "report": (2, 8, 2),
        "report_scalars": (2, 8, 5),
        "slots": (2, 4),
        "base": (2, 4),
    }
    assert batch.arrays["report_report.idx"].shape == (2, 8, 2)
    assert batch.arrays["slots"].tolist() == [[8, 9, -1, -1], [0, 1, 2, -1]]
    assert batch.arrays["base"][0].tolist() == cosine(2, 36, None, None)
    assert (batch.arrays["report_report.idx"][0, 6:] == -1).all()
    assert not batch.arrays["report"][0, 6:].any()
    assert {str(array.dtype) for array in batch.arrays.values()} == {"float32", "int64"}


def test_what_is_known_of_a_node():
    builder = builder_of()
    arrays = builder.batch([build(builder)]).arrays
    assert arrays["query_scalars"].tolist() == [[1, 0]]
    candidates, archive = arrays["report_scalars"][0, :2], arrays["report_scalars"][0, 2:6]
    assert candidates[:, 0].tolist() == cosine(2, 36)
    assert candidates[:, 1].tolist() == pytest.approx([1, -1], abs=1e-5)  # two of them: one deviation either side
    assert candidates[:, 2].tolist() == [1, 1]
    assert candidates[:, 3].tolist() == pytest.approx([1, 2**-0.5])
    assert candidates[:, 4].tolist() == [0, 0]
    assert archive[:, 0].tolist() == cosine(4, 6, 29, 42)
    assert not archive[:, 1:4].any()
    assert archive[:, 4].tolist() == [1, -1, 1, -1]


def test_a_graph_is_the_same_alone_and_in_a_batch():
    builder = builder_of()
    graphs = [build(builder), build(builder, target=IMAGE), build(builder, excluded=[0, 1])]
    together = builder.batch(graphs).arrays
    for row, graph in enumerate(graphs):
        assert all(
            np.array_equal(array[0], together[name][row]) for name, array in builder.batch([graph]).arrays.items()
        )


def test_norm_is_pygs_gcn_norm():
    """A path of four images, 0 – 1 – 2 – 3, and a graph of two beside it; symmetric, as PyG's degrees suppose."""
    table = np.array([[[1, -1], [0, 2], [1, 3], [2, -1]], [[1, -1], [0, -1], [-1, -1], [-1, -1]]])
    weight = np.array([[[0.5, 0], [0.5, 0.8], [0.8, 0.2], [0.2, 0]], [[0.9, 0], [0.9, 0], [0, 0], [0, 0]]], np.float32)
    arrays = {"image_image.idx": table, "image_image.weight": weight, "image": np.zeros((2, 4, 2), np.float32)}
    batch = GraphBatch(arrays=arrays, candidates=(1, 1))
    index, weights = edges_of(torch.from_numpy(table), torch.from_numpy(weight), 4)
    _, expected = gcn_norm(index, weights, num_nodes=8, add_self_loops=False)
    norm = batch.norm("image_image")
    np.testing.assert_allclose(norm[table >= 0], expected, atol=1e-6)
    assert not norm[table < 0].any()
    assert norm[0, 1, 1] == pytest.approx(0.8 / np.sqrt(1.3 * 1.0))
    assert batch.feed(["image_image.norm"])["image_image.norm"] is norm


def test_norm_between_two_types_divides_by_the_degrees_at_either_end():
    builder = builder_of()
    batch = builder.batch([build(builder)])
    table, weight = batch.arrays["report_image.idx"][0], batch.arrays["report_image.weight"][0]
    image = int(table[0, 0])
    leaving, arriving = weight[table == image].sum(), weight[0].sum()
    assert batch.norm("report_image")[0, 0, 0] == pytest.approx(weight[0, 0] / np.sqrt(leaving * arriving))


# -- the builder itself -----------------------------------------------------------------------------------------------


def random_graphs(builder: GraphBuilder, count: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    asked = []
    for place in range(count):
        query = float(rng.uniform(0, 70))
        asked.append(
            {
                "query": circle([query])[0],
                "target": list(Modality)[place % 2],
                "candidates": nearest(query, GALLERY, 1 + place % 3),
                "bridges": dict.fromkeys(Modality, nearest(query, ARCHIVE, 2)),
                "excluded": rng.choice(6, place % 3, replace=False).tolist(),
            }
        )
    return asked


def test_four_threads_build_the_graphs_of_one():
    builder = builder_of()
    asked = random_graphs(builder, 200)
    alone = [build(builder_of(), **one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: build(builder, **one), asked))
    assert all(same(left, right) for left, right in zip(alone, together, strict=True))


def test_a_build_that_fails_leaves_nothing_for_the_next(monkeypatch):
    builder = builder_of()
    expected = build(
        builder_of(), candidates=nearest(70, GALLERY, 1), bridges=dict.fromkeys(Modality, nearest(60, ARCHIVE, 1))
    )
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_paired", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(builder)
    found = build(builder, candidates=nearest(70, GALLERY, 1), bridges=dict.fromkeys(Modality, nearest(60, ARCHIVE, 1)))
    assert same(found, expected)
    assert all((places == -1).all() for places in builder._scratch.places.values())


def test_relations_join_the_node_types_there_are():
    assert {r.target for r in RELATIONS} | {r.source for r in RELATIONS} == set(NODE_TYPES)
    assert len({r.name for r in RELATIONS}) == len(RELATIONS)


def test_settings_survive_json():
    import json
    from dataclasses import asdict

    assert GraphSettings.from_json(json.loads(json.dumps(asdict(SETTINGS)))) == SETTINGS
    with pytest.raises(TypeError, match="depth"):
        GraphSettings.from_json({"depth": 3})
