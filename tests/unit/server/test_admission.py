"""Turns: in the order of arrival, given up in time, and never lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from radrank.core.errors import DeadlineTooShort, Overloaded
from radrank.core.timing import NO_DEADLINE, Deadline
from radrank.server.admission import Admission, Turns

WAIT = 5.0


def started(what: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    return thread


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not there():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_turns_come_in_the_order_in_which_they_were_asked_for():
    turns, order = Turns(1), []

    def take(number: int) -> None:
        assert turns.acquire(WAIT)
        order.append(number)
        turns.release()

    assert turns.acquire(None)
    waiting = []
    for number in range(5):
        waiting.append(started(lambda number=number: take(number)))
        until(lambda number=number: len(turns._waiting) == number + 1)
    turns.release()
    for thread in waiting:
        thread.join(WAIT)
    assert order == [0, 1, 2, 3, 4]


def test_who_waits_is_not_passed_by_who_comes_when_a_turn_ends():
    turns = Turns(1)
    assert turns.acquire(None)
    first = started(lambda: turns.acquire(WAIT))
    until(lambda: len(turns._waiting) == 1)
    turns.release()
    assert not turns.acquire(0.0)  # the turn is the first one's, whether its thread has woken up or not
    first.join(WAIT)
    assert not first.is_alive()


def test_who_gives_up_leaves_no_gap():
    turns = Turns(1)
    assert turns.acquire(None)
    assert not turns.acquire(0.01)
    turns.release()
    assert turns.acquire(0.0)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_so_many_run_and_no_turn_is_lost(workers):
    turns, guard, running, most = Turns(workers), threading.Lock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            if turns.acquire(0.0005):
                with guard:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                with guard:
                    running[0] -= 1
                turns.release()

    for thread in [started(work) for _ in range(8)]:
        thread.join(WAIT)
    assert most[0] <= workers
    assert all(turns.acquire(0.0) for _ in range(workers))
    assert not turns.acquire(0.0)


def test_past_its_places_a_call_is_refused_and_told_when_to_come_again():
    admission = Admission(in_flight=1, workers=1)
    with admission.admitted(NO_DEADLINE):
        with pytest.raises(Overloaded) as refused, admission.admitted(NO_DEADLINE):
            pass
        assert refused.value.retry_after > 0
    with admission.admitted(NO_DEADLINE):
        pass


def test_a_call_whose_turn_does_not_come_in_time_gives_its_place_back():
    admission = Admission(in_flight=2, workers=1)
    with admission.admitted(NO_DEADLINE):
        with pytest.raises(DeadlineTooShort), admission.admitted(Deadline(0.01)):
            pass
        with pytest.raises(DeadlineTooShort), admission.admitted(Deadline(0.01)):
            pass
