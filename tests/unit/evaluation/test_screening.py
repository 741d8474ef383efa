from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from helpers.trials import made_trial
from radrank.evaluation.screening import reliability, screen, top_vote

RNG = np.random.default_rng(0)
TRUTH = RNG.choice(np.array([1, -1, -1, 0], np.int8), size=300)
CHANCES = np.clip(0.5 - 0.25 * TRUTH + 0.3 * RNG.normal(size=300), 0.0, 1.0)
VOTES = np.round(np.clip(0.5 - 0.2 * TRUTH + 0.3 * RNG.normal(size=300), 0.0, 1.0), 1)
KNOWN = TRUTH != 0


def test_rows_are_majority_vote_and_classifier():
    names = [row.method for row in screen(CHANCES, VOTES, TRUTH)]
    assert names == ["majority class", "vote of the top 10", "classifier"]


@pytest.mark.parametrize("threshold", [0.5, 0.35])
@pytest.mark.parametrize(("row", "chances"), [(1, VOTES), (2, CHANCES)])
def test_rates_are_scikit_learns(row, chances, threshold):
    found = screen(CHANCES, VOTES, TRUTH, threshold=threshold)[row]
    abnormal, called = TRUTH[KNOWN] == -1, chances[KNOWN] >= threshold
    (true_negative, false_positive), (false_negative, true_positive) = sklearn.confusion_matrix(abnormal, called)
    assert found.accuracy == pytest.approx(sklearn.accuracy_score(abnormal, called))
    assert found.balanced_accuracy == pytest.approx(sklearn.balanced_accuracy_score(abnormal, called))
    assert found.sensitivity == pytest.approx(true_positive / (true_positive + false_negative))
    assert found.specificity == pytest.approx(true_negative / (true_negative + false_positive))
    assert found.roc_auc == pytest.approx(sklearn.roc_auc_score(abnormal, chances[KNOWN]))


def test_always_saying_the_more_frequent_class():
    abnormal = (TRUTH[KNOWN] == -1).mean()
    assert abnormal > 0.5
    row = screen(CHANCES, VOTES, TRUTH)[0]
    assert row.accuracy == pytest.approx(abnormal)
    assert (row.balanced_accuracy, row.sensitivity, row.specificity) == (0.5, 1.0, 0.0)
    assert (row.roc_auc, row.calibration_error) == (None, None)
    other_way = screen(1.0 - CHANCES, 1.0 - VOTES, -TRUTH)[0]
    assert (other_way.sensitivity, other_way.specificity) == (0.0, 1.0)


def test_a_probability_at_the_threshold_calls_abnormal():
    row = screen(np.array([0.5, 0.49]), np.array([0.5, 0.5]), np.array([-1, 1], np.int8))[2]
    assert row.accuracy == 1.0


def test_queries_of_unknown_status_are_left_out():
    assert screen(CHANCES[KNOWN], VOTES[KNOWN], TRUTH[KNOWN]) == screen(CHANCES, VOTES, TRUTH)


def test_a_class_that_does_not_occur_has_no_rates():
    for row in screen(np.array([0.9, 0.2]), np.array([0.9, 0.2]), np.array([-1, -1], np.int8))[1:]:
        assert (row.accuracy, row.sensitivity, row.roc_auc) == (0.5, 0.5, None)
        assert np.isnan([row.specificity, row.balanced_accuracy]).all()


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_is_scikit_learns_calibration_curve(bins):
    observed, predicted = calibration_curve(TRUTH[KNOWN] == -1, CHANCES[KNOWN], n_bins=bins)
    found = reliability(CHANCES, TRUTH, bins=bins)
    filled = found.counts > 0
    np.testing.assert_allclose(found.observed[filled], observed)
    np.testing.assert_allclose(found.predicted[filled], predicted)
    assert found.counts.sum() == KNOWN.sum()


def test_empty_bins_are_no_numbers():
    found = reliability(np.array([0.05, 0.95, 1.0]), np.array([1, -1, 1], np.int8), bins=10)
    assert found.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert np.isnan(found.observed[1:-1]).all()
    assert found.observed[[0, -1]].tolist() == [0.0, 0.5]


def test_the_calibration_error_by_hand():
    chances = np.array([0.1, 0.1, 0.1, 0.9])
    truth = np.array([1, 1, -1, -1], np.int8)
    # Three said 0.1 where a third is abnormal, one said 0.9 where all are.
    expected = 3 / 4 * abs(0.1 - 1 / 3) + 1 / 4 * abs(0.9 - 1.0)
    assert reliability(chances, truth).calibration_error == pytest.approx(expected)
    assert screen(chances, chances, truth)[2].calibration_error == pytest.approx(expected)


def test_probabilities_that_come_true_as_often_as_they_say_are_calibrated():
    rng = np.random.default_rng(1)
    chances = rng.random(40_000)
    truth = np.where(rng.random(40_000) < chances, -1, 1).astype(np.int8)
    assert reliability(chances, truth).calibration_error < 0.01
    assert reliability(chances**3, truth).calibration_error > 0.1


def test_the_vote_is_of_the_ten_best_whose_status_is_known():
    trial = made_trial(same=True)
    assert (trial.gallery_normal == 0).any()
    for query, vote in enumerate(top_vote(trial, trial.cosines)):
        asked = np.flatnonzero((trial.gallery_normal != 0) & trial.valid[query])
        best = asked[np.argsort(-trial.cosines[query, asked])][:10]
        assert vote == pytest.approx((trial.gallery_normal[best] == -1).mean())


def test_fewer_than_ten_vote_alone():
    trial = made_trial(studies=5)
    known = trial.gallery_normal[trial.gallery_normal != 0]
    assert len(known) < 5 or known.all()
    np.testing.assert_allclose(top_vote(trial, trial.cosines), np.full(5, (known == -1).mean()))
