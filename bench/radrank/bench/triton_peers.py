"""The same search by our server and by NVIDIA Triton, asked in turn over KServe v2 by NVIDIA's perf_analyzer.

Both serve one bundle and one archive with ONNX Runtime on the CPU: Triton as `radrank export triton` sets it up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.bench.footprint import serving
from radrank.bench.perf_analyzer import Load, PerfAnalyzer, Query, Reading, program, write_queries
from radrank.bench.side_by_side import OURS, TRITON, Row, closed_and_open, turns
from radrank.bench.sides import Question, questions
from radrank.bench.triton_process import triton_serving
from radrank.bench.turns import machine
from radrank.client.client import Client
from radrank.core.errors import InvalidQuery, Mismatch
from radrank.core.studies import Modality
from radrank.core.vectors import Vector
from radrank.datasets.progress import Task
from radrank.engines.kserve.exported import SEARCH
from radrank.engines.manifest import read_manifest
from radrank.export.triton import write_repository
from radrank.export.triton_models import PYTHON, TritonSettings

SAME = 1e-5
"""Scores of one hit by both sides may differ by so much."""
LOG, QUERIES = "triton.log", "queries.json"
_HITS = 10
_SETTINGS = {
    "RADRANK_ENGINES__RUNTIME": "onnxruntime-cpu",  # what the exported python models run on
    "RADRANK_LIMITS__IN_FLIGHT": "256",  # perf_analyzer stops at the first refusal, and Triton's queue has no end
}


EMBEDDING, TEXT, IMAGE = "embedding", "text", "image"
KINDS = (EMBEDDING, TEXT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """tritonserver, perf_analyzer: commands that start them; out: for Triton's log, and what is removed at the end
    kinds: of queries, of EMBEDDING, TEXT and IMAGE

    queries: studies that ask; rounds: turns of each load on each side; seconds: of one turn, about
    """

    bundle: Path
    archive: Path
    out: Path
    tritonserver: str = "tritonserver"
    perf_analyzer: str = "perf_analyzer"
    kinds: Sequence[str] = KINDS
    dataset: str = "demo"
    root: Path | None = None
    queries: int = 8
    rounds: int = 3
    candidates: int = 100
    seconds: float = 3.0
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A search that is served. address: host:port of the gRPC"""

    address: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """compared: queries that both sides gave the same ids for; scores: the largest difference between their scores"""

    rows: Sequence[Row]
    compared: int
    scores: float
    bundle: str
    reranker: str
    studies: int
    candidates: int
    rounds: int
    seconds: float
    versions: Mapping[str, str]
    command: str
    machine: Mapping[str, str]

    @property
    def slower(self) -> list[Row]:
        """Closed loops in which ours is not shown to be at least as fast."""
        return [row for row in self.rows if row.concurrency and (row.faster is None or row.faster.value < 1.0)]

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "at_least_as_fast": not self.slower}


def triton_peers(options: Options, *, task: Task) -> Beside:
    """Starts both, compares their answers, and measures them in turn. Raises RadrankError, and Mismatch where answers
    differ.
    """
    before = machine()
    for command, option in ((options.tritonserver, "--tritonserver"), (options.perf_analyzer, "--perf-analyzer")):
        program(command, option)  # what is missing should be said before minutes have gone
    manifest, _ = read_manifest(options.bundle)
    asked = questions(options.dataset, options.root, options.queries)
    options.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".peers-", dir=options.out)))
        analyzer = PerfAnalyzer(options.perf_analyzer, folder)
        with task("starting both", 3) as step:
            repository = _exported(options, folder / "repository")
            step()
            log = options.out / LOG
            theirs = stack.enter_context(triton_serving(options.tritonserver, repository, SEARCH, log))
            step()
            ours = stack.enter_context(serving(options.bundle, options.archive, _SETTINGS)).address
            step()
        sides = {OURS: Model(address=ours, name="search"), TRITON: Model(address=theirs, name=SEARCH)}
        with Client(ours, timeout=120.0) as client:
            vectors = list(client.embed(texts=[one.report for one in asked]))
            studies = client.stats().studies
        queries = {kind: _queries(kind, asked, vectors, options.candidates) for kind in options.kinds}
        with task("same answers", len(asked) * len(queries)) as step:
            scores = compare(list(sides.values()), [query for some in queries.values() for query in some], step=step)

        def measure(side: str, load: Load) -> Reading | None:
            model = sides[side]
            return analyzer.measure(model.address, model.name, folder / QUERIES, load, seconds=options.seconds)

        rows: list[Row] = []
        for kind, some in queries.items():
            write_queries(folder / QUERIES, some)
            with task(kind, turns(options.rounds)) as step:
                rows += closed_and_open(kind, measure, rounds=options.rounds, step=step)
        return Beside(
            rows=rows,
            compared=sum(map(len, queries.values())),
            scores=scores,
            bundle=manifest.name,
            reranker=manifest.default_reranker,
            studies=studies,
            candidates=options.candidates,
            rounds=options.rounds,
            seconds=options.seconds,
            versions={"Triton": _version(theirs), "perf_analyzer": analyzer.version},
            command=options.command,
            machine=before,
        )


def compare(models: Sequence[Model], queries: Sequence[Query], *, step: Callable[[], None]) -> float:
    """Asks both models every query. Returns the largest difference of two scores; raises Mismatch where ids differ, or
    scores by more than SAME.
    """
    from tritonclient.grpc import InferenceServerClient

    different, farthest = 0, 0.0
    with ExitStack() as stack:
        clients = [(stack.enter_context(InferenceServerClient(model.address)), model.name) for model in models]
        for query in queries:
            (ids, scores), (other_ids, other_scores) = (_found(client, name, query) for client, name in clients)
            if ids != other_ids:
                different += 1
            else:
                farthest = max(farthest, float(np.abs(scores - other_scores).max(initial=0.0)))
            step()
    if different or farthest > SAME:
        found = f"{different} of {len(queries)} with other ids, scores up to {farthest:.1e} apart"
        raise Mismatch("answers of our server and of Triton, whose times would mean nothing", "the same", found)
    return farthest


def _found(client: Any, model: str, query: Query) -> tuple[list[bytes], Vector]:
    """Ids and scores, best first."""
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    inputs = [
        InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
        for name, array in query.items()
    ]
    answer = client.infer(model, inputs)
    return answer.as_numpy("ids").tolist(), answer.as_numpy("scores")


def _version(address: str) -> str:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(address) as client:
        return str(client.get_server_metadata().version)


def _exported(options: Options, to: Path) -> Path:
    """A model repository of the bundle and the archive. Raises InvalidQuery where the archive's snapshot is behind."""
    settings = TritonSettings(backend=PYTHON)
    written = write_repository(options.bundle, options.archive, to, settings, step=lambda _: None)
    if written.behind:
        cure = f"take them in with: radrank index build --bundle {options.bundle} --archive {options.archive}"
        raise InvalidQuery("archive", f"has {written.behind:,} changes that its snapshot lacks; {cure}")
    return to


def _queries(kind: str, asked: Sequence[Question], vectors: Sequence[Vector], candidates: int) -> list[Query]:
    """One by each study that asks. vectors: of their reports"""
    fixed = {"k": np.array([_HITS], np.int32), "candidates": np.array([candidates], np.int32)}
    if kind == EMBEDDING:
        source = _bytes(Modality.REPORT.encode())
        return [{"embedding": vector, "modality": source, **fixed} for vector in vectors]
    if kind == TEXT:
        return [{"text": _bytes(one.phrase.encode()), **fixed} for one in asked]
    return [{"image": _bytes(one.image), **fixed} for one in asked]


def _bytes(value: bytes) -> NDArray[np.object_]:
    return np.array([value], dtype=object)
