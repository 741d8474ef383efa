"""When the requests of an open loop are due."""

from __future__ import annotations

import numpy as np
import pytest

from radrank.bench.load.arrivals import poisson


def test_a_seed_gives_the_same_times_again_and_another_seed_others():
    np.testing.assert_array_equal(poisson(50, 20, seed=3), poisson(50, 20, seed=3))
    assert poisson(50, 20, seed=3)[0] != poisson(50, 20, seed=4)[0]


@pytest.mark.parametrize(("rate", "seconds"), [(200.0, 100.0), (2.5, 4000.0)])
def test_arrivals_are_a_poisson_process_of_the_rate(rate, seconds):
    times = poisson(rate, seconds, seed=0)
    gaps = np.diff(times, prepend=0.0)
    assert len(times) == pytest.approx(rate * seconds, abs=4 * np.sqrt(rate * seconds))
    assert (gaps > 0).all()
    assert times[-1] < seconds
    # The mean and the deviation of exponential gaps are the same, and 1 in e is longer than the mean.
    assert gaps.std() == pytest.approx(1 / rate, rel=0.05)
    assert (gaps > 1 / rate).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_a_seed_gives_every_rate_the_same_times_on_another_scale():
    np.testing.assert_allclose(poisson(100, 10, seed=1), poisson(50, 20, seed=1) / 2)


def test_a_rate_too_low_for_the_time_has_no_arrivals():
    assert poisson(1e-6, 1.0, seed=0).size == 0
