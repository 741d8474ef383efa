"""What the services are told of a call beside its request."""

from __future__ import annotations

from dataclasses import dataclass

from radrank.core.timing import Deadline


@dataclass(kw_only=True, slots=True)
class Caller:
    """Who asks, and until when.

    deadline: by which the answer is wanted
    peer: where the call comes from, as gRPC writes it: "ipv4:127.0.0.1:40000"
    arrived_ns: `time.perf_counter_ns()` when the request came, before it waited for anything
    waits: False once the caller has gone, and nobody takes the answer
    """

    deadline: Deadline
    peer: str
    arrived_ns: int
    waits: bool = True
