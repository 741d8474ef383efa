"""Two servers under the same loads, in turn: so that what else the machine does falls on both alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from radrank.bench.perf_analyzer import Load, Reading
from radrank.bench.turns import Ratio

OURS, TRITON = SIDES = ("our server", "Triton")
CLOSED = (1, 4, 16)
POISSON_SHARE = 0.5
"""Of what the slower side reaches in a closed loop: both can answer so many, and differ in how long it takes."""

Measure = Callable[[str, Load], Reading | None]
"""Of a side under a load; None where it was not stable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One load of one kind of query. readings: medians over stable turns by side, None where none was stable.

    stable: how many turns were, by side
    faster: ours, the median over rounds where both were stable, and the lowest and the highest of them; by throughput
    in a closed loop, and by p50 where both get the same requests a second
    """

    kind: str
    load: str
    concurrency: int | None
    rate: float | None
    readings: Mapping[str, Reading | None]
    stable: Mapping[str, int]
    faster: Ratio | None


def closed_and_open(kind: str, measure: Measure, *, rounds: int, step: Callable[[], None]) -> list[Row]:
    """A row for each closed loop, and one for Poisson arrivals if both sides were stable in any of those.

    step: called after each of `turns(rounds)` turns
    """
    rows = in_rounds(kind, [Load(concurrency=clients) for clients in CLOSED], measure, rounds=rounds, step=step)
    reached = [[reading.throughput for row in rows if (reading := row.readings[side]) is not None] for side in SIDES]
    if not all(reached):
        return rows
    rate = float(f"{POISSON_SHARE * min(map(max, reached)):.2g}")
    return rows + in_rounds(kind, [Load(rate=rate)], measure, rounds=rounds, step=step)


def turns(rounds: int) -> int:
    """How many `closed_and_open` takes."""
    return (len(CLOSED) + 1) * len(SIDES) * rounds


def in_rounds(
    kind: str, loads: Sequence[Load], measure: Measure, *, rounds: int, step: Callable[[], None]
) -> list[Row]:
    """Every load on both sides in each round; whoever was first is last the next time."""
    taken: list[dict[str, list[Reading | None]]] = [{side: [] for side in SIDES} for _ in loads]
    for number in range(rounds):
        for place, load in enumerate(loads):
            for side in SIDES if (number + place) % 2 else reversed(SIDES):
                taken[place][side].append(measure(side, load))
                step()
    return [_row(kind, load, found) for load, found in zip(loads, taken, strict=True)]


def _row(kind: str, load: Load, taken: Mapping[str, Sequence[Reading | None]]) -> Row:
    stable = {side: [one for one in found if one is not None] for side, found in taken.items()}
    both = [(ours, theirs) for ours, theirs in zip(taken[OURS], taken[TRITON], strict=True) if ours and theirs]
    ratios = [
        ours.throughput / theirs.throughput if load.concurrency else theirs.p50 / ours.p50 for ours, theirs in both
    ]
    return Row(
        kind=kind,
        load=str(load),
        concurrency=load.concurrency,
        rate=load.rate,
        readings={side: _median(found) for side, found in stable.items()},
        stable={side: len(found) for side, found in stable.items()},
        faster=Ratio(value=median(ratios), low=min(ratios), high=max(ratios)) if ratios else None,
    )


def _median(readings: Sequence[Reading]) -> Reading | None:
    if not readings:
        return None
    return Reading(
        throughput=median(one.throughput for one in readings),
        p50=median(one.p50 for one in readings),
        p99=median(one.p99 for one in readings),
    )
