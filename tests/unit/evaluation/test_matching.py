from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.trials import made_trial, ranked_as
from radrank.evaluation import metrics
from radrank.evaluation.matching import completed, find_offset, standardised, with_offset
from radrank.evaluation.metrics import normals_share, order, per_query
from radrank.evaluation.training_free import normals_first


def share(trial, scores):
    return per_query(trial, scores)["normals@10"].mean()


def test_scores_are_standardised_over_what_was_ranked():
    trial = made_trial(same=True)
    scores = np.where(np.arange(40) < 25, 7.0 * trial.cosines.astype(np.float64) + 3.0, np.nan)
    found = standardised(trial, scores)
    ranked = np.isfinite(found)
    assert np.array_equal(ranked, trial.valid & (np.arange(40) < 25))
    for row, chosen, raw in zip(found, ranked, scores, strict=True):
        assert (row[chosen].mean(), row[chosen].std()) == pytest.approx((0.0, 1.0))
        np.testing.assert_allclose(row[chosen], (raw[chosen] - raw[chosen].mean()) / raw[chosen].std())


def test_equal_scores_and_none_at_all_stay_finite_or_unranked():
    trial = made_trial()
    assert not standardised(trial, np.full((40, 40), 5.0)).any()
    assert np.isneginf(standardised(trial, np.full((40, 40), np.nan))).all()


def test_an_offset_adds_the_encoders_probability_of_normal():
    trial = made_trial()
    found = with_offset(trial, trial.cosines, 2.5)
    expected = standardised(trial, trial.cosines) + 2.5 * (1.0 - trial.gallery_abnormal.astype(np.float64))[None, :]
    np.testing.assert_allclose(found, expected)


def test_no_offset_keeps_the_order():
    trial = made_trial()
    scores = np.where(np.arange(40) < 25, normals_first(trial), -np.inf)
    assert np.array_equal(order(trial, with_offset(trial, scores, 0.0)), order(trial, scores))


def test_what_was_not_ranked_stays_behind_whatever_the_offset():
    trial = made_trial()
    scores = np.where(np.arange(40) < 25, trial.cosines, -np.inf)
    for offset in (-30.0, 30.0):
        ranked = order(trial, with_offset(trial, scores, offset))
        assert (ranked[:, :25] < 25).all()
        behind = np.take_along_axis(trial.cosines, ranked[:, 25:], axis=1)
        assert (np.diff(behind, axis=1) <= 0).all()


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_offset_restores_the_share_of_the_embedding(seed, same):
    trial = made_trial(seed, studies=80, same=same)
    wanted = share(trial, trial.cosines)
    inflated = trial.cosines + 0.5 * (trial.gallery_normal == 1)
    assert share(trial, inflated) > wanted + 0.1
    offset = find_offset(trial, inflated, wanted)
    assert offset < 0.0
    assert share(trial, with_offset(trial, inflated, offset)) == pytest.approx(wanted, abs=0.01)


def test_normals_that_a_method_put_last_come_back():
    trial = made_trial(studies=80)
    wanted = share(trial, trial.cosines)
    deflated = trial.cosines - 0.5 * (trial.gallery_normal == 1)
    offset = find_offset(trial, deflated, wanted)
    assert offset > 0.0
    assert share(trial, with_offset(trial, deflated, offset)) == pytest.approx(wanted, abs=0.01)


def test_a_gain_that_was_only_normals_is_gone_when_matched():
    trial = made_trial(studies=80, noise=3.0)
    trial = replace(trial, gallery_abnormal=(trial.gallery_normal != 1).astype(np.float32))
    inflated = trial.cosines + 0.2 * (trial.gallery_normal == 1)
    offset = find_offset(trial, inflated, share(trial, trial.cosines))
    plain, matched = (per_query(trial, one) for one in (trial.cosines, with_offset(trial, inflated, offset)))
    assert per_query(trial, inflated)["Strong P@10"].mean() > 1.1 * plain["Strong P@10"].mean()
    assert matched["Strong P@10"].mean() == pytest.approx(plain["Strong P@10"].mean(), rel=0.03)


def test_a_share_that_is_there_already_needs_no_offset():
    trial = made_trial()
    assert find_offset(trial, trial.cosines, share(trial, trial.cosines)) == 0.0


@pytest.mark.parametrize(("wanted", "sign"), [(2.0, 1.0), (-1.0, -1.0)])
def test_a_share_out_of_reach_gets_the_end_of_the_search(wanted, sign):
    trial = made_trial()
    offset = find_offset(trial, trial.cosines, wanted)
    assert offset == sign * 1024.0
    by_chance = np.broadcast_to(sign * (1.0 - trial.gallery_abnormal), trial.valid.shape)
    assert share(trial, with_offset(trial, trial.cosines, offset)) == pytest.approx(share(trial, by_chance), abs=0.02)


def test_the_share_that_is_matched_is_the_metric():
    trial = made_trial(same=True)
    np.testing.assert_array_equal(normals_share(trial, trial.cosines), per_query(trial, trial.cosines)["normals@10"])
    assert completed is metrics.completed
    few = made_trial(studies=4)
    assert normals_share(few, ranked_as(*[[0, 1, 2, 3]] * 4)).tolist() == [(few.gallery_normal == 1).mean()] * 4
