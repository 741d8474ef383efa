"""The two ways to load a server: by a plan that no answer delays, and by clients that wait for every answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.bench.load.channels import OK, is_degraded
from radrank.bench.load.ledger import Ledger, Reply, Watch, watched

LEAD_SECONDS = 0.05
GRACE_SECONDS = 1.0


class Line(Protocol):
    """What requests are sent over, such as Channels."""

    def future(self, number: int, request: bytes) -> Any: ...
    def call(self, number: int, request: bytes) -> tuple[str, bytes]: ...


def open_loop(
    line: Line,
    requests: Sequence[bytes],
    times: NDArray[np.float64],
    *,
    warm_up: float,
    in_flight: int,
    deadline: float,
    watch: Watch | None = None,
) -> Ledger:
    """Sends a request at each of `times` (seconds from the start, float64 [n]), whatever became of those before.

    A request that is due while `in_flight` are unanswered is skipped and counted. What is unanswered at the end is
    waited for until its deadline (seconds) is over.
    """
    clock, sleep, future = time.perf_counter, time.sleep, line.future
    begin = clock() + LEAD_SECONDS
    ledger = Ledger(start=begin + warm_up)
    start, lags, skipped = ledger.start, ledger.lags, ledger.skipped
    with watched(ledger, watch):
        for number, offset in enumerate(times.tolist()):
            due = begin + offset
            left = due - clock()
            if left > 0:
                sleep(left)  # no spinning: it would take the interpreter lock from the threads that stamp replies
            if ledger.in_flight >= in_flight:
                skipped.append(due)
            else:
                ledger.sent += 1
                call = future(number, requests[number % len(requests)])
                call.add_done_callback(partial(_done, ledger, due))
            if due >= start:
                lags.append(clock() - due)
        last = clock() + deadline + GRACE_SECONDS
        while ledger.in_flight and clock() < last:
            sleep(0.005)
    return ledger


def _done(ledger: Ledger, due: float, call: Any) -> None:
    ended = time.perf_counter()
    code = call.code().name
    ledger.replies.append(Reply(due, ended, code, code == OK and is_degraded(call.result())))


def closed_loop(
    line: Line,
    requests: Sequence[bytes],
    *,
    clients: int,
    warm_up: float,
    seconds: float,
    watch: Watch | None = None,
) -> Ledger:
    """`clients` threads ask, wait for the answer and ask again, until the time is over."""
    ledger = Ledger(start=time.perf_counter() + warm_up)
    end = ledger.start + seconds
    sent = [0] * clients
    stop = threading.Event()

    def client(place: int) -> None:
        number = place
        while (due := time.perf_counter()) < end and not stop.is_set():
            sent[place] += 1
            code, reply = line.call(place, requests[number % len(requests)])
            ended = time.perf_counter()
            ledger.replies.append(Reply(due, ended, code, code == OK and is_degraded(reply)))
            ledger.sent = sum(sent)
            number += clients

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool, watched(ledger, watch):
        try:
            for running in [pool.submit(client, place) for place in range(clients)]:
                running.result()
        finally:
            stop.set()  # after an interrupt
    ledger.sent = sum(sent)
    return ledger
