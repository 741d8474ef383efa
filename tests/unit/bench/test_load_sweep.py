"""Which rates are tried, and which of them counts as the highest."""

from __future__ import annotations

import pytest

from radrank.bench.load.ledger import Ledger, Reply
from radrank.bench.load.results import Plan, summed
from radrank.bench.load.sweep import highest, reasons, sweep, words_of
from radrank.core.errors import InvalidQuery


def run_of(rate, milliseconds, *, asked="", refused=0, lag=0.0001, planned=100):
    """A run of 10 s: so many answered in this time, the rest refused at once."""
    due = [100 + n * 10 / planned for n in range(planned)]
    replies = [
        Reply(at, at if n < refused else at + milliseconds / 1e3, "RESOURCE_EXHAUSTED" if n < refused else "OK", False)
        for n, at in enumerate(due)
    ]
    ledger = Ledger(start=100.0, sent=planned, replies=replies, lags=[lag] * planned)
    return summed(Plan(asked=asked, rate=rate, seconds=10.0, warm_up=0.0), ledger, scheduling="")


def server_of(capacity, *, late_from=1e9):
    """Answers in 10 ms up to its capacity and in 500 ms above; from `late_from` on the load generator is late."""
    tried = []

    def measure(asked, rate):
        tried.append(rate)
        return run_of(rate, 10 if rate <= capacity else 500, asked=asked, lag=0.01 if rate >= late_from else 0.0001)

    return measure, tried


@pytest.mark.parametrize("capacity", [3.0, 10.0, 137.0, 1900.0])
def test_auto_finds_the_highest_rate_to_a_twentieth(capacity):
    measure, tried = server_of(capacity)
    runs = list(sweep(["auto"], measure, 50, first=10))
    assert capacity * 0.94 <= highest(runs, 50).rate <= capacity
    assert len(tried) < 16
    assert reasons(runs, 50) == []


def test_auto_gives_up_on_a_server_that_keeps_up_with_nothing():
    measure, tried = server_of(0.0)
    assert highest(list(sweep(["auto"], measure, 50, first=10)), 50) is None
    assert len(tried) < 8


def test_multiples_are_of_the_highest_rate_so_far():
    measure, tried = server_of(100.0)
    runs = list(sweep(["50", "100", "0.8x", "2x"], measure, 50, first=10))
    assert tried == [50.0, 100.0, 80.0, 200.0]
    assert [run.asked for run in runs] == ["50", "100", "0.8x", "2x"]
    with pytest.raises(InvalidQuery, match="no rate before 2x met the objective"):
        list(sweep(["500", "2x"], measure, 50, first=10))


@pytest.mark.parametrize("words", ["", "fast", "0", "-5", "10,nan", "2xx", "1e9"])
def test_rates_that_make_no_sense_are_refused(words):
    with pytest.raises(InvalidQuery, match="rate: "):
        words_of(words)


def test_who_is_refused_counts_as_late():
    assert run_of(10, 40, refused=1).meets(50)
    assert not run_of(10, 60, refused=0).meets(50)
    assert not run_of(10, 40, refused=2).meets(50), "98 in 100 were answered"
    assert run_of(10, 40, refused=50).latency["OK"].p99 == pytest.approx(40, rel=0.01)


def test_a_rate_that_the_load_generator_can_t_send_is_tried_twice_and_makes_the_search_void():
    measure, tried = server_of(1e9, late_from=100.0)
    runs = list(sweep(["auto"], measure, 50, first=10))
    assert tried.count(160.0) == 2
    assert 94 <= highest(runs, 50).rate < 100
    assert len(reasons(runs, 50)) == 1


def test_a_void_run_far_above_the_answer_changes_nothing():
    measure, _ = server_of(90.0, late_from=140.0)
    runs = list(sweep(["auto"], measure, 50, first=10))
    assert any(run.void for run in runs)
    assert reasons(runs, 50) == []


def test_of_listed_rates_every_void_one_voids_the_report():
    measure, _ = server_of(90.0, late_from=140.0)
    runs = list(sweep(["50", "150"], measure, 50, first=10))
    assert [reason.partition(":")[0] for reason in reasons(runs, 50)] == ["rate-150"]


def test_a_run_in_which_nothing_was_due_is_void():
    run = summed(Plan(asked="1", rate=1.0, seconds=0.5, warm_up=0.0), Ledger(start=0.0), scheduling="")
    assert "no request was due" in run.void
