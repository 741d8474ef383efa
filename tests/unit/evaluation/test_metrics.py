from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn import metrics as sklearn

from helpers.trials import made_labels, made_trial, only, ranked_as
from radrank.core.relevance import gains
from radrank.evaluation.metrics import METRICS, average_precision, completed, normals_share, order, per_query, scoped
from radrank.evaluation.results import Scope

SEEDS = range(4)


def cases(seed):
    """Random scores without ties, and what they rank."""
    trial = made_trial(seed)
    scores = np.random.default_rng(seed).normal(size=trial.valid.shape)
    return trial, scores, per_query(trial, scores)


def top(scores, k):
    """bool [q, n]: what a query is shown."""
    return rankdata(-scores, axis=1) <= k


def test_metrics_come_in_the_order_of_the_tables():
    assert tuple(per_query(made_trial(), made_trial().cosines)) == METRICS


def test_within_one_modality_there_is_no_pair_to_find():
    trial = made_trial(same=True)
    assert tuple(per_query(trial, trial.cosines)) == METRICS[5:]


@pytest.mark.parametrize("seed", SEEDS)
def test_recall_of_the_pair_is_scikit_learns_top_k_accuracy(seed):
    _, scores, found = cases(seed)
    truth = np.arange(len(scores))
    for k in (1, 5, 10):
        assert found[f"R@{k}"].mean() == pytest.approx(sklearn.top_k_accuracy_score(truth, scores, k=k))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rank_of_the_pair_is_scipys(seed):
    _, scores, found = cases(seed)
    ranks = np.diag(rankdata(-scores, axis=1))
    assert found["median rank"].tolist() == ranks.tolist()
    np.testing.assert_allclose(found["MRR"], 1 / ranks)


@pytest.mark.parametrize("seed", SEEDS)
def test_reciprocal_ranks_are_scikit_learns(seed):
    # The label ranking average precision of a query with one relevant entry is its reciprocal rank.
    trial, scores, found = cases(seed)
    assert found["MRR"].mean() == pytest.approx(sklearn.label_ranking_average_precision_score(trial.pair, scores))
    best = np.where(trial.strong, scores, -np.inf)
    first = trial.strong & (best == best.max(axis=1, keepdims=True))
    asked = first.any(axis=1)
    assert found["Strong MRR"][asked].mean() == pytest.approx(
        sklearn.label_ranking_average_precision_score(first[asked], scores[asked])
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_precision_is_scikit_learns(seed):
    trial, scores, found = cases(seed)
    shown = top(scores, 10)
    for name, relevant in (("Strong P@10", trial.strong), ("Weak P@10", trial.weak)):
        each = [sklearn.precision_score(*pair) for pair in zip(relevant, shown, strict=True)]
        np.testing.assert_allclose(found[name], each)


@pytest.mark.parametrize("k", [10, 20])
@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision_is_scikit_learns_over_what_could_be_found(seed, k):
    trial, scores, found = cases(seed)
    for query, shown in enumerate(top(scores, k)):
        relevant = trial.strong[query]
        hits = relevant[shown].sum()
        # scikit-learn divides by what was found, the protocol by what could have been.
        of_hits = sklearn.average_precision_score(relevant[shown], scores[query][shown]) if hits else 0.0
        expected = of_hits * hits / min(k, relevant.sum()) if hits else 0.0
        assert found[f"Strong mAP@{k}"][query] == pytest.approx(expected)


def test_average_precision_by_hand():
    relevant = np.array([[True, False, True, False, True]])
    assert average_precision(relevant, 3)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(relevant, 1)[0] == 1.0
    assert average_precision(relevant[:, [1, 3]], 2)[0] == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_ndcg_is_scikit_learns_over_the_gains_of_core(seed):
    _, scores, found = cases(seed)
    labels, studies = made_labels(np.random.default_rng(seed), 40), np.arange(40)
    graded = gains(labels, labels, studies, studies)
    assert found["nDCG@10"].mean() == pytest.approx(sklearn.ndcg_score(graded, scores, k=10), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_jaccard_and_normals_are_means_of_what_is_shown(seed):
    trial, scores, found = cases(seed)
    shown = top(scores, 10)
    overlap = [row[seen].mean() for row, seen in zip(trial.jaccard, shown, strict=True)]
    normals = [sklearn.precision_score(trial.gallery_normal == 1, seen) for seen in shown]
    np.testing.assert_allclose(found["Jaccard@10"], overlap, rtol=1e-6)
    np.testing.assert_allclose(found["normals@10"], normals)
    np.testing.assert_allclose(normals_share(trial, scores), normals)


def test_equal_scores_rank_by_entry():
    trial = only(made_trial(), [0, 1])
    assert order(trial, np.zeros(trial.valid.shape)).tolist() == [list(range(40))] * 2


def test_an_entry_that_is_not_valid_never_ranks_and_is_nothing_to_find():
    trial = made_trial(same=True)
    best_itself = np.eye(40) * 9.0 + trial.cosines
    assert order(trial, best_itself)[:, -1].tolist() == list(range(40))
    found = per_query(trial, best_itself)
    alone = trial.strong.sum(axis=1) == 1  # nothing but the query itself
    assert alone.any()
    assert found["Strong MRR"][alone].tolist() == [0.0] * alone.sum()
    # What is judged is as if the entry were not in the gallery at all.
    rest = np.arange(1, 40)
    smaller = only(trial, [0])
    parts = {part: getattr(smaller, part)[:, rest] for part in ("valid", "pair", "strong", "weak", "jaccard")}
    labels = {part: getattr(smaller, part)[rest] for part in ("gallery", "gallery_normal", "gallery_abnormal")}
    without = per_query(replace(smaller, **parts, **labels), best_itself[:1, rest])
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        {name: value[0] for name, value in without.items()}
    )


def test_a_query_without_a_relevant_entry_counts_nothing():
    trial = made_trial()
    nothing = np.zeros_like(trial.pair)
    found = per_query(
        replace(trial, pair=nothing, strong=nothing, weak=nothing, jaccard=np.zeros_like(trial.jaccard)), trial.cosines
    )
    del found["normals@10"]
    assert set(found.pop("median rank")) == {41.0}  # behind the last entry
    assert {name: set(value) for name, value in found.items()} == {name: {0.0} for name in found}


def test_in_a_gallery_of_few_an_absent_pair_is_not_found():
    trial = only(made_trial(), [0])
    keep = [1, 2, 3]
    few = replace(
        trial,
        **{part: getattr(trial, part)[:, keep] for part in ("valid", "pair", "strong", "weak", "jaccard")},
        gallery=trial.gallery[keep],
        gallery_normal=np.array([1, 1, -1], np.int8),
    )
    found = per_query(few, few.cosines)
    assert (found["R@10"][0], found["median rank"][0]) == (0.0, 4.0)
    assert found["normals@10"][0] == pytest.approx(2 / 3)  # of the three that are shown


def test_what_was_not_ranked_stands_behind_by_cosine():
    scores = np.array([[0.5, -np.inf, -7.0, np.nan, -np.inf]])
    cosines = np.array([[0.0, -1.0, 0.2, 0.9, 1.0]])
    assert np.argsort(-completed(scores, cosines)).tolist() == [[0, 2, 4, 3, 1]]
    assert completed(scores, cosines)[0, [0, 2]].tolist() == [0.5, -7.0]
    nothing = completed(np.full((1, 5), -np.inf), cosines)
    assert np.argsort(-nothing).tolist() == np.argsort(-cosines).tolist()


def test_a_head_that_was_re_ranked_is_judged_with_the_cosine_order_behind_it():
    trial = made_trial()
    head = np.where(np.arange(40) < 12, -np.inf, trial.cosines)
    spelled_out = completed(head, trial.cosines)
    for name, value in per_query(trial, head).items():
        np.testing.assert_array_equal(value, per_query(trial, spelled_out)[name])


def test_an_entry_that_is_not_valid_stands_behind_those_not_ranked():
    trial = made_trial(same=True)
    head = np.where(np.arange(40) < 12, trial.cosines, -np.inf)
    assert order(trial, head)[:, -1].tolist() == list(range(40))


def test_scopes_are_all_abnormal_and_the_mean_of_the_two_halves():
    status = np.array([1, 1, 1, -1, -1, 0], np.int8)
    found = scoped({"MRR": np.array([1.0, 1.0, 1.0, 0.2, 0.4, 0.0])}, status)
    assert found[Scope.ALL]["MRR"] == pytest.approx(0.6)
    assert found[Scope.ABNORMAL]["MRR"] == pytest.approx(0.3)
    assert found[Scope.MACRO]["MRR"] == pytest.approx(0.65)


def test_a_median_rank_is_a_median():
    status = np.array([1, 1, 1, -1, -1], np.int8)
    found = scoped({"median rank": np.array([1.0, 2.0, 900.0, 5.0, 7.0])}, status)
    assert [found[scope]["median rank"] for scope in Scope] == [5.0, 6.0, 4.0]


def test_without_normal_queries_macro_is_the_abnormal_mean():
    found = scoped({"MRR": np.array([0.2, 0.4])}, np.array([-1, -1], np.int8))
    assert found[Scope.MACRO] == found[Scope.ABNORMAL]
    none = scoped({"MRR": np.array([0.2])}, np.array([1], np.int8))
    assert np.isnan(none[Scope.ABNORMAL]["MRR"])
    assert none[Scope.MACRO]["MRR"] == 0.2


def test_orders_can_be_written_down():
    assert order(only(made_trial(studies=3), [0, 1]), ranked_as([2, 0, 1], [1, 2, 0])).tolist() == [
        [2, 0, 1],
        [1, 2, 0],
    ]
