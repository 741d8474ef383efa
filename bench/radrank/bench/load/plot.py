"""Latency by percentile, a line for each run, and what became of each rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from radrank.bench.load.channels import OK
from radrank.bench.load.report import Report
from radrank.bench.load.results import Run
from radrank.evaluation._canvas import BLUE, DARK, GREY, VERMILION, headline, panels, save

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram
    from matplotlib.axes import Axes

_TICKS = {0: "0", 1: "90", 2: "99", 3: "99.9", 4: "99.99", 5: "99.999"}


def plot(report: Report, path: Path) -> None:
    """Saves a PNG: percentiles on the left; for open loops, p50 and p99 by rate on the right."""
    runs = [run for run in report.runs if run.ok]
    is_open = any(run.rate is not None for run in runs)
    figure, grid = panels(1, 2 if is_open else 1, (11.0 if is_open else 6.5, 4.6))
    _percentiles(grid[0][0], runs, report.objective_ms)
    if is_open:
        _by_rate(grid[0][1], runs, report.objective_ms)
    timed = "from the planned sending" if is_open else "from the sending"
    headline(figure, f"Latency {timed}, OK replies" + (" (VOID: the load generator was late)" if report.void else ""))
    save(figure, path)


def _percentiles(axes: Axes, runs: list[Run], objective_ms: float) -> None:
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0.0, 0.85, max(len(runs), 1)))
    depth = 1
    for run, shade in zip(sorted(runs, key=lambda one: (one.rate or 0.0, one.name)), shades, strict=True):
        depths, values = _spectrum(run.histograms[OK])
        depth = max(depth, int(np.ceil(depths[-1])))
        label = f"{run.rate:g}/s" if run.rate is not None else f"{run.clients} clients"
        style = ":" if run.void else "-"
        axes.plot(depths, values, style, color=shade, label=label + (" (void)" if run.void else ""))
    axes.axhline(objective_ms, color=GREY, linestyle="--", linewidth=1)
    _milliseconds(axes)
    axes.set_xticks(range(depth + 1), [_TICKS.get(tick, "") for tick in range(depth + 1)])
    axes.set_xlabel("percentile")
    if runs:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _spectrum(of: HdrHistogram) -> tuple[list[float], list[float]]:
    """(−log10 of the share above, milliseconds): 1 is p90, 2 is p99."""
    depths, values = [], []
    for step in of.get_percentile_iterator(5):
        # The last step is 100 %, whose depth is infinite: it is drawn at the depth of one request.
        above = max(1.0 - step.percentile_level_iterated_to / 100, 1.0 / of.total_count)
        depths.append(-float(np.log10(above)) + 0.0)
        values.append(min(step.value_iterated_to, of.max_value) / 1e3)
    return depths, values


def _by_rate(axes: Axes, runs: list[Run], objective_ms: float) -> None:
    held = sorted((run for run in runs if run.rate is not None), key=lambda run: run.rate or 0.0)
    rates = [run.rate or 0.0 for run in held]
    for name, colour in (("p99", VERMILION), ("p50", BLUE)):
        axes.plot(rates, [getattr(run.latency[OK], name) for run in held], color=colour, label=name)
    for rate, run in zip(rates, held, strict=True):
        axes.plot(rate, run.latency[OK].p99, "x" if run.void else "o", color=VERMILION, markersize=5)
    axes.axhline(objective_ms, color=GREY, linestyle="--", linewidth=1, label=f"objective {objective_ms:g} ms")
    _milliseconds(axes)
    axes.set_xlabel("requests planned per second (× void)", color=DARK)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _milliseconds(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("ms")
