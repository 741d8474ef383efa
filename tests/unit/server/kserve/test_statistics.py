from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from radrank.server.kserve.statistics import FAIL, INFER, INPUT, OUTPUT, QUEUE, SUCCESS, Statistics, Total

ONE = {QUEUE: 1, INPUT: 2, INFER: 30, OUTPUT: 4}


def test_a_model_that_nobody_asked_has_nothing():
    counts = Statistics().of("m")
    assert (counts.last, counts.inferences, counts.executions, counts.totals, counts.batches) == (0, 0, 0, {}, {})


def test_a_request_is_counted_whole_and_by_stage():
    statistics = Statistics()
    statistics.succeeded("m", batch=3, stages=ONE)
    statistics.failed("m", 7)
    counts = statistics.of("m")
    assert (counts.inferences, counts.executions) == (3, 1)
    assert counts.totals == {SUCCESS: Total(1, 37), FAIL: Total(1, 7)} | {s: Total(1, ns) for s, ns in ONE.items()}
    assert counts.batches == {3: {INPUT: Total(1, 2), INFER: Total(1, 30), OUTPUT: Total(1, 4)}}


def test_no_request_is_lost_between_threads():
    statistics = Statistics()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: statistics.succeeded("m", batch=2, stages=ONE), range(2_000)))
    counts = statistics.of("m")
    assert (counts.inferences, counts.executions, counts.totals[SUCCESS]) == (4_000, 2_000, Total(2_000, 74_000))


def test_what_was_handed_out_does_not_change():
    statistics = Statistics()
    before = statistics.of("m")
    statistics.succeeded("m", batch=1, stages=ONE)
    assert before.totals == {}
