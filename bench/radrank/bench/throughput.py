"""Requests a second: our pipeline on all cores of this process, and our server with 16 clients on the same cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from radrank.bench.load.channels import OK, Channels
from radrank.bench.load.loops import closed_loop
from radrank.bench.load.questions import serialised
from radrank.bench.load.results import CLOSED, Plan, Run, summed
from radrank.client.client import Client
from radrank.core.ranking import Ranker
from radrank.core.timing import NO_DEADLINE
from radrank.server import codecs
from radrank.v1 import retrieval_pb2

KINDS = ("text", "image", "embedding")
CLIENTS = 16
WANTED = 0.9
"""Of what the pipeline does in process, which has the cores for itself; the server shares them with its clients."""
_WARM_UP = 0.5
_DEADLINE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Requests a second, medians over rounds. threads: of the pipeline; refused: by the server, in all rounds."""

    kind: str
    ours: float
    server: float
    threads: int
    clients: int
    refused: int

    @property
    def share(self) -> float:
        return self.server / self.ours


def throughput(
    kind: str, ranker: Ranker, client: Client, *, rounds: int, seconds: float, step: Callable[[], None], **options: Any
) -> Throughput:
    """Both in turn, with the same requests as bytes.

    step: called after each of the rounds; options: of every search
    """
    requests = serialised(client, kind, None, **options)
    cores = len(os.sched_getaffinity(0))
    ours, served = [], []
    with Channels(client.target, token=None, ca=None, count=CLIENTS, deadline=_DEADLINE) as channels:
        for _ in range(rounds):
            ours.append(_run(_InProcess(ranker), requests, cores, seconds))
            served.append(_run(channels, requests, CLIENTS, seconds))
            step()
    return Throughput(
        kind=kind,
        ours=median(run.achieved for run in ours),
        server=median(run.achieved for run in served),
        threads=cores,
        clients=CLIENTS,
        refused=sum(sum(run.errors.values()) for run in served),
    )


class _InProcess:
    """A line to no server: requests are decoded and searched by whoever calls."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def call(self, number: int, request: bytes) -> tuple[str, bytes]:  # noqa: ARG002 - the line's signature
        message = retrieval_pb2.SearchRequest.FromString(request)
        query = codecs.search_query(message, image_size=self._ranker.encoder.image_size, deadline=NO_DEADLINE)
        self._ranker.search(query)
        return OK, b""


def _run(line: Any, requests: Sequence[bytes], clients: int, seconds: float) -> Run:
    ledger = closed_loop(line, requests, clients=clients, warm_up=_WARM_UP, seconds=seconds)
    return summed(Plan(asked=CLOSED, clients=clients, seconds=seconds, warm_up=_WARM_UP), ledger, scheduling="")
