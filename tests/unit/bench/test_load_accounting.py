"""What load does to a server that answers by script, and that nothing of it is left out of the account."""

from __future__ import annotations

import time

import numpy as np
import pytest
from grpc import StatusCode

from helpers.scripted import Act, scripted
from radrank.bench.load.arrivals import poisson
from radrank.bench.load.channels import Channels
from radrank.bench.load.loops import closed_loop, open_loop
from radrank.bench.load.results import CLOSED, LAG, Plan, summed
from radrank.client.errors import Unavailable
from radrank.v1 import retrieval_pb2

REQUESTS = [retrieval_pb2.SearchRequest(query={"text": text}, k=5).SerializeToString() for text in ("one", "two")]


def by_rate(server, rate, seconds, *, warm_up=0.2, in_flight=1000, deadline=5.0, requests=REQUESTS):
    """An open loop over the server, and what it came to."""
    times = poisson(rate, warm_up + seconds, seed=0)
    with Channels(server.address, token=None, ca=None, count=2, deadline=deadline) as channels:
        ledger = open_loop(channels, requests, times, warm_up=warm_up, in_flight=in_flight, deadline=deadline)
    run = summed(Plan(asked="", rate=rate, seconds=seconds, warm_up=warm_up), ledger, scheduling="")
    assert run.planned == np.count_nonzero(times >= warm_up)
    assert run.planned == run.ok + sum(run.errors.values()) + run.skipped + run.lost
    return run


def by_clients(server, clients, seconds, *, warm_up=0.2):
    """A closed loop over the server, and what it came to."""
    with Channels(server.address, token=None, ca=None, count=2, deadline=5.0) as channels:
        ledger = closed_loop(channels, REQUESTS, clients=clients, warm_up=warm_up, seconds=seconds)
    return summed(Plan(asked=CLOSED, clients=clients, seconds=seconds, warm_up=warm_up), ledger, scheduling="")


def test_every_planned_request_is_answered_or_failed_or_skipped():
    def script(number):
        if number % 5 == 0:
            return Act(code=StatusCode.RESOURCE_EXHAUSTED)
        return Act(seconds=0.03, code=StatusCode.INTERNAL if number % 7 == 0 else StatusCode.OK)

    with scripted(script, workers=2) as server:
        run = by_rate(server, 200, 1.5, in_flight=20)
    assert run.skipped > 10
    assert set(run.errors) == {"INTERNAL", "RESOURCE_EXHAUSTED"}
    assert all(count > 5 for count in run.errors.values())
    assert run.lost == 0
    assert run.offered == pytest.approx(run.planned / 1.5)
    assert run.p99_of_planned is None, "more than 1 in 100 got no answer"
    assert not run.meets(1e9)


def test_the_refused_do_not_flatter_the_latency_of_the_admitted():
    def script(number):
        return Act(seconds=0.5) if number % 2 else Act(code=StatusCode.RESOURCE_EXHAUSTED)

    with scripted(script, workers=100) as server:
        run = by_rate(server, 60, 1.0)
    assert run.latency["OK"].p50 >= 500
    assert run.latency["RESOURCE_EXHAUSTED"].p50 < 500
    assert {code: one.count for code, one in run.latency.items()} == {"OK": run.ok, **run.errors}


def test_latency_counts_from_the_planned_time_so_that_a_stall_is_felt_by_all_who_came_into_it():
    def script(number):
        return Act(seconds=0.5 if number == 20 else 0.0)

    with scripted(script, workers=1) as server:
        open_one = by_rate(server, 100, 1.5, warm_up=0.0)
    with scripted(script, workers=1) as server:
        closed_one = by_clients(server, 1, 1.5, warm_up=0.0)
    assert open_one.latency["OK"].p90 > 200
    assert closed_one.latency["OK"].max > 450
    assert closed_one.latency["OK"].p99 < 100, "a closed loop hides it: this is what the open one is for"


def test_who_is_unanswered_at_the_end_is_waited_for_until_the_deadline():
    with scripted(lambda number: Act(seconds=60.0), workers=100) as server:
        run = by_rate(server, 40, 0.5, deadline=0.4)
    assert run.errors == {"DEADLINE_EXCEEDED": run.planned}
    assert 400 <= run.latency["DEADLINE_EXCEEDED"].p50 < 1400
    assert run.achieved == 0


def test_the_warm_up_is_sent_but_not_counted():
    with scripted(lambda number: Act(seconds=0.3 if number < 10 else 0.0)) as server:
        run = by_rate(server, 50, 1.0, warm_up=1.0)
    assert server.searches > run.planned + 20
    assert run.latency["OK"].p99 < 300


def test_the_share_of_degraded_replies_is_told():
    with scripted(lambda number: Act(degraded=number % 4 == 0)) as server:
        run = by_rate(server, 80, 1.0, warm_up=0.0)
    assert run.degraded == pytest.approx(0.25, abs=0.02)


def test_a_run_that_was_sent_late_is_void_and_meets_nothing():
    class Slow(list):
        """Requests that take their time to be had."""

        def __getitem__(self, place):
            time.sleep(0.015)
            return super().__getitem__(place)

    with scripted(lambda number: Act()) as server:
        run = by_rate(server, 30, 1.0, requests=Slow(REQUESTS))
    assert run.ok == run.planned
    assert run.lag.p50 >= 15
    assert run.latency["OK"].p50 >= 15, "the delay is a caller's, too"
    assert run.histograms[LAG].total_count == run.planned
    assert "ms late at p99, more than 1 ms" in run.void
    assert run.p99_of_planned < 1e6
    assert not run.meets(1e6)


def test_clients_of_a_closed_loop_wait_for_their_answers():
    with scripted(lambda number: Act(seconds=0.02)) as server:
        run = by_clients(server, 4, 1.0)
    assert server.most_at_once == 4
    assert 60 < run.achieved <= 4 / 0.02
    assert run.planned == run.ok
    assert run.latency["OK"].p50 >= 20
    assert (run.offered, run.lag, run.void, run.lost) == (None, None, "", 0)


def test_nobody_at_the_address_is_said(monkeypatch):
    monkeypatch.setattr("radrank.bench.load.channels.CONNECT_SECONDS", 0.2)
    channels = Channels("127.0.0.1:1", token=None, ca=None, count=1, deadline=1.0)
    with pytest.raises(Unavailable, match=r"no radrank server answers at 127\.0\.0\.1:1;"):
        channels.__enter__()
