"""Graphs as arrays: buckets, padding, what nodes bring, and norms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.circle import (
    ARCHIVE,
    FINDINGS,
    GALLERY,
    IMAGE,
    LAYOUT,
    REPORT,
    SETTINGS,
    archive_of,
    asked_at_random,
    beliefs_of,
    build,
    builder_of,
    cosine,
    heard,
    nearest,
    serving_builder,
)
from helpers.doubles import joined
from radrank.core.graph import (
    ARCHIVE_RELATIONS,
    CANDIDATE,
    DIRECTIONS,
    RELATIONS,
    TOLD_RELATIONS,
    Candidates,
    GraphBuilder,
    bucket,
)
from radrank.core.shapes import around_shapes, batch_shapes, told_shapes
from radrank.core.studies import Modality


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


@pytest.mark.parametrize("count", [1, 3])
def test_shapes_are_known_before_there_is_a_graph(count):
    builder = builder_of()
    batch = builder.batch([build(builder, k=3)] * count)
    shapes = batch_shapes(LAYOUT, builder.settings, graphs=count, candidates=4)
    made = batch.feed(shapes)
    assert {name: array.shape for name, array in made.items()} == shapes
    assert set(batch.arrays) <= set(shapes)


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


def test_a_batch_with_messages_is_the_same_built_so_or_made_of_a_whole_one():
    builder = builder_of()
    asked = asked_at_random(12)
    graphs = [builder.build(**one) for one in asked]
    whole = builder.batch(graphs)
    messages = np.random.default_rng(0).random((*whole.arrays["base"].shape, 5), dtype=np.float32)
    messages *= whole.arrays["mask"][:, :, None]
    told = [one | {"messages": each[: len(one["candidates"])]} for one, each in zip(asked, messages, strict=True)]
    built = builder.batch([builder.build(**one) for one in told])
    made = whole.told(messages)
    assert set(built.arrays) == set(made.arrays)
    assert not [name for name in built.arrays if name.endswith(".idx")]
    near = builder.settings.query_neighbours
    for name, array in built.arrays.items():
        other = made.arrays[name]
        if name in list(Modality):
            assert len(array) == len(graphs) * near
            there = whole.arrays[f"query_{name}.idx"].ravel() >= 0
            array, other = array[there], other[there]  # what stands where there is no edge is never read
        np.testing.assert_allclose(array, other, rtol=1e-6, err_msg=name)


def test_beside_messages_too_the_first_of_equal_candidates_are_heard():
    degrees = (0, 10, 10, 10, 60)
    archive = archive_of(degrees)
    builder = GraphBuilder(gallery=archive, archive=archive, layout=LAYOUT, settings=SETTINGS)
    made = build(builder, candidates=nearest(0, degrees, 5), messages=np.zeros((5, 1), np.float32))
    neighbours = [np.flatnonzero(row).tolist() for row in made.dense["candidate_candidate"]]
    assert neighbours == [[1, 2], [2, 3], [1, 3], [1, 2], [1, 2]]


def test_matrices_hold_the_mean_of_every_edge_at_its_place():
    builder = builder_of()
    whole = builder.batch([build(builder), build(builder, k=3)])
    made = whole.told(np.zeros((2, 4, 1), np.float32)).arrays
    for name in ("candidate_candidate", "query_candidate"):
        idx, weight = whole.arrays[f"{name}.idx"], whole.arrays[f"{name}.weight"]
        expected = np.zeros((*idx.shape[:2], 4))
        for b, n, k in np.argwhere(idx >= 0):
            expected[b, n, idx[b, n, k]] += weight[b, n, k] / (idx[b, n] >= 0).sum()
        assert expected.any()
        np.testing.assert_allclose(made[f"{name}.dense"], expected, atol=1e-7)
    for m in Modality:
        idx, weight = whole.arrays[f"query_{m}.idx"], whole.arrays[f"query_{m}.weight"]
        counts = np.maximum((idx >= 0).sum(axis=2, keepdims=True), 1)
        np.testing.assert_allclose(made[f"query_{m}.mean"], weight / counts, atol=1e-7)


def test_where_there_is_no_edge_no_other_is_touched():
    builder = builder_of()
    whole = builder.batch([build(builder, k=3)])
    among = {
        "candidate_candidate.idx": np.array([[[3, 1], [2, -1], [0, 1], [0, -1]]]),
        "candidate_candidate.weight": np.array([[[0.6, 0.4], [0.5, 0.0], [0.2, 0.4], [0.3, 0.0]]], np.float32),
    }
    made = replace(whole, arrays=whole.arrays | among).told(np.zeros((1, 4, 1), np.float32))
    expected = [[0, 0.2, 0, 0.3], [0, 0, 0.5, 0], [0.1, 0.2, 0, 0], [0.3, 0, 0, 0]]
    np.testing.assert_allclose(made.arrays["candidate_candidate.dense"], [expected], atol=1e-7)


def test_a_node_with_fewer_edges_than_slots_takes_their_mean():
    builder = builder_of()
    lone = builder.batch([build(builder, k=2)]).told(np.zeros((1, 4, 1), np.float32)).arrays
    among = lone["candidate_candidate.dense"][0]
    assert np.count_nonzero(among) <= 2  # two candidates, each of which hears from the other
    assert among[0, 1] == among[1, 0]
    assert not among[2:].any()


@pytest.mark.parametrize("count", [1, 3])
def test_told_and_around_shapes_are_what_is_made(count):
    builder = builder_of()
    whole = builder.batch([build(builder, k=3)] * count)
    sizes = {"graphs": count, "candidates": 4}
    made = whole.told(np.zeros((count, 4, 7), np.float32))
    assert {n: a.shape for n, a in made.arrays.items()} == told_shapes(LAYOUT, builder.settings, **sizes, messages=7)
    shapes = around_shapes(LAYOUT, builder.settings, **sizes)
    heard = whole.hearing(TOLD_RELATIONS)
    assert {name: heard.arrays[name].shape for name in shapes} == shapes


def test_what_is_around_items_is_what_candidates_hear():
    builder = builder_of()
    graph = build(builder, k=3)
    whole, around = builder.batch([graph]).hearing(TOLD_RELATIONS), builder.around(REPORT, graph.candidates.rows)
    assert graph.target == REPORT
    assert around.candidates == (3,)
    for r in TOLD_RELATIONS:
        np.testing.assert_array_equal(heard(around, r.name), heard(whole, r.name), err_msg=r.name)
        for name in (f"{r.name}.idx", f"{r.name}.weight"):
            np.testing.assert_array_equal(around.arrays[name], whole.arrays[name], err_msg=name)
