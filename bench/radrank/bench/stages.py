"""Where a search spends its time, stage by stage as the server tells it, beside what each stage can't do without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from radrank.bench.floors import Floors, empty_calls
from radrank.bench.footprint import serving
from radrank.bench.sides import Question, in_process, questions
from radrank.bench.turns import Call, Ratio, Times, in_turn, machine, median, ratio
from radrank.client.client import Client
from radrank.client.requests import SearchOptions
from radrank.core.errors import InvalidQuery
from radrank.core.ranking import OFF
from radrank.datasets.progress import Task

EMBEDDING, TEXT, IMAGE = "embedding", "text", "image"
STAGES = ("decode", "encode", "candidates", "graph", "rerank", "order")
REPLY, WIRE, BEYOND, WHOLE = "reply", "wire", "beyond the stages", "client"
ROWS = (*STAGES, REPLY, WIRE, BEYOND, WHOLE)
"""reply: the server's total less its stages; wire: the client's time less the server's total; beyond the stages: both
together."""
BEYOND_LIMIT_MS = 1.0
"""What an embedding query's client sees beyond the sum of stages shall be at most; one client, loopback."""
FLOORS: Mapping[str, str] = {
    "decode": "the decoder in a bare loop; of an embedding, a copy of its bytes",
    "encode": "the same engine in a bare loop",
    "candidates": "the same index in a bare loop",
    "graph": "one memcpy of the vectors and arrays that it reads",
    "rerank": "the same engine in a bare loop",
    "order": "one sort of the scores",
    WIRE: "an empty call to the same server",
    BEYOND: "an empty call to the same server",
}
SCAN = "scan"
"""One memcpy of all vectors of the searched modality: the floor of an exact scan, which the index avoids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """queries: studies that ask; rounds: how often each does; reranker: None for the bundle's default"""

    bundle: Path
    archive: Path
    dataset: str = "demo"
    root: Path | None = None
    queries: int = 8
    rounds: int = 10
    candidates: int = 100
    reranker: str | None = None
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Medians in milliseconds. over: the time over its floor, None where the stage has none or did not run."""

    name: str
    ms: float
    floor_ms: float | None
    over: Ratio | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of query. scan_ms: see SCAN."""

    name: str
    stages: Sequence[Stage]
    scan_ms: float

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    kinds: Sequence[Kind]
    bundle: str
    reranker: str
    studies: int
    queries: int
    candidates: int
    rounds: int
    command: str
    machine: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "floors": dict(FLOORS), "beyond_limit_ms": BEYOND_LIMIT_MS}


def stages(options: Options, *, task: Task) -> Stages:
    """Starts the server, asks it, and runs the floors in turn with it. Raises RadrankError."""
    before = machine()
    asked = questions(options.dataset, options.root, options.queries)
    with ExitStack() as stack:
        address = stack.enter_context(serving(options.bundle, options.archive)).address
        client = stack.enter_context(Client(address, timeout=120.0))
        bundle, ranker = stack.enter_context(in_process(options.bundle, options.archive))
        empty = stack.enter_context(empty_calls(address))
        name = options.reranker or bundle.default_reranker
        if name not in bundle.rerankers:
            one = f"name one with --reranker: {', '.join(sorted(bundle.rerankers))}"
            raise InvalidQuery("reranker", f"{name} ranks nothing; {one}" if name == OFF else f"unknown; {one}")
        floors = Floors(bundle, ranker, name, candidates=options.candidates)
        fixed: SearchOptions = {"candidates": options.candidates, "reranker": name}

        def told(query: SearchOptions) -> Call:
            return lambda: _told(client, {**query, **fixed})

        kinds: Mapping[str, Callable[[Question], list[Call]]] = {
            EMBEDDING: lambda one: [
                told({"embedding": floors.text_vector(one.phrase), "modality": "report"}),
                *floors.of_embedding(one.phrase),
            ],
            TEXT: lambda one: [told({"text": one.phrase}), *floors.of_text(one.phrase)],
            IMAGE: lambda one: [told({"image": one.image}), *floors.of_image(one.image)],
        }
        found = []
        for kind, calls in kinds.items():
            with task(kind, 1 + options.rounds) as step:
                times = in_turn([[*calls(one), empty] for one in asked], rounds=options.rounds, step=step)
            found.append(kind_of(kind, times))
        return Stages(
            kinds=found,
            bundle=bundle.manifest.name,
            reranker=name,
            studies=client.stats().studies,
            queries=len(asked),
            candidates=options.candidates,
            rounds=options.rounds,
            command=options.command,
            machine=before,
        )


def kind_of(name: str, times: Times) -> Kind:
    """times: by the names of ROWS, and of their floors as Floors tells them."""
    rows = []
    for row in ROWS:
        floor = times.get(f"floor {WIRE if row == BEYOND else row}")
        ran = median(times[row])
        rows.append(
            Stage(
                name=row,
                ms=ran,
                floor_ms=None if floor is None else median(floor),
                over=None if floor is None or not ran else ratio(times[row], floor),
            )
        )
    return Kind(name=name, stages=rows, scan_ms=median(times[SCAN]))


def _told(client: Client, query: SearchOptions) -> dict[str, float]:
    start = perf_counter_ns()
    reply = client.search(**query)
    whole = (perf_counter_ns() - start) / 1e6
    found = {stage: getattr(reply.times, f"{stage}_us") / 1e3 for stage in STAGES}
    total, summed = reply.times.total_us / 1e3, sum(found.values())
    return {**found, REPLY: total - summed, WIRE: whole - total, BEYOND: whole - summed, WHOLE: whole}
