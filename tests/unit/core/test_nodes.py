from __future__ import annotations

import numpy as np
import pytest

from helpers.doubles import LAYOUT, joined
from radrank.core.nodes import (
    Column,
    exact_gallery,
    exact_nodes,
    facts_of,
    first_kept,
    neighbour_table,
    paired_rows,
)
from radrank.core.studies import Modality

IMAGE, REPORT = Modality.IMAGE, Modality.REPORT


def i32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_a_column_takes_from_its_base_and_from_its_fresh_rows():
    column = Column(np.array([[1, 1], [2, 2]]), np.array([[3, 3]]))
    assert len(column) == 3
    assert column.whole.tolist() == [[1, 1], [2, 2], [3, 3]]
    assert column.take(np.array([2, 0])).tolist() == [[3, 3], [1, 1]]
    assert column.take(np.array([[1, 2], [2, 1]])).tolist() == [[[2, 2], [3, 3]], [[3, 3], [2, 2]]]
    assert Column(column.base).take(np.array([1])).tolist() == [[2, 2]]


def test_fresh_texts_may_be_longer_than_those_before():
    column = Column(np.array([b"S1", b"S2"]), np.array([b"S10000"]))
    assert column.take(np.array([2, 0])).tolist() == [b"S10000", b"S1"]


def test_first_kept_closes_gaps_in_order():
    rows, values = np.array([[4, 5, 6, 7]]), f32(0.9, 0.8, 0.7, 0.6)[None]
    kept = first_kept(rows, values, np.array([[False, True, False, True]]), 2)
    assert kept[0].tolist() == [[5, 7]]
    assert kept[1].tolist() == [f32(0.8, 0.6).tolist()]


def test_first_kept_fills_up_with_nothing():
    rows, values, keep = np.array([[4, 5]]), f32(0.9, 0.8)[None], np.array([[False, True]])
    assert [part.tolist() for part in first_kept(rows, values, keep, 3)] == [[[5, -1, -1]], [[f32(0.8)[0], 0.0, 0.0]]]
    none = first_kept(np.empty((2, 0), np.int64), np.empty((2, 0), np.float32), np.empty((2, 0), bool), 2)
    assert none[0].tolist() == [[-1, -1], [-1, -1]]


def test_first_kept_keeps_all_where_all_are_kept():
    rows, values = np.array([[4, 5, 6]]), f32(0.9, 0.8, 0.7)[None]
    assert first_kept(rows, values, np.ones((1, 3), bool), 2)[0].tolist() == [[4, 5]]


def test_a_neighbour_table_drops_the_own_study():
    rows = np.array([[0, 1, 2, 3], [2, 3, 0, 1]])
    cosines = np.array([[0.9, 0.8, 0.7, 0.6]] * 2, np.float32)
    found, weights = neighbour_table(rows, cosines, i32(7, 8), i32(7, 7, 8, 9), 2)
    assert found.tolist() == [[2, 3], [3, 0]]
    np.testing.assert_array_equal(weights, f32(0.7, 0.6, 0.8, 0.7).reshape(2, 2))
    assert (found.dtype, weights.dtype) == (np.int32, np.float32)


def test_a_neighbour_table_of_nothing_is_padding():
    nothing = np.empty((2, 0), np.int64), np.empty((2, 0), np.float32)
    assert neighbour_table(*nothing, i32(7, 8), i32(), 2)[0].tolist() == [[-1, -1], [-1, -1]]


def test_a_column_of_numbers_takes_numbers():
    column = Column(i32(7, 8), i32(9))
    assert len(column) == 3
    assert column.take(np.array([2, 0])).tolist() == [9, 7]


def test_a_paired_row_is_that_of_the_same_study_and_its_first():
    reports, images = i32(5, 3, 9), i32(3, 5, 3, 3)
    assert paired_rows(reports, images).tolist() == [1, 0, -1]
    assert paired_rows(images, reports).tolist() == [1, 0, 1, 1]
    assert paired_rows(reports, i32()).tolist() == [-1, -1, -1]
    assert paired_rows(i32(), reports).tolist() == []
    assert paired_rows(reports, images).dtype == np.int32


def test_a_study_past_all_others_has_no_pair():
    assert paired_rows(i32(100), i32(5, 3)).tolist() == [-1]


def vectors_of(rng: np.random.Generator, count: int, m: Modality) -> np.ndarray:
    return joined(rng.normal(size=(count, LAYOUT.projection)), rng.random((count, 5)) / 2, m)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    studies = {IMAGE: np.sort(rng.integers(0, 12, 30)).astype(np.int32), REPORT: np.arange(12, dtype=np.int32)}
    vectors = {m: vectors_of(rng, len(studies[m]), m) for m in Modality}
    normal = {m: np.where(studies[m] % 2, 1, -1).astype(np.int8) for m in Modality}
    findings = {m: (rng.random((len(studies[m]), 5)) < 0.5).astype(np.uint8) for m in Modality}
    return exact_nodes(vectors=vectors, studies=studies, normal=normal, findings=findings, layout=LAYOUT, width=5)


@pytest.mark.parametrize("m", list(Modality))
@pytest.mark.parametrize("among", list(Modality))
def test_exact_tables_hold_the_nearest_of_other_studies(world, m, among):
    table = world[m].same if m is among else world[m].cross
    cosines = world[m].vectors.base @ world[among].vectors.base.T
    for row, own in enumerate(world[m].study):
        others = [j for j in np.argsort(-cosines[row], kind="stable") if world[among].study[j] != own]
        assert table.rows.base[row].tolist() == others[:5]
        np.testing.assert_allclose(table.cosines.base[row], cosines[row, others[:5]], atol=1e-6)


def test_a_gallery_brings_neighbours_in_the_archive_but_neither_pairs_nor_labels(world):
    rng = np.random.default_rng(1)
    own = np.arange(100, 104, dtype=np.int32)
    vectors = {m: vectors_of(rng, 4, m) for m in Modality}
    studies = dict.fromkeys(Modality, own)
    gallery = exact_gallery(vectors=vectors, studies=studies, archive=world, layout=LAYOUT, width=5)
    for m in Modality:
        facts = gallery[m].facts.base
        assert np.array_equal(facts[:, :5], LAYOUT.beliefs(vectors[m]))
        assert facts.shape == (4, 15)
        assert not facts[:, 5:].any()
        assert not gallery[m].normal.any()
        assert np.array_equal(gallery[m].cross.rows.base[:, 0], (vectors[m] @ world[m.other].vectors.base.T).argmax(1))


def test_exact_nodes_tell_what_is_believed_of_the_first_item_of_the_same_study(world):
    for m in Modality:
        nodes, other = world[m], world[m.other]
        believed = LAYOUT.beliefs(other.vectors.base)
        for row, facts in enumerate(nodes.facts.base):
            same = np.flatnonzero(other.study == nodes.study[row])
            assert np.array_equal(facts[5:10], believed[same[0]] if len(same) else np.zeros(5))


# -- facts ------------------------------------------------------------------------------------------------------------


BELIEFS = {IMAGE: f32(0.9, 0.1, 0.2, 0.8, 0.5, 0.5).reshape(3, 2), REPORT: f32(0.3, 0.7, 0.6, 0.4).reshape(2, 2)}
FINDINGS = np.array([[1, 0], [0, 1], [0, 0]], np.uint8)


def test_facts_are_the_own_beliefs_the_pairs_and_the_findings():
    told = facts_of(BELIEFS[IMAGE], BELIEFS[REPORT], i32(1, 0, -1), FINDINGS)
    assert told.dtype == np.float32
    np.testing.assert_array_equal(told[:2], [f32(0.9, 0.1, 0.6, 0.4, 1, 0), f32(0.2, 0.8, 0.3, 0.7, 0, 1)])


def test_without_a_pair_there_are_zeros_in_its_place():
    told = facts_of(BELIEFS[IMAGE], BELIEFS[REPORT], i32(1, 0, -1), FINDINGS)
    np.testing.assert_array_equal(told[2], f32(0.5, 0.5, 0, 0, 0, 0))
    lonely = facts_of(BELIEFS[IMAGE], np.empty((0, 2), np.float32), i32(-1, -1, -1), FINDINGS)
    np.testing.assert_array_equal(lonely[0], f32(0.9, 0.1, 0, 0, 1, 0))


def test_facts_of_nothing_are_none():
    nothing = np.empty((0, 2), np.float32)
    assert facts_of(nothing, nothing, i32(), np.empty((0, 2), np.uint8)).shape == (0, 6)


def test_beliefs_are_the_first_third_of_the_facts(world):
    rows = np.array([[3, 0], [1, 3]])
    for nodes in world.values():
        assert np.array_equal(nodes.beliefs(rows), LAYOUT.beliefs(nodes.vectors.base)[rows])
