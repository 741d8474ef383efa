from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from radrank.core.timing import NO_DEADLINE, Deadline, RecentTimes


def test_a_deadline_runs_down(clock):
    deadline = Deadline(2.0)
    assert deadline.left == 2.0
    clock[0] += 1.5
    assert deadline.leaves(0.4)
    assert not deadline.leaves(0.5)
    clock[0] += 1.5
    assert deadline.left == -1.0
    assert not deadline.leaves(0.0)


def test_without_a_deadline_there_is_always_time():
    assert NO_DEADLINE.left is None
    assert NO_DEADLINE.leaves(1e9)
    assert Deadline(9.2e18).left is None


def test_the_running_deadline_is_that_of_this_thread_alone():
    outer, inner = Deadline(2.0), Deadline(1.0)
    assert Deadline.current() is NO_DEADLINE
    with outer.running(), ThreadPoolExecutor(1) as pool:
        with inner.running():
            assert Deadline.current() is inner
        assert Deadline.current() is outer
        assert pool.submit(Deadline.current).result() is NO_DEADLINE
    with pytest.raises(ZeroDivisionError), outer.running():
        _ = 1 / 0
    assert Deadline.current() is NO_DEADLINE


def test_quantiles_are_of_the_last_calls_of_one_kind():
    recent = RecentTimes()
    for seconds in range(1_000):
        recent.add("image", float(seconds))
        recent.add("text", 1.0)
    assert recent.quantile("image", 0.0) == 872.0  # 128 are remembered
    assert recent.quantile("image", 0.5) == 936.0
    assert recent.quantile("image", 1.0) == 999.0
    assert recent.quantile("text", 0.95) == 1.0


def test_few_calls_tell_nothing_yet():
    recent = RecentTimes()
    for _ in range(15):
        recent.add("image", 3.0)
    assert recent.quantile("image", 0.5) == 0.0
    assert recent.quantile("never", 0.5) == 0.0
    recent.add("image", 3.0)
    assert recent.quantile("image", 0.5) == 3.0
