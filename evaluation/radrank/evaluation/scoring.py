"""The scores of every method in one direction, with parameters and offsets that were found on validation.

A bundle sees what is judged in blocks, mostly one: a world, and beside it another one to tune on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from radrank.core.ports import Reranker
from radrank.core.studies import Modality
from radrank.evaluation.matching import find_offset, with_offset
from radrank.evaluation.metrics import Scores, normals_share
from radrank.evaluation.pooling import pooled_scores
from radrank.evaluation.training_free import METHODS, tune
from radrank.evaluation.trial import Trial
from radrank.evaluation.worlds import CANDIDATES, World

EMBEDDING = "embedding only"

Direction = tuple[Modality, Modality]
Step = Callable[[], None]
Key = tuple[str, bool]
"""A row's name, and whether it is matched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """tuning: where parameters and offsets are found, None where there is too little to find them on."""

    judged: World
    tuning: World | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """One bundle's eyes on what is judged.

    name: of the bundle; encoder: its identity. Bundles of one encoder share their blocks.
    """

    name: str
    encoder: str
    rerankers: Mapping[str, Reranker]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """Found on validation: parameters of the training-free methods, and offsets by name of the row (none untuned).

    share: of normals in the embedding's top 10 there, NaN untuned
    """

    parameters: Mapping[str, Mapping[str, float]]
    offsets: Mapping[str, float]
    share: float


UNTUNED = Tuned(parameters={name: method.grid[0] for name, method in METHODS.items()}, offsets={}, share=float("nan"))


class Scorer:
    """Scores of whole directions; what it found on a world to tune on is kept for the next block that has it."""

    def __init__(self, *, candidates: int = CANDIDATES, workers: int = 1) -> None:
        self.candidates = candidates
        self._workers = workers
        self._plain: dict[tuple[World, Direction], Tuned] = {}
        # The re-rankers are kept with what was found for them: an id is theirs only as long as they live.
        self._learned: dict[tuple[World, Direction, int], tuple[Mapping[str, Reranker], Mapping[str, float]]] = {}

    def scores(self, seed: Seed, direction: Direction, *, plain: bool, step: Step = lambda: None) -> dict[Key, Scores]:
        """Pooled over the blocks, float64 [q, n] by row; matched twins where there is something to tune on.

        plain: with the rows that need the encoder alone, which bundles of one encoder have in common
        step: called `work` times
        """
        trials: list[Trial] = []
        found: list[dict[Key, Scores]] = []
        for block in seed.blocks:
            trial = block.judged.trial(*direction)
            tuned = self.plain_tuned(block.tuning, direction, step)
            offsets = {**tuned.offsets, **self._learned_offsets(seed, block.tuning, direction, tuned.share, step)}
            raw: dict[str, Scores] = {}
            if plain:
                banks = block.judged.banks(*direction)
                raw[EMBEDDING] = trial.cosines
                for name, method in METHODS.items():
                    raw[name] = method.score(trial, banks, **tuned.parameters[name])
                    step()
            raw |= self._reranked(block.judged, seed, trial, step)
            rows: dict[Key, Scores] = {(name, False): scores for name, scores in raw.items()}
            rows |= {
                (name, True): with_offset(trial, scores, offsets[name])
                for name, scores in raw.items()
                if name in offsets
            }
            trials.append(trial)
            found.append(rows)
        return {key: pooled_scores(trials, [rows[key] for rows in found]) for key in found[0] if _in_all(key, found)}

    def other_embedding(self, seed: Seed, other: Sequence[Block], direction: Direction) -> dict[bool, Scores]:
        """Another encoder's plain cosines over the seed's entries, pooled, by whether they are matched.

        They are matched to the seed's share of normals, by the seed's own p(normal).
        """
        trials: list[Trial] = []
        found: list[dict[bool, Scores]] = []
        for block, twin in zip(seed.blocks, other, strict=True):
            trial, scores = block.judged.trial(*direction), twin.judged.trial(*direction).cosines
            rows: dict[bool, Scores] = {False: scores}
            if block.tuning is not None and twin.tuning is not None:
                share = self.plain_tuned(block.tuning, direction).share
                offset = find_offset(block.tuning.trial(*direction), twin.tuning.trial(*direction).cosines, share)
                rows[True] = with_offset(trial, scores, offset)
            trials.append(trial)
            found.append(rows)
        keys = [matched for matched in (False, True) if all(matched in rows for rows in found)]
        return {matched: pooled_scores(trials, [rows[matched] for rows in found]) for matched in keys}

    def work(self, seeds: Iterable[tuple[Seed, bool]], direction: Direction) -> int:
        """How often `scores` of these seeds, each plain or not, will call its step."""
        steps = 0
        counted: set[tuple[object, ...]] = {*self._plain, *self._learned}
        for seed, plain in seeds:
            for block in seed.blocks:
                asked = len(block.judged.entries[direction[0]])
                steps += len(METHODS) * plain + asked * bool(seed.rerankers)
                if block.tuning is None:
                    continue
                key = (block.tuning, direction)
                if key not in counted:
                    steps += len(METHODS)
                if seed.rerankers and (*key, id(seed.rerankers)) not in counted:
                    steps += len(block.tuning.entries[direction[0]])
                counted |= {key, (*key, id(seed.rerankers))}
        return steps

    def plain_tuned(self, world: World | None, direction: Direction, step: Step = lambda: None) -> Tuned:
        """What is tuned of the rows that need the encoder alone."""
        if world is None:
            return UNTUNED
        if (world, direction) not in self._plain:
            trial, banks = world.trial(*direction), world.banks(*direction)
            share = float(normals_share(trial, trial.cosines).mean())
            parameters: dict[str, Mapping[str, float]] = {}
            offsets: dict[str, float] = {}
            for name, method in METHODS.items():
                parameters[name] = tune(method, trial, banks)
                offsets[name] = find_offset(trial, method.score(trial, banks, **parameters[name]), share)
                step()
            self._plain[world, direction] = Tuned(parameters=parameters, offsets=offsets, share=share)
        return self._plain[world, direction]

    def _learned_offsets(
        self, seed: Seed, world: World | None, direction: Direction, share: float, step: Step
    ) -> Mapping[str, float]:
        if world is None or not seed.rerankers:
            return {}
        key = (world, direction, id(seed.rerankers))
        if key not in self._learned:
            trial = world.trial(*direction)
            scores = self._reranked(world, seed, trial, step)
            offsets = {name: find_offset(trial, found, share) for name, found in scores.items()}
            self._learned[key] = seed.rerankers, offsets
        return self._learned[key][1]

    def _reranked(self, world: World, seed: Seed, trial: Trial, step: Step) -> Mapping[str, Scores]:
        if not seed.rerankers:
            return {}
        return world.reranked(seed.rerankers, trial, candidates=self.candidates, workers=self._workers, step=step)


def _in_all(key: Key, blocks: Sequence[Mapping[Key, Scores]]) -> bool:
    return all(key in rows for rows in blocks)
