"""The same queries, by the same weights, in one run: a careful user's torch and PyG, our pipeline, and our server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radrank.bench.careful import Careful
from radrank.bench.contest import CAREFUL, HITS, OURS, RERANKER, SERVER, Contest
from radrank.bench.footprint import serving
from radrank.bench.sides import Question, in_process, questions
from radrank.bench.throughput import KINDS, Throughput, throughput
from radrank.bench.turns import Call, Ratio, Times, fastest, in_turn, machine, median, ratio
from radrank.client.client import Client
from radrank.core.studies import Modality
from radrank.datasets.progress import Task
from radrank.engines.encoder import Tokens
from radrank.training.runs import Run

SIDES = (CAREFUL, OURS, SERVER)
PHRASE, REPORT, IMAGE, EMBEDDING, GRAPH = (
    "text: an impression",
    "text: a whole report",
    "image",
    "embedding",
    "graph + re-rank",
)
TARGETS: Mapping[str, float] = {PHRASE: 6.0, IMAGE: 1.8, GRAPH: 5.0}
"""What torch + PyG over ours in process shall at least be, with a bundle of BiomedCLIP's shape on 2 CPU cores."""
SAME = 1e-4
"""Scores of one candidate by both sides may differ by so much."""
_CALL_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """run, bundle and archive belong together: the bundle was exported from the run, the archive built with it.

    queries: studies that ask, each with image, impression and report; rounds: how often each does
    seconds: of one turn of either side in the comparison of throughput
    """

    run: Path
    bundle: Path
    archive: Path
    dataset: str = "demo"
    root: Path | None = None
    queries: int = 8
    rounds: int = 5
    candidates: int = 100
    seconds: float = 4.0
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One kind of query. medians: milliseconds by side; ours, served: torch + PyG over our pipeline and our server;
    fastest: over our pipeline, from the fastest round of each question
    """

    name: str
    questions: int
    medians: Mapping[str, float]
    ours: Ratio
    served: Ratio
    fastest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Medians over texts. tokens: of a text itself; ours, theirs: with each side's padding."""

    tokens: float
    ours: float
    theirs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """engines: what each model of ours runs on; throughput: ours and the server's, a second
    scores: largest difference between torch + PyG and ours, of re-ranked scores of the same candidates; vectors: the
    same of encoded items, by modality; same_hits: whether the server answered every embedding as our pipeline did.
    """

    parts: Sequence[Part]
    throughput: Sequence[Throughput]
    engines: Mapping[str, str]
    scores: float
    vectors: Mapping[str, float]
    same_hits: bool
    lengths: Mapping[str, Lengths]
    bundle: str
    studies: int
    candidates: int
    rounds: int
    command: str
    machine: Mapping[str, str]

    @property
    def agrees(self) -> bool:
        return self.same_hits and self.scores <= SAME

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self), "targets": dict(TARGETS)}


def peers(options: Options, *, task: Task) -> Peers:
    """Opens all three sides and asks them in turn. Raises RadrankError."""
    before = machine()
    asked = questions(options.dataset, options.root, options.queries)
    with ExitStack() as stack:
        address = stack.enter_context(serving(options.bundle, options.archive)).address
        client = stack.enter_context(Client(address, timeout=_CALL_SECONDS))
        bundle, ranker = stack.enter_context(in_process(options.bundle, options.archive))
        careful = Careful(Run(path=options.run), ranker.view)
        contest = Contest(careful, ranker, client, candidates=options.candidates)
        vectors = [vector for question in asked for vector in contest.vectors(question)]
        kinds: Mapping[str, Callable[[], list[Sequence[Call]]]] = {
            PHRASE: lambda: [contest.text(question.phrase) for question in asked],
            REPORT: lambda: [contest.text(question.report) for question in asked],
            IMAGE: lambda: [contest.image(question.image) for question in asked],
            EMBEDDING: lambda: [contest.embedding(vector) for vector in vectors],
            GRAPH: lambda: [contest.graph(vector) for vector in vectors],
        }
        parts = []
        for name, calls in kinds.items():
            with task(name, 1 + options.rounds) as step:
                parts.append(_part(name, in_turn(calls(), rounds=options.rounds, step=step)))
        rates = []
        for kind in KINDS:
            with task(f"throughput: {kind}", options.rounds) as step:
                rates.append(
                    throughput(
                        kind,
                        ranker,
                        client,
                        rounds=options.rounds,
                        seconds=options.seconds,
                        step=step,
                        k=HITS,
                        candidates=options.candidates,
                        reranker=RERANKER,
                    )
                )
        apart = [contest.vector_difference(question) for question in asked]
        return Peers(
            parts=parts,
            throughput=rates,
            engines={name: f"{one.manifest.runtime}, {one.manifest.precision}" for name, one in bundle.engines.items()},
            scores=max(contest.score_difference(vector) for vector in vectors),
            vectors={m.value: max(one[m.value] for one in apart) for m in Modality},
            same_hits=all(contest.same_hits(vector) for vector in vectors),
            lengths=_lengths(asked, bundle.encoder.tokens, bundle.manifest.text.max_tokens),
            bundle=bundle.manifest.name,
            studies=client.stats().studies,
            candidates=options.candidates,
            rounds=options.rounds,
            command=options.command,
            machine=before,
        )


def _part(name: str, times: Times) -> Part:
    return Part(
        name=name,
        questions=len(times[OURS]),
        medians={side: median(times[side]) for side in SIDES},
        ours=ratio(times[CAREFUL], times[OURS]),
        served=ratio(times[CAREFUL], times[SERVER]),
        fastest=fastest(times[CAREFUL]) / fastest(times[OURS]),
    )


def _lengths(asked: Sequence[Question], tokens: Tokens, context: int) -> dict[str, Lengths]:
    found = {}
    for name, texts in ((PHRASE, [one.phrase for one in asked]), (REPORT, [one.report for one in asked])):
        ids = [tokens([text]) for text in texts]
        found[name] = Lengths(
            tokens=float(np.median([len(one[0]) for one in ids])),
            ours=float(np.median([tokens.padded(one).shape[1] for one in ids])),
            theirs=float(context),
        )
    return found
