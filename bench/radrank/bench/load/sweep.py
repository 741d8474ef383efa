"""Which rates are tried, and which of them the server keeps up with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from radrank.bench.load.results import AUTO, Run
from radrank.core.errors import InvalidQuery

LEAST_RATE = 1.0
PRECISION = 0.05
"""Of the highest rate: a rate that is this much higher was tried and did not pass."""

Measure: TypeAlias = Callable[[str, float], Run]
"""Runs one word of --rate at that many requests per second."""


def words_of(rates: str) -> list[str]:
    """The words of --rate, checked: numbers, "auto", and multiples of the highest passing rate, such as "0.8x"."""
    words = [word.strip().lower() for word in rates.split(",") if word.strip()]
    if not words:
        raise InvalidQuery("rate", "must name a rate, such as 50,100 or auto")
    for word in words:
        try:
            good = word == AUTO or 0 < float(word.removesuffix("x")) < 1e6
        except ValueError:
            good = False
        if not good:
            raise InvalidQuery("rate", f"{word} is none of a number above 0 (per second), auto, and a multiple like 2x")
    return words


def sweep(words: Sequence[str], measure: Measure, objective_ms: float, *, first: float) -> Iterator[Run]:
    """A run for each word, several for "auto", which begins with the rate `first`.

    Raises InvalidQuery where a multiple has no rate to multiply.
    """
    runs: list[Run] = []
    for word in words:
        if word == AUTO:
            fresh = _search(measure, objective_ms, first)
        elif word.endswith("x"):
            found = highest(runs, objective_ms)
            if found is None or found.rate is None:
                raise InvalidQuery("rate", f"no rate before {word} met the objective: put auto or a lower one first")
            fresh = iter([measure(word, float(word[:-1]) * found.rate)])
        else:
            fresh = iter([measure(word, float(word))])
        for run in fresh:
            runs.append(run)
            yield run


def highest(runs: Sequence[Run], objective_ms: float) -> Run | None:
    """The run of the highest rate that met the objective; None where none did."""
    passing = [run for run in runs if run.rate is not None and run.meets(objective_ms)]
    return max(passing, key=lambda run: run.rate or 0.0, default=None)


def reasons(runs: Sequence[Run], objective_ms: float) -> list[str]:
    """Why the report is void: of void runs, those that it rests on.

    Of "auto" that is the lowest rate that failed above the highest that passed; a void run further up, or one that was
    measured again, changes nothing.
    """
    found = highest([run for run in runs if run.asked == AUTO], objective_ms)
    floor = found.rate if found is not None and found.rate is not None else 0.0
    above = [run for run in runs if run.asked == AUTO and (run.rate or 0.0) > floor]
    limit = min(above, key=lambda run: (run.rate or 0.0, bool(run.void)), default=None)
    return [f"{run.name}: {run.void}" for run in runs if run.void and (run.asked != AUTO or run is limit)]


def _search(measure: Measure, objective_ms: float, first: float) -> Iterator[Run]:
    """Doubles until a rate fails, then halves the gap. A void run is measured once more."""
    passed, failed, rate = 0.0, 0.0, max(LEAST_RATE, first)
    while not failed or (failed - passed > PRECISION * failed and failed > LEAST_RATE):
        run = measure(AUTO, rate)
        yield run
        if run.void:
            run = measure(AUTO, rate)
            yield run
        if run.meets(objective_ms):
            passed = rate
        else:
            failed = rate
        rate = (passed + failed) / 2 if failed else passed * 2
