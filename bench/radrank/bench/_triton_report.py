"""Table and plot of `radrank bench peers --with triton`."""

from __future__ import annotations

from pathlib import Path

from radrank.bench.perf_analyzer import STABLE_PERCENT, WINDOWS, Reading
from radrank.bench.side_by_side import CLOSED, OURS, SIDES, TRITON, Row
from radrank.bench.triton_peers import SAME, Beside
from radrank.evaluation._canvas import BLUE, GREY, headline, panels, save

_COLOURS = {OURS: BLUE, TRITON: GREY}


def triton_markdown(found: Beside) -> str:
    """What was measured, on what, and where our server is slower."""
    loops = ", ".join(map(str, CLOSED))
    slower = "; ".join(f"{row.kind}, {row.load}: {_times(row)}" for row in found.slower)
    lines = [
        "# The same search by our server and by NVIDIA Triton",
        "",
        f"`{found.command}`",
        "",
        f"Bundle {found.bundle}, {found.studies:,} studies, {found.candidates} candidates, re-ranker {found.reranker},"
        " ONNX Runtime on the CPU on both sides; Triton serves what `radrank export triton --backend python` writes."
        " perf_analyzer asks both over KServe v2, side after side in"
        f" {found.rounds} rounds, with so many requests at once, or at random (Poisson) at half of what the slower side"
        f" reaches. A turn is {WINDOWS} windows of {found.seconds / WINDOWS:.2g} s that agree to {STABLE_PERCENT} % in"
        " throughput and median; a turn that found none is not counted. Figures are medians over turns, milliseconds"
        " from sending to the answer. Ours over Triton: median over rounds [lowest, highest], of throughput with so"
        " many at once, and of Triton's p50 over ours under Poisson.",
        "",
        f"| query | load | {OURS}/s | {TRITON}/s | ours over Triton | p50 {OURS} | p50 {TRITON} | p99 {OURS} |"
        f" p99 {TRITON} | stable turns |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *map(_row, found.rows),
        "",
        f"- Ours at least as fast with {loops} at once: {f'**no**: {slower}' if slower else 'yes'}.",
        f"- {found.compared} queries: both found the same ids in the same order, scores at most {found.scores:.1e}"
        f" apart (at most {SAME:g} is let pass).",
        f"- {', '.join(f'{name} {version}' for name, version in found.versions.items())}.",
        f"- Machine: {', '.join(f'{name} {value}' for name, value in found.machine.items())}.",
    ]
    return "\n".join(lines) + "\n"


def triton_plot(found: Beside, path: Path) -> None:
    """Saves a PNG: throughput of both sides in closed loops, and from p50 to p99 under every load."""
    figure, grid = panels(1, 2, (12.0, 1.6 + 0.5 * len(found.rows)))
    bars, spans = grid[0]
    for place, side in enumerate(SIDES):
        shift = 0.36 * (place - 0.5)
        for at, row in enumerate(found.rows):
            reading = row.readings[side]
            if reading is None:
                continue
            if row.concurrency:
                drawn = bars.barh(at + shift, reading.throughput, 0.33, color=_COLOURS[side])
                bars.bar_label(drawn, fmt="%.3g", fontsize=7, padding=2)
            spans.plot([reading.p50, reading.p99], [at + shift] * 2, color=_COLOURS[side], linewidth=2)
            spans.plot(reading.p50, at + shift, "o", color=_COLOURS[side])
        bars.plot([], [], color=_COLOURS[side], linewidth=6, label=side)
    names = [f"{row.kind}, {row.load}" for row in found.rows]
    for axes in (bars, spans):
        axes.set_yticks(range(len(names)), names if axes is bars else [""] * len(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
    bars.set(xlabel="answers a second")
    spans.set(xscale="log", xlabel="milliseconds: p50 (dot) to p99")
    spans.xaxis.set_major_formatter("{x:g}")
    bars.legend(frameon=False, fontsize=8)
    headline(figure, f"The same bundle and archive, served by both: {found.bundle}")
    save(figure, path)


def _row(row: Row) -> str:
    readings = [row.readings[side] for side in SIDES]
    rates = " | ".join(_told(one, "throughput") for one in readings)
    times = " | ".join(_told(one, name) for name in ("p50", "p99") for one in readings)
    stable = ", ".join(str(row.stable[side]) for side in SIDES)
    return f"| {row.kind} | {row.load} | {rates} | {_times(row)} | {times} | {stable} |"


def _told(reading: Reading | None, name: str) -> str:
    return "not stable" if reading is None else f"{getattr(reading, name):.1f}"


def _times(row: Row) -> str:
    return "not stable" if row.faster is None else str(row.faster)
