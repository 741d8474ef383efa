"""Table and plot of `radrank bench gpu`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from radrank.bench.gpu_cells import MANY, TOKENS
from radrank.bench.gpu_found import Found, Measured, Row
from radrank.bench.gpu_serving import Load
from radrank.bench.gpu_sides import COMPILED, CPU, CUDA, EAGER, FP16, GRAPH, RTX, TENSORRT
from radrank.engines.models import IMAGE_ENCODER, RERANKER
from radrank.evaluation._canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, headline, panels, save

SERVED = (TENSORRT, RTX, GRAPH)
"""What the server takes on a GPU, in fp16: one that passes the gate."""
IMAGE_MS: Mapping[int, float] = {1: 1.0, 32: 4.0}
RERANK_MS: Mapping[int, float] = {1: 0.3, 32: 1.0}
SEARCH_MS = (4.0, 8.0)
"""Aims on an H200: p50 of the image tower and of a re-ranker (K = 100) by batch; p50 and p99 of an image search."""
_COLOURS = {
    EAGER: GREY,
    COMPILED: PURPLE,
    CPU: SKY,
    CUDA: ORANGE,
    GRAPH: BLUE,
    TENSORRT: GREEN,
    RTX: VERMILION,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """found: None where it was not measured; by: whose figure it is"""

    what: str
    wanted: float
    found: float | None
    by: str = ""

    @property
    def verdict(self) -> str:
        return "not measured" if self.found is None else "reached" if self.found <= self.wanted else "**missed**"


def aims(found: Found) -> list[Aim]:
    """What is wanted on an H200, and what was found here: the fastest side that may serve."""
    rows = []
    for one in found.measured:
        cell = one.cell
        if cell.model == IMAGE_ENCODER and cell.batch in IMAGE_MS:
            rows.append(_aim(f"image tower, {FP16}, batch {cell.batch}", IMAGE_MS[cell.batch], one))
        elif cell.model.startswith(RERANKER) and cell.candidates == MANY and cell.batch in RERANK_MS:
            rows.append(_aim(f"{cell.model}, K = {MANY}, batch {cell.batch}", RERANK_MS[cell.batch], one))
    for load in (load for load in found.loads if load.kind == "image"):
        said = f"{load.rate:g} a second, {load.runtime}, {load.precision}" if load.runtime else load.reason
        times = (load.p50, load.p99) if found.card else (None, None)  # a CPU's are no answer to this question
        for name, wanted, value in zip(("p50", "p99"), SEARCH_MS, times, strict=True):
            rows.append(Aim(what=f"image search, {name}", wanted=wanted, found=value, by=said))
    return rows


def gpu_markdown(found: Found) -> str:
    """What was measured, on what, and what could not be."""
    lines = [
        f"# Bundle {found.bundle} on {found.card.name if found.card else 'a machine without a GPU'}, {found.date}",
        "",
        f"`{found.command}`",
        "",
        f"- Card: {found.card or found.no_card}.",
        f"- Runtimes: {', '.join(_runtimes(found)) or 'none'}.",
        f"- Machine: {', '.join(f'{name} {value}' for name, value in found.machine.items())}.",
        "",
        "Milliseconds from numpy in to numpy out, copies to the GPU and back included: p50 / p99, and how many runs."
        " Sides ran in turn. Difference: largest from fp32 on the CPU, same inputs. Gate: top-10 overlap and Kendall's"
        f" τ over the golden queries. Texts have {TOKENS} tokens; re-rankers get as many archive items as a request can"
        " bring.",
        "",
    ]
    lines += ["## Wanted on an H200, and found here", "", *_aims(aims(found)), ""]
    for model in dict.fromkeys(one.cell.model for one in found.measured):
        mine = [one for one in found.measured if one.cell.model == model]
        lines += [f"## {model}", "", *_table([one for one in mine if one.rows]), ""]
    if found.loads:
        lines += ["## The whole server under load", "", *_loads(found.loads), ""]
    return "\n".join([*lines, *_absent(found.measured)]) + "\n"


def gpu_plot(found: Found, path: Path) -> None:
    """Saves a PNG: p50 of every side in every cell, with a line to its p99."""
    shown = [one for one in found.measured if any(row.p50 is not None for row in one.rows)]
    figure, grid = panels(1, 1, (9.0, 1.5 + 0.5 * max(4, len(shown))))
    axes, named = grid[0, 0], set[str]()
    for place, one in enumerate(shown):
        timed = [row for row in one.rows if row.p50 is not None and row.p99 is not None]
        for number, row in enumerate(timed):
            height = place + 0.7 * (number + 0.5) / len(timed) - 0.35
            colour, filled = _COLOURS[row.side], row.precision == FP16
            label = f"{row.side}, {row.precision}"
            axes.plot([row.p50, row.p99], [height] * 2, color=colour, linewidth=1)
            axes.plot(
                row.p50,
                height,
                "o",
                color=colour,
                markerfacecolor=colour if filled else "white",
                markersize=4,
                label="" if label in named else label,
            )
            named.add(label)
    axes.set(xlabel="milliseconds: p50, and a line to p99")
    if shown:
        axes.set(xscale="log")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(shown)), [one.cell.name for one in shown], fontsize=8)
    axes.invert_yaxis()
    headline(figure, f"Host to host on {found.card.name if found.card else 'a machine without a GPU'}")
    save(figure, path)


def _runtimes(found: Found) -> list[str]:
    return list(dict.fromkeys(row.runtime for one in found.measured for row in one.rows if row.runtime))


def _aim(what: str, wanted: float, one: Measured) -> Aim:
    served = [row for row in one.rows if row.side in SERVED and row.precision == FP16]
    timed = [row for row in served if row.p50 is not None and row.passes is not False]
    best = min(timed, key=lambda row: row.p50 or 0.0, default=None)
    if best is None:
        reasons = [one.reason, *(row.reason or "the gate refuses it" for row in served)]
        return Aim(what=what, wanted=wanted, found=None, by=next(filter(None, reasons), ""))
    return Aim(what=what, wanted=wanted, found=best.p50, by=best.side)


def _aims(rows: Sequence[Aim]) -> list[str]:
    if not rows:
        return ["None of it was asked for."]
    return [
        "| what | wanted ms | found ms | | by |",
        "| --- | --: | --: | --- | --- |",
        *(
            f"| {aim.what} | {aim.wanted:g} | {'' if aim.found is None else f'{aim.found:.2f}'} | {aim.verdict} |"
            f" {aim.by} |"
            for aim in rows
        ),
    ]


def _table(measured: Sequence[Measured]) -> list[str]:
    """Sides by cells."""
    if not measured:
        return ["Not measured: see below."]
    lines = [
        f"| side | precision | {' | '.join(one.cell.shape for one in measured)} | difference | gate |",
        f"| --- | --- |{' --: |' * len(measured)} --: | --- |",
    ]
    for place in range(len(measured[0].rows)):
        rows = [one.rows[place] for one in measured]
        if all(row.p50 is None for row in rows):
            continue
        apart = max((row.difference for row in rows if row.difference is not None), default=None)
        gate = f"{rows[0].agreement}{'' if rows[0].passes else ': **refused**'}" if rows[0].agreement else "not asked"
        lines.append(
            f"| {rows[0].side} | {rows[0].precision} | {' | '.join(map(_figures, rows))} |"
            f" {'' if apart is None else f'{apart:.1e}'} | {gate} |"
        )
    return lines


def _figures(row: Row) -> str:
    return "" if row.p50 is None else f"{row.p50:.2f} / {row.p99:.2f} ({row.runs})"


def _loads(loads: Sequence[Load]) -> list[str]:
    lines = [
        "`radrank serve` on the same machine, asked over loopback in an open loop; latency counts from when a request"
        " was due.",
        "",
        "| query | a second | answered | p50 ms | p99 ms | within | errors | on |",
        "| --- | --: | --: | --: | --: | --- | --- | --- |",
    ]
    for load in loads:
        told = ["" if value is None else f"{value:.1f}" for value in (load.achieved, load.p50, load.p99)]
        verdict = f"{'yes' if load.met else 'no'}, p99 {load.objective_ms:g} ms" if load.p99 is not None else ""
        where = f"{load.runtime} {load.precision}" if load.runtime else ""
        note = f"{where}{'; ' if where and load.reason else ''}{load.reason}"
        lines.append(f"| {load.kind} | {load.rate:g} | {' | '.join(told)} | {verdict} | {load.errors} | {note} |")
    return lines


def _absent(measured: Sequence[Measured]) -> list[str]:
    """Every side and cell without figures, each reason once."""
    cells: dict[str, list[str]] = {}
    sides: dict[tuple[str, str], list[str]] = {}
    for one in measured:
        if one.reason:
            cells.setdefault(one.reason, []).append(one.cell.name)
        for row in one.rows:
            if row.reason:
                sides.setdefault((row.reason, f"{row.side} {row.precision}"), []).append(one.cell.name)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, side), names in sides.items():
        alike.setdefault((reason, tuple(names)), []).append(side)
    every = [one.cell.name for one in measured if one.rows]
    lines = [f"- {'; '.join(names)}: {reason}." for reason, names in cells.items()]
    for (reason, places), of in alike.items():
        where = "" if list(places) == every else f" in {'; '.join(places)}"
        lines.append(f"- {', '.join(of)}{where}: {reason}.")
    return ["## Not here", "", *lines] if lines else []
