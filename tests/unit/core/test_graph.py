"""Graphs on an archive of six studies: which edges, from whom, and how heavy."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers.circle import (
    ARCHIVE,
    IMAGE,
    LAYOUT,
    QUERY_DEGREES,
    REPORT,
    SETTINGS,
    SHUFFLED,
    archive_of,
    archive_rows,
    asked_at_random,
    build,
    builder_of,
    cosine,
    heard,
    idx,
    nearest,
    same,
    serving_builder,
)
from radrank.core.graph import (
    ARCHIVE_RELATIONS,
    CANDIDATE,
    NODE_TYPES,
    QUERY,
    RELATIONS,
    Candidates,
    GraphBuilder,
    GraphSettings,
)

# -- what is in the graph ---------------------------------------------------------------------------------------------
from radrank.core.nodes import exact_nodes
from radrank.core.studies import Modality
from radrank.core.vectors import unit


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
