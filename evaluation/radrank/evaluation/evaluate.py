"""Judges bundles: every row of PROTOCOL in every direction, screening, leak tests, and what the plots draw beyond that.

Re-rankers of one name in several bundles are one row, their seeds averaged. What one thing changed is worth is told by
comparisons: of each re-ranker with its controls, and of what is new with the baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality
from radrank.datasets.progress import Task
from radrank.evaluation.bootstrap import DRAWS
from radrank.evaluation.controls import controls_of, explained, family
from radrank.evaluation.details import Detail, detail
from radrank.evaluation.judge import Judged, judge
from radrank.evaluation.leaks import leak_tests
from radrank.evaluation.metrics import Scores
from radrank.evaluation.pooling import pooled_trial
from radrank.evaluation.results import Family, Report, Screened, Table
from radrank.evaluation.scoring import EMBEDDING, Block, Direction, Key, Scorer, Seed
from radrank.evaluation.screening import Reliability, reliability, screen, top_vote
from radrank.evaluation.training_free import FLOORS, METHODS
from radrank.evaluation.trial import Trial
from radrank.evaluation.worlds import Entries

# The mission's directions first.
DIRECTIONS: tuple[Direction, ...] = (
    (Modality.IMAGE, Modality.REPORT),
    (Modality.REPORT, Modality.IMAGE),
    (Modality.IMAGE, Modality.IMAGE),
    (Modality.REPORT, Modality.REPORT),
)

BASELINE = "CLIP loss alone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Another encoder, whose plain embedding is a row. blocks: the seeds' under it, for each seed or the first few"""

    name: str
    blocks: Sequence[tuple[Block, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """reliability: of the first bundle's classifier, by modality."""

    report: Report
    details: tuple[Detail, ...]
    reliability: Mapping[str, Reliability]


def evaluate(
    seeds: Sequence[Seed],
    scorer: Scorer,
    *,
    title: str,
    task: Task,
    notes: Sequence[str] = (),
    baselines: Sequence[Baseline] = (),
    default: str | None = None,
    draws: int = DRAWS,
    directions: Sequence[Direction] = DIRECTIONS,
) -> Findings:
    """Judges these bundles of one recipe on their blocks, which hold the same studies in the same order.

    scorer: may be used again, for what it has tuned; baselines: other encoders, to be compared with
    default: the re-ranker that is served, which the plots show; without one the first, or αQE + DBA
    """
    shown = _shown(seeds, default)
    tables: list[Table] = []
    details: list[Detail] = []
    screened: dict[str, tuple[Screened, ...]] = {}
    reliable: dict[str, Reliability] = {}
    for direction in directions:
        source, target = direction
        trial, rows = _scored(seeds, scorer, baselines, direction, task)
        with task("bootstrap", 1) as advance:
            tables.append(_table(trial, rows, baselines, shown, draws))
            details.append(
                detail(
                    trial,
                    rows[EMBEDDING, False][1],
                    rows[shown, False][1],
                    method=shown,
                    groups=seeds[0].blocks[0].judged.collection.groups,
                    labels=np.concatenate([entries.labels for entries in _asked(seeds[0], source)]),
                )
            )
            advance()
        if target is Modality.REPORT and trial.query_normal.any():  # as the server votes
            screened[source.value] = _screened(trial, rows, shown, seeds, source)
            reliable[source.value] = _reliability(seeds[0], source)
    leaks = _leaks(seeds, scorer.candidates, task)
    told = [*notes, explained(name for seed in seeds for name in seed.rerankers), *_tuned(seeds[0], scorer, directions)]
    report = Report(title=title, notes=tuple(filter(None, told)), tables=tuple(tables), screening=screened, leaks=leaks)
    return Findings(report=report, details=tuple(details), reliability=reliable)


def _scored(
    seeds: Sequence[Seed], scorer: Scorer, baselines: Sequence[Baseline], direction: Direction, task: Task
) -> tuple[Trial, dict[Key, tuple[Family, list[Scores]]]]:
    """The first seed's trial, and the scores of all rows, one array a seed; matched rows last."""
    fresh = [seed.encoder not in {other.encoder for other in seeds[:place]} for place, seed in enumerate(seeds)]
    trial = pooled_trial([block.judged.trial(*direction) for block in seeds[0].blocks])
    rows: dict[Key, tuple[Family, list[Scores]]] = {
        (name, False): (Family.FLOOR, [floor(trial)]) for name, floor in FLOORS.items()
    }
    with task(trial.name, scorer.work(zip(seeds, fresh, strict=True), direction)) as step:
        for seed, new in zip(seeds, fresh, strict=True):
            for key, scores in scorer.scores(seed, direction, plain=new, step=step).items():
                rows.setdefault(key, (_family(key[0]), []))[1].append(scores)
    for baseline in baselines:
        others = [
            scorer.other_embedding(seed, blocks, direction)
            for seed, blocks in zip(seeds, baseline.blocks, strict=False)
        ]
        for matched in others[0]:
            rows[baseline.name, matched] = Family.EMBEDDING, [found[matched] for found in others]
    return trial, dict(sorted(rows.items(), key=lambda row: row[0][1]))


def _family(name: str) -> Family:
    return Family.EMBEDDING if name == EMBEDDING else Family.TRAINING_FREE if name in METHODS else family(name)


def _table(
    trial: Trial, rows: Mapping[Key, tuple[Family, list[Scores]]], baselines: Sequence[Baseline], shown: str, draws: int
) -> Table:
    judged = [
        Judged(name=name, family=kind, matched=matched, scores=tuple(scores))
        for (name, matched), (kind, scores) in rows.items()
    ]
    names = [name for (name, matched), (kind, _) in rows.items() if kind is Family.RERANKER and not matched]
    pairs = [(name, control) for name in names for control in controls_of(name) if (control, False) in rows]
    for baseline in baselines:
        pairs += [(name, baseline.name) for name in dict.fromkeys([EMBEDDING, *names, shown])]
    return judge(trial, judged, reference=EMBEDDING, comparisons=pairs, draws=draws)


def _shown(seeds: Sequence[Seed], default: str | None) -> str:
    names = list(dict.fromkeys(name for seed in seeds for name in seed.rerankers))
    taken = {EMBEDDING, *METHODS, *FLOORS} & set(names)
    if taken:
        raise InvalidQuery("bundle", f"has a re-ranker called {min(taken)}, which is the name of another row")
    if default in names:
        return str(default)
    return next((name for name in names if family(name) is Family.RERANKER), "αQE + DBA")


def _asked(seed: Seed, source: Modality) -> list[Entries]:
    return [block.judged.entries[source] for block in seed.blocks]


def _screened(
    trial: Trial,
    rows: Mapping[Key, tuple[Family, list[Scores]]],
    shown: str,
    seeds: Sequence[Seed],
    source: Modality,
) -> tuple[Screened, ...]:
    """Majority, vote and classifier, and the vote of what is re-ranked; means over encoders, or over seeds."""
    truth = trial.query_normal
    encoders = {seed.encoder: seed for seed in reversed(seeds)}
    ordered = [encoders[name] for name in dict.fromkeys(seed.encoder for seed in seeds)]
    votes = [top_vote(trial, scores) for scores in rows[EMBEDDING, False][1]]
    found = [screen(_abnormal(seed, source), vote, truth) for seed, vote in zip(ordered, votes, strict=True)]
    again = [screen(_abnormal(seeds[0], source), top_vote(trial, scores), truth)[1] for scores in rows[shown, False][1]]
    majority, vote, classifier = (_averaged(one) for one in zip(*found, strict=True))
    return majority, vote, replace(_averaged(again), method=f"{vote.method}, {shown}"), classifier


def _averaged(found: Sequence[Screened]) -> Screened:
    def mean(name: str) -> float | None:
        values = [getattr(one, name) for one in found]
        return None if None in values else float(np.mean(values))

    names = [name for name in Screened.__slots__ if name != "method"]
    return replace(found[0], **{name: mean(name) for name in names})  # type: ignore[arg-type]


def _abnormal(seed: Seed, source: Modality) -> NDArray[np.float32]:
    return np.concatenate([entries.abnormal for entries in _asked(seed, source)])


def _reliability(seed: Seed, source: Modality) -> Reliability:
    return reliability(_abnormal(seed, source), np.concatenate([one.normal for one in _asked(seed, source)]))


def _leaks(seeds: Sequence[Seed], candidates: int, task: Task) -> dict[str, bool]:
    """Of every bundle, on its first block; a test holds where it does for all bundles."""
    held: dict[str, bool] = {}
    with task("leak tests", 4 * len(seeds)) as step:
        for seed in seeds:
            found = leak_tests(seed.blocks[0].judged, seed.rerankers, candidates=candidates, step=step)
            held |= {name: held.get(name, True) and passed for name, passed in found.items()}
    return held


def _tuned(seed: Seed, scorer: Scorer, directions: Sequence[Direction]) -> Iterator[str]:
    """What validation chose, for the first bundle and block."""
    tuning = seed.blocks[0].tuning
    for direction in directions if tuning else ():
        found = scorer.plain_tuned(tuning, direction).parameters
        chosen = (
            f"{name} {', '.join(f'{key} {value:g}' for key, value in values.items())}" for name, values in found.items()
        )
        yield f"Chosen on validation, {direction[0]}→{direction[1]}: {'; '.join(chosen)}."
