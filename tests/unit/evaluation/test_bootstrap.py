from __future__ import annotations

import numpy as np
import pytest

from radrank.evaluation.bootstrap import changes, draw_counts, paired_changes, resample
from radrank.evaluation.results import Scope

STATUS = np.array([1] * 40 + [-1] * 70 + [0] * 10, np.int8)


def values(seed, **names):
    """float64 [120] by name, around these means."""
    rng = np.random.default_rng(seed)
    return {name.replace("_", " "): rng.normal(mean, 0.1, size=len(STATUS)) for name, mean in names.items()}


def test_every_draw_has_as_many_queries_as_there_are():
    counts = draw_counts(120, draws=50)
    assert counts.shape == (50, 120)
    assert set(counts.sum(axis=1)) == {120.0}
    assert counts.var() == pytest.approx(1.0, abs=0.1)  # of a binomial of 120 in 120


def test_draws_are_those_of_their_seed():
    assert np.array_equal(draw_counts(9, seed=3), draw_counts(9, seed=3))
    assert not np.array_equal(draw_counts(9, seed=3), draw_counts(9, seed=4))


def test_each_draw_is_the_scopes_of_the_queries_it_drew():
    measured = values(0, MRR=0.5) | {"median rank": np.random.default_rng(1).integers(1, 30, 120).astype(float)}
    counts = draw_counts(120, draws=20)
    found = resample(measured, STATUS, counts)
    for draw, times in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(120), times)
        for name, centre in (("MRR", np.mean), ("median rank", np.median)):
            value, status = measured[name][drawn], STATUS[drawn]
            normal, abnormal = centre(value[status == 1]), centre(value[status == -1])
            assert found.draws[Scope.ALL][name][draw] == pytest.approx(centre(value))
            assert found.draws[Scope.ABNORMAL][name][draw] == pytest.approx(abnormal)
            assert found.draws[Scope.MACRO][name][draw] == pytest.approx((normal + abnormal) / 2)


def test_a_row_does_not_differ_from_itself():
    measured = values(0, MRR=0.5, median_rank=9.0)
    for by_metric in paired_changes(measured, measured, STATUS).values():
        for change in by_metric.values():
            assert (change.relative, change.low, change.high) == (0.0, 0.0, 0.0)


def test_an_obvious_gain_is_off_zero_in_every_scope_and_an_absent_one_is_not():
    reference = values(0, MRR=0.5, P=0.5)
    method = {"MRR": reference["MRR"] * 1.1, "P": values(1, P=0.5)["P"]}
    for by_metric in paired_changes(method, reference, STATUS).values():
        gain, noise = by_metric["MRR"], by_metric["P"]
        assert (gain.relative, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
        assert noise.low < 0.0 < noise.high
        assert noise.low < noise.relative < noise.high


def test_pairing_takes_out_what_is_hard_for_both():
    hard = np.random.default_rng(0).random(120)
    shifted = {"MRR": hard + 0.05}
    paired = paired_changes(shifted, {"MRR": hard}, STATUS)[Scope.ALL]["MRR"]
    mixed = paired_changes({"MRR": np.random.default_rng(1).permutation(hard) + 0.05}, {"MRR": hard}, STATUS)
    assert paired.high - paired.low < 0.2 * (mixed[Scope.ALL]["MRR"].high - mixed[Scope.ALL]["MRR"].low)


def test_a_gain_of_the_normal_queries_alone_is_none_of_the_abnormal():
    reference = values(0, MRR=0.5)
    found = paired_changes({"MRR": reference["MRR"] * np.where(STATUS == 1, 2.0, 1.0)}, reference, STATUS)
    assert found[Scope.ABNORMAL]["MRR"].high == 0.0
    assert found[Scope.MACRO]["MRR"].low > 0.3
    assert found[Scope.ALL]["MRR"].low > 0.2


def test_an_interval_is_of_95_percent():
    """Of 200 samples from a world where the change is +20 %, about 190 intervals hold it."""
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        reference = rng.exponential(0.5, size=150)
        method = reference + rng.exponential(0.1, size=150)
        status = np.ones(150, np.int8)
        change = paired_changes({"MRR": method}, {"MRR": reference}, status, draws=400, seed=seed)[Scope.ALL]["MRR"]
        held += change.low <= 0.2 <= change.high
    assert 178 <= held <= 199


def test_the_interval_is_that_of_the_percentiles():
    reference, method = values(0, MRR=0.5), values(1, MRR=0.55)
    counts = draw_counts(120, draws=1000)
    rows = [resample(row, STATUS, counts) for row in (method, reference)]
    ratios = rows[0].draws[Scope.ALL]["MRR"] / rows[1].draws[Scope.ALL]["MRR"] - 1.0
    change = changes(*rows)[Scope.ALL]["MRR"]
    assert (change.low, change.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])), abs=2e-3)
    assert change.relative == pytest.approx(method["MRR"].mean() / reference["MRR"].mean() - 1.0)


def test_a_reference_that_is_hardly_ever_right_bounds_nothing_from_above():
    reference = {"R@1": np.eye(1, 120)[0]}  # one hit, and a third of the draws without it
    change = paired_changes({"R@1": np.eye(2, 120).sum(axis=0)}, reference, STATUS)[Scope.ALL]["R@1"]
    assert (change.relative, change.high) == (1.0, np.inf)
    nothing = {"R@1": np.zeros(120)}
    both = paired_changes(nothing, nothing, STATUS)[Scope.ALL]["R@1"]
    assert (both.relative, both.low, both.high) == (0.0, 0.0, 0.0)


def test_a_scope_without_queries_has_no_change():
    normal_only = np.ones(120, np.int8)
    found = paired_changes(values(0, MRR=0.5, median_rank=3.0), values(1, MRR=0.5, median_rank=3.0), normal_only)
    for change in found[Scope.ABNORMAL].values():
        assert np.isnan([change.relative, change.low, change.high]).all()
    assert found[Scope.MACRO] == found[Scope.ALL]


def test_draws_that_miss_a_rare_scope_are_left_out():
    rare = np.array([-1] + [1] * 119, np.int8)
    found = paired_changes(values(0, MRR=0.5), values(1, MRR=0.4), rare)[Scope.ABNORMAL]["MRR"]
    assert found.low == pytest.approx(found.relative) == pytest.approx(found.high)
