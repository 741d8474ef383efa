"""The models of a bundle on every runtime that a GPU machine has, host to host, within so many minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.bench.gpu_card import Card, find_card
from radrank.bench.gpu_cells import BATCHES, CANDIDATES, NAMES, Cell, cells, feed_of, shapes_of
from radrank.bench.gpu_found import LEAST_SECONDS, Budget, Found, Measured, Row
from radrank.bench.gpu_serving import Loads, under_load
from radrank.bench.gpu_sides import CPU, Material, Open, Side, sides, why
from radrank.bench.gpu_turns import sampled
from radrank.bench.turns import clocked, machine
from radrank.core.errors import Unavailable
from radrank.datasets.progress import Task
from radrank.engines.buckets import smallest
from radrank.engines.encoder import Tokens
from radrank.engines.engine import Feed, Shapes
from radrank.engines.manifest import BundleManifest, read_manifest
from radrank.engines.models import RERANKER, models
from radrank.engines.parity import Golden, read_golden
from radrank.engines.plans import plans_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """run: that the bundle was exported from, for torch; archive: of the bundle, for the server; None leaves them out

    minutes: after which nothing new begins; only: of NAMES; loads: what the server is asked afterwards
    """

    bundle: Path
    out: Path
    run: Path | None = None
    archive: Path | None = None
    plans: Path | None = None
    minutes: float = 8.0
    only: Sequence[str] = tuple(NAMES)
    batches: Sequence[int] = BATCHES
    candidates: Sequence[int] = CANDIDATES
    loads: Loads = field(default_factory=Loads)
    command: str = ""


def gpu(options: Options, *, task: Task, keep: Callable[[Found], None]) -> Found:
    """Measures cell after cell, then the server. keep: is given all that was found so far, after each of them.

    Raises RadrankError where the bundle can't be read or a choice is unknown.
    """
    budget = Budget(options.minutes * 60.0)
    wanted = cells(options.only, options.batches, options.candidates)
    manifest, _ = read_manifest(options.bundle)
    loads = options.loads if options.archive is not None else replace(options.loads, kinds=())
    card, no_card = _card()
    found = Found(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        card=card,
        no_card=no_card,
        bundle=manifest.name,
        command=options.command,
        machine=machine(),
    )
    timed = Budget(budget.left - loads.needed)
    with task("GPU", len(wanted) + len(loads.kinds)) as step:
        for one in _measured(options, manifest, wanted, timed, found):
            found = replace(found, measured=(*found.measured, one))
            keep(found)
            step()
        if options.archive is not None:
            for load in under_load(options.bundle, options.archive, loads, options.out, lambda: budget.left):
                found = replace(found, loads=(*found.loads, load))
                keep(found)
                step()
    return found


def _card() -> tuple[Card | None, str]:
    try:
        return find_card(), ""
    except Unavailable as error:
        return None, str(error)


def _measured(
    options: Options, manifest: BundleManifest, wanted: Sequence[Cell], budget: Budget, found: Found
) -> Iterator[Measured]:
    """Model after model, each opened once for all of its cells."""
    stock = _Stock(options, manifest)
    waiting = len(wanted)
    for name in dict.fromkeys(cell.model for cell in wanted):
        mine = [cell for cell in wanted if cell.model == name]
        if name.startswith(RERANKER) and name.removeprefix(RERANKER) not in manifest.rerankers:
            yield from (Measured(cell=cell, reason="the bundle has no such re-ranker") for cell in mine)
            waiting -= len(mine)
            continue
        bench: _Bench | None = None
        for cell in mine:
            if not budget.timing(waiting):
                yield Measured(cell=cell, reason="no time left")
            else:
                bench = bench or _Bench(stock.material(name, mine), found)
                try:
                    yield bench.measure(cell, stock.feed(cell), budget, waiting)
                except Exception as error:  # noqa: BLE001 - the other cells are not to be lost with this one
                    yield Measured(cell=cell, reason=why(error))
            waiting -= 1
        if bench is not None:
            bench.close()


class _Stock:
    """What sides are opened from and fed with."""

    def __init__(self, options: Options, manifest: BundleManifest) -> None:
        self._options, self._manifest = options, manifest
        tokens = Tokens(options.bundle / manifest.text.tokenizer, manifest.text)
        golden = options.bundle / manifest.golden
        self._golden = read_golden(golden, lambda text: tokens.padded(tokens([text])))
        self._singly = models(options.bundle, manifest, batches=(1,))
        self._whole = models(options.bundle, manifest, batches=sorted(set(options.batches)))
        self._torch: Any = None

    def material(self, name: str, asked: Sequence[Cell]) -> Material:
        golden, single = self._golden[name], self._singly[name]
        taken = list(single.buckets[0])
        places = {smallest(single.buckets, {key: feed[key] for key in taken}) for feed in golden.feeds}
        needed = [*(shapes_of(cell, self._manifest) for cell in asked), *(single.buckets[place] for place in places)]
        return Material(
            model=replace(single, buckets=_smallest_first(needed)),
            whole=self._whole[name],
            plans=self._options.plans or plans_of(self._options.bundle),
            golden=Golden(
                feeds=tuple({key: feed[key] for key in taken} for feed in golden.feeds),
                expected=golden.expected,
                gallery=golden.gallery,
                mask=golden.mask,
            ),
            torch=self._models(),
        )

    def feed(self, cell: Cell) -> Feed:
        return feed_of(cell, self._manifest, self._options.bundle)

    def _models(self) -> Any:
        """Of the run, loaded when torch's first side is opened, and then kept."""
        if self._torch is None and self._options.run is not None:
            from radrank.bench.gpu_torch import TorchModels
            from radrank.training.runs import Run

            self._torch = TorchModels(Run(path=self._options.run))
        return self._torch


class _Bench:
    """One model's sides, open."""

    def __init__(self, material: Material, found: Found) -> None:
        self._material = material
        self._kind = "reranker" if material.model.name.startswith(RERANKER) else "encoder"
        self._sides = sides(gpu=found.card is not None)
        self._open: dict[str, Open] = {}
        self._rows: dict[str, Row] = {}
        self._compiled: float | None = None
        for side in self._sides:
            row = Row(side=side.name, precision=side.precision)
            if side.needs_gpu and found.card is None:
                row = replace(row, reason=found.no_card)
            else:
                row = self._opened(side, row)
            self._rows[side.key] = row

    def measure(self, cell: Cell, feed: Feed, budget: Budget, waiting: int) -> Measured:
        """Asks every side once, compares the answers, and times those that gave one in turn."""
        rows: dict[str, Row] = {}
        answers: dict[str, NDArray[np.float32]] = {}
        for side in self._sides:
            row = self._rows[side.key]
            if row.reason:
                rows[side.key] = row
                continue
            reason = self._too_slow(side, budget, waiting)
            if not reason:
                start = time.perf_counter()
                try:
                    answers[side.key] = self._open[side.key].answer(feed)
                except Exception as error:  # noqa: BLE001 - one side's failure is a row, not the end of the others
                    reason = why(error)
                row = replace(row, opened=row.opened + time.perf_counter() - start)
                if side.slow:
                    self._compiled = time.perf_counter() - start
            rows[side.key] = replace(row, reason=reason)
        expected = answers.get(next(side.key for side in self._sides if side.name == CPU))
        seconds = max(LEAST_SECONDS, budget.timing(waiting))
        calls = {key: clocked(key, _asking(self._open[key], feed)) for key in answers}
        for key, taken in sampled(calls, seconds=seconds).items():
            apart = None if expected is None else float(np.abs(answers[key] - expected).max())
            p50, p99 = (float(value) for value in np.percentile(taken, [50, 99]))
            rows[key] = replace(rows[key], p50=p50, p99=p99, runs=len(taken), difference=apart)
        return Measured(cell=cell, rows=tuple(rows[side.key] for side in self._sides))

    def close(self) -> None:
        for one in self._open.values():
            one.close()

    def _opened(self, side: Side, row: Row) -> Row:
        """The side's row without times; the side is kept where it answers the golden queries."""
        start = time.perf_counter()
        try:
            opened = side.opened(self._material)
            agreed = opened.agreement(self._material.golden) if opened.checked else None
        except Exception as error:  # noqa: BLE001 - what can't be had here is a row with its reason
            return replace(row, reason=why(error))
        self._open[side.key] = opened
        taken = time.perf_counter() - start
        row = replace(row, runtime=opened.runtime, opened=taken)
        return row if agreed is None else replace(row, agreement=str(agreed), passes=agreed.passes)

    def _too_slow(self, side: Side, budget: Budget, waiting: int) -> str:
        if not side.slow:
            return ""
        seconds = self._compiled or side.slow[self._kind]
        return "" if budget.bears(seconds, waiting) else f"no time left to compile it, for about {seconds:.0f} s"


def _asking(side: Open, feed: Feed) -> Callable[[], object]:
    return lambda: side.answer(feed)


def _smallest_first(shapes: Sequence[Shapes]) -> list[Shapes]:
    """Each once: an engine takes the first that holds a request."""
    once = {str(sorted(one.items())): one for one in shapes}
    return sorted(once.values(), key=lambda one: sum(int(np.prod(shape)) for shape in one.values()))
