"""Tables and plot of `radrank bench stages`."""

from __future__ import annotations

from pathlib import Path

from radrank.bench.stages import (
    BEYOND,
    BEYOND_LIMIT_MS,
    EMBEDDING,
    FLOORS,
    REPLY,
    STAGES,
    WHOLE,
    WIRE,
    Kind,
    Stage,
    Stages,
)
from radrank.bench.turns import COUNTED
from radrank.evaluation._canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, headline, panels, save

_WORDS = {
    REPLY: "the server's total less its stages",
    WIRE: "the client's time less the server's total",
    BEYOND: "the client's time less the sum of stages",
    WHOLE: "what the client sees",
}
_COLOURS = (GREY, BLUE, GREEN, ORANGE, VERMILION, PURPLE, SKY, "#444444")


def stages_markdown(found: Stages) -> str:
    """A table for each kind of query."""
    lines = [
        "# Stages and their floors",
        "",
        f"`{found.command}`",
        "",
        f"Bundle {found.bundle}, re-ranker {found.reranker}, {found.studies:,} studies, {found.candidates} candidates;"
        f" {found.queries} queries of each kind by one client over loopback. The queries and every floor had"
        f" {found.rounds} turns after one another in rounds; a turn is the median of {COUNTED} calls in a row after one"
        " to warm up. Milliseconds are medians over queries of medians over rounds; a ratio is stage over floor,"
        " with the interval that 95 % of bootstrap draws over queries fall into. Stages are what the server's reply"
        " tells. On a machine with other work only the ratios mean anything.",
    ]
    for kind in found.kinds:
        lines += [
            "",
            f"## {kind.name}",
            "",
            "| stage | ms | floor ms | over its floor | |",
            "| --- | --: | --: | --: | --- |",
        ]
        lines += [_row(stage) for stage in kind.stages]
        lines += [
            "",
            f"One memcpy of all vectors of the searched modality, an exact scan's floor: {kind.scan_ms:.3f} ms.",
        ]
    lines += ["", overhead(found), "", f"Machine: {', '.join(f'{name} {at}' for name, at in found.machine.items())}."]
    return "\n".join(lines) + "\n"


def overhead(found: Stages) -> str:
    """What an embedding query's client sees beyond the stages, beside what was asked for."""
    beyond = next(kind for kind in found.kinds if kind.name == EMBEDDING).stage(BEYOND)
    held = "at most" if beyond.ms <= BEYOND_LIMIT_MS else "**more than**"
    return (
        f"{found.kinds[0].name}, client-observed p50 less the sum of stages: {beyond.ms:.3f} ms, {held}"
        f" {BEYOND_LIMIT_MS:g} ms."
    )


def stages_plot(found: Stages, path: Path) -> None:
    """Saves a PNG: for each kind of query its stages in a row, and below them their floors."""
    figure, grid = panels(len(found.kinds), 1, (11.0, 1.5 + 1.6 * len(found.kinds)))
    rows = (*STAGES, REPLY, WIRE)
    for axes, kind in zip(grid[:, 0], found.kinds, strict=True):
        for place, values in enumerate((_told(kind, rows), _floors(kind, rows))):
            left = 0.0
            for name, value, colour in zip(rows, values, _COLOURS, strict=True):
                axes.barh(place, value, 0.6, left=left, color=colour, label=name if place == 0 else None)
                left += value
        axes.set_yticks([0, 1], ["told by the server", "floors"])
        axes.invert_yaxis()
        axes.set_xlabel(f"{kind.name}: milliseconds", fontsize=9)
    grid[0, 0].legend(frameon=False, fontsize=8, ncols=len(rows), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    headline(figure, f"Where a search spends its time: {found.bundle}, {found.reranker}")
    save(figure, path)


def _told(kind: Kind, rows: tuple[str, ...]) -> list[float]:
    return [kind.stage(name).ms for name in rows]


def _floors(kind: Kind, rows: tuple[str, ...]) -> list[float]:
    return [kind.stage(name).floor_ms or 0.0 for name in rows]


def _row(stage: Stage) -> str:
    floor = "" if stage.floor_ms is None else f"{stage.floor_ms:.3f}"
    said = " · ".join(filter(None, (_WORDS.get(stage.name), FLOORS.get(stage.name) if floor else None)))
    return f"| {stage.name} | {stage.ms:.3f} | {floor} | {'' if stage.over is None else stage.over} | {said} |"
