from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from radrank.core.relevance import gains, jaccard, label_matrix, ndcg, reciprocal_rank
from radrank.core.studies import Study

GROUPS = ("edema", "opacity")
NORMAL = Study(study_id="a", normal=True)
OPACITY = Study(study_id="b", labels=("opacity",), normal=False)
BOTH = Study(study_id="c", labels=("edema", "opacity"), normal=False)
EDEMA = Study(study_id="d", labels=("edema",), normal=False)
UNKNOWN = Study(study_id="e")
STUDIES = (NORMAL, OPACITY, BOTH, EDEMA, UNKNOWN)
LABELS = label_matrix(STUDIES, GROUPS)


def test_labels_are_normal_then_a_column_a_group():
    assert LABELS.astype(int).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_jaccard_is_the_overlap_of_two_sets_and_nothing_overlaps_the_empty_one():
    assert jaccard(LABELS, LABELS).tolist() == [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.5, 0.0, 0.0],
        [0.0, 0.5, 1.0, 0.5, 0.0],
        [0.0, 0.0, 0.5, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
    ]


def test_a_pair_gains_three_identical_findings_two_a_shared_one_one():
    queries = np.array([1, 4])  # opacity; unknown
    found = gains(LABELS[queries], LABELS[[1, 1, 2, 3, 0, 4]], np.array([1, 4]), np.array([1, 8, 2, 3, 0, 4]))
    assert found.tolist() == [[3, 2, 1, 0, 0, 0], [0, 0, 0, 0, 0, 3]]


def test_two_normal_studies_are_alike():
    assert gains(LABELS[:1], LABELS[[0, 1]], np.array([0]), np.array([9, 1])).tolist() == [[2, 0]]


def test_ndcg_by_hand():
    ranked = np.array([[1.0, 3.0, 0.0, 2.0]], np.float32)
    found = 1 / np.log2(2) + 3 / np.log2(3)
    best = 3 / np.log2(2) + 2 / np.log2(3)
    assert ndcg(ranked, ranked, 2)[0] == pytest.approx(found / best)
    assert ndcg(-np.sort(-ranked), ranked, 2)[0] == 1.0


def test_ndcg_counts_what_the_candidates_miss():
    ranked, ideal = np.array([[2.0]], np.float32), np.array([[2.0, 0.0, 2.0]], np.float32)
    assert ndcg(ranked, ideal, 10)[0] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_ndcg_of_a_query_with_nothing_to_find_is_zero():
    assert ndcg(np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32), 3).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_ndcg_is_scikit_learns(k):
    rng = np.random.default_rng(k)
    graded = rng.choice([0.0, 0.0, 0.0, 1.0, 2.0, 3.0], size=(40, 20)).astype(np.float32)
    graded[:, 0] = 1.0
    scores = rng.normal(size=graded.shape)
    ranked = np.take_along_axis(graded, np.argsort(-scores, axis=1), axis=1)
    assert ndcg(ranked, graded, k).mean() == pytest.approx(ndcg_score(graded, scores, k=k), abs=1e-6)


def test_reciprocal_rank_is_of_the_first_relevant_item():
    relevant = np.array([[False, False, True, True], [True, False, False, False], [False] * 4])
    assert reciprocal_rank(relevant).tolist() == [pytest.approx(1 / 3), 1.0, 0.0]
