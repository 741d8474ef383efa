"""Times taken in turn, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from radrank.bench import turns
from radrank.bench.turns import clocked, fastest, in_turn, median, ratio


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch):
    monkeypatch.setattr(turns, "REST_SECONDS", 0.0)


def test_whoever_is_first_in_one_round_is_not_in_the_next():
    heard: list[str] = []

    def call(name):
        return lambda: heard.append(name) or {name: 1.0}

    in_turn([[call("a"), call("b")]], rounds=3, step=lambda: None)
    assert "".join(heard) == "ba" + "aaaabbbb" + "bbbbaaaa" + "aaaabbbb"  # the first round warms up


def test_a_turn_is_the_median_of_its_calls_but_for_the_first():
    taken = iter([100.0, 100.0, 90.0, 1.0, 9.0, 2.0, 90.0, 3.0, 3.0, 8.0])
    steps: list[int] = []
    call = lambda: {"one": next(taken)}  # noqa: E731
    found = in_turn([[call], [call]], rounds=1, step=lambda: steps.append(1))
    np.testing.assert_array_equal(found["one"], [[2.0], [3.0]])
    assert len(steps) == 2


def test_a_clocked_call_tells_milliseconds():
    told = clocked("sleep", lambda: turns.time.sleep(0.02))()
    assert 20.0 <= told["sleep"] < 500.0


def test_a_slow_round_moves_neither_median_nor_fastest():
    taken = np.array([[2.0, 2.0, 90.0], [4.0, 4.0, 4.0], [6.0, 6.0, 6.0]])
    assert median(taken) == 4.0
    assert fastest(np.array([[9.0, 2.0], [4.0, 8.0]])) == 3.0


def test_a_ratio_is_of_medians_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    under = rng.uniform(1.0, 3.0, (40, 5))
    found = ratio(6.0 * under + rng.uniform(-1.0, 1.0, under.shape), under)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(6.0, abs=0.5)


def test_questions_are_drawn_for_both_alike():
    """What makes a question slow for both widens no interval."""
    under = np.geomspace(1.0, 1000.0, 9)[:, None]
    found = ratio(3.0 * under, under)
    assert (found.low, found.value, found.high) == pytest.approx((3.0, 3.0, 3.0))
    assert str(found) == "3.00 [3.00, 3.00]"
