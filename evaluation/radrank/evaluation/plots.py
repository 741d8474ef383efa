"""Plots of what an evaluation found. Every kind has a function that draws it and one that saves it as PNG.

Nothing here knows a study's id or text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from radrank.evaluation._canvas import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    PALE,
    PURPLE,
    VERMILION,
    headline,
    panels,
    save,
)
from radrank.evaluation.markdown import SCOPES
from radrank.evaluation.results import Change, Family, Row, Scope, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from radrank.evaluation.screening import Reliability

Means = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
Ranks = Mapping[str, tuple[Counts, Counts]]

FOREST = ("Jaccard@10", "Strong P@10", "Strong mAP@10")

# The last bars of ranks_figure are open: 128 and more, 64 and more.
_RANK_OCTAVES, _MOVE_OCTAVES = 8, 7


def plot_changes(
    tables: Sequence[Table], path: Path, *, scope: Scope = Scope.ALL, metrics: Sequence[str] = FOREST
) -> None:
    """Saves changes_figure."""
    save(changes_figure(tables, scope=scope, metrics=metrics), path)


def changes_figure(tables: Sequence[Table], *, scope: Scope = Scope.ALL, metrics: Sequence[str] = FOREST) -> Figure:
    """Relative changes with their intervals: a row of panels for each direction, a column for each metric.

    The floor is left out: its changes would squeeze all others.
    """
    from matplotlib.lines import Line2D

    lines = [_forest_lines(table, scope) for table in tables]
    heights = [0.25 * max(len(group), 4) for group in lines]
    size = (2.2 + 2.9 * len(metrics), 1.5 + sum(heights) + 0.7 * len(tables))
    figure, grid = panels(len(tables), len(metrics), size, heights)
    for table, group, row in zip(tables, lines, grid, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _forest(axes, group, scope, metric)
        row[0].tick_params(axis="y", labelleft=True)
        for tick, (_, rows) in zip(row[0].get_yticklabels(), group, strict=True):
            if not rows:
                tick.set(fontweight="bold", color=GREY)
        row[0].set_title(f"{table.direction}, against {table.reference}", loc="left", fontweight="bold")
    for axes, metric in zip(grid[-1], metrics, strict=True):
        axes.set_xlabel(f"change of {metric}")
    for column in grid.T:
        _share_limits(column)
    headline(figure, f"Relative change with 95 % intervals, {SCOPES[scope]}")
    handles = [
        Line2D([], [], color=VERMILION, marker="D", mfc="white", label="as it ranks"),
        Line2D([], [], color=BLUE, marker="o", label="matched for normals in the top 10"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_groups(
    names: Sequence[str],
    before: Means,
    after: Means,
    counts: Counts,
    path: Path,
    *,
    direction: str,
    metric: str = "Strong MRR",
) -> None:
    """Saves groups_figure."""
    save(groups_figure(names, before, after, counts, direction=direction, metric=metric), path)


def groups_figure(
    names: Sequence[str],
    before: Means,
    after: Means,
    counts: Counts,
    *,
    direction: str,
    metric: str = "Strong MRR",
) -> Figure:
    """A metric by finding group, the embedding's beside the re-ranked one's, the largest group on top.

    before, after: float [g], means over the group's queries; counts: int [g]. Groups without a query (no count, or NaN)
    are left out.
    """
    kept = (counts > 0) & np.isfinite(before) & np.isfinite(after)
    order = [at for at in np.argsort(-counts, kind="stable") if kept[at]]
    places = np.arange(len(order))
    figure, grid = panels(1, 1, (7.5, 1.6 + 0.42 * len(order)))
    axes = grid[0, 0]
    for shift, values, colour, label in ((-0.19, before, PALE, "embedding"), (0.19, after, BLUE, "re-ranked")):
        bars = axes.barh(places + shift, values[order], height=0.36, color=colour, label=label)
        axes.bar_label(bars, labels=[_short(value) for value in values[order]], padding=3, fontsize=8, color=DARK)
    axes.set_yticks(places, [f"{names[at].replace('_', ' ')} ({counts[at]:,})" for at in order])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel(f"{metric} (number of queries in brackets)")
    axes.set_title(f"{metric} by finding group, {direction}", loc="left", fontweight="bold")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.legend(loc="lower right", frameon=False)
    return figure


def plot_ranks(ranks: Ranks, path: Path, *, direction: str) -> None:
    """Saves ranks_figure."""
    save(ranks_figure(ranks, direction=direction), path)


def ranks_figure(ranks: Ranks, *, direction: str) -> Figure:
    """Where the first relevant entry stands before and after re-ranking, and by how much it moved.

    ranks: what is sought, such as "first strong match" → (before, after), both int [q] from 1. Queries that have no
    such entry (a rank below 1) are left out.
    """
    figure, grid = panels(len(ranks), 2, (10.5, 0.6 + 3.2 * len(ranks)))
    for (left, right), (sought, (before, after)) in zip(grid, ranks.items(), strict=True):
        kept = (before > 0) & (after > 0)
        _rank_bars(left, before[kept], after[kept])
        left.set_title(f"rank of the {sought}", loc="left", fontweight="bold")
        _move_bars(right, before[kept].astype(np.int64) - after[kept])
        right.set_title(f"places moved by the {sought}", loc="left", fontweight="bold")
    headline(figure, f"Before and after re-ranking, {direction}")
    return figure


def plot_reliability(screens: Mapping[str, Reliability], path: Path) -> None:
    """Saves reliability_figure."""
    save(reliability_figure(screens), path)


def reliability_figure(screens: Mapping[str, Reliability]) -> Figure:
    """How often a study that is given some probability of abnormal is so, and below how often that one is given.

    screens: by what is screened, such as "image". Bars are Wilson's 95 % intervals (JASA 1927).
    """
    figure, grid = panels(2, 1, (5.6, 6.4), [3, 1])
    above, below = grid[:, 0]
    above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfect")
    for at, (name, found) in enumerate(screens.items()):
        colour, marker = (BLUE, VERMILION, GREEN, PURPLE)[at % 4], "osD^"[at % 4]
        filled = found.counts > 0
        observed = found.observed[filled]
        low, high = _wilson(observed, found.counts[filled])
        above.errorbar(
            found.predicted[filled],
            observed,
            yerr=np.maximum([observed - low, high - observed], 0.0),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            capsize=2,
            label=f"{name}: {found.counts.sum():,} studies, calibration error {_short(found.calibration_error)}",
        )
        bins, width = len(found.counts), 0.9 / len(found.counts) / len(screens)
        centres = (np.arange(bins) + 0.5) / bins + (at - (len(screens) - 1) / 2) * width
        below.bar(centres, found.counts, width=width, color=colour)
    above.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share that is abnormal")
    above.tick_params(labelbottom=False)
    above.set_title("Calibration of the screening head", loc="left", fontweight="bold")
    above.legend(loc="upper left", frameon=False, fontsize=9)
    below.set(xlim=(0, 1), xlabel="probability of abnormal, as given", ylabel="studies")
    return figure


def _forest_lines(table: Table, scope: Scope) -> list[tuple[str, list[Row]]]:
    """From the top: a family's heading (without rows), then its methods, each with its one or two rows.

    The reference, whose change is nothing, is left out.
    """
    lines: list[tuple[str, list[Row]]] = []
    for family in Family:
        methods: dict[str, list[Row]] = {}
        for row in table.rows:
            itself = row.method == table.reference and not row.matched
            if row.family is family is not Family.FLOOR and row.changes.get(scope) and not itself:
                methods.setdefault(row.method, []).append(row)
        if methods:
            lines += [(family.value, []), *methods.items()]
    return lines


def _forest(axes: Axes, lines: Sequence[tuple[str, list[Row]]], scope: Scope, metric: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.axvline(0, color=GREY, linewidth=1)
    for place, (_, rows) in enumerate(lines):
        for row in rows:
            change = row.changes[scope].get(metric)
            if change is not None and _finite(change):
                height = place + (0.0 if len(rows) == 1 else 0.18 if row.matched else -0.18)
                colour = BLUE if row.matched else VERMILION
                axes.hlines(height, 100 * change.low, 100 * change.high, color=colour, linewidth=1.4)
                marker, face = ("o", colour) if row.matched else ("D", "white")
                axes.plot(100 * change.relative, height, marker, color=colour, mfc=face, markersize=4.5)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), [label for label, _ in lines])
    axes.tick_params(axis="y", length=0, labelleft=False)
    for line, (_, rows) in zip(axes.get_ygridlines(), lines, strict=True):
        line.set_visible(bool(rows))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:+.3g} %".replace("-", "−") if value else "0")
    )


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _finite(change: Change) -> bool:
    return all(map(math.isfinite, (change.relative, change.low, change.high)))


def _share_limits(column: Sequence[Axes]) -> None:
    """One scale for a metric in every direction, zero in sight."""
    low = min(axes.get_xlim()[0] for axes in column)
    high = max(axes.get_xlim()[1] for axes in column)
    for axes in column:
        axes.set_xlim(min(low, 0.0), max(high, 0.0))


def _octave(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for 0, 1 for 1, 2 for 2–3, 3 for 4–7 and so on; negative values mirrored. Ranks matter by their ratio."""
    return np.sign(values) * (np.frexp(np.abs(values).astype(np.float64))[1]).astype(np.int64)


def _octave_name(octave: int, last: int) -> str:
    first = 1 << (octave - 1)
    if octave == last:
        return f"≥{first}"
    return f"{first}" if octave == 1 else f"{first}–{2 * first - 1}"


def _rank_bars(axes: Axes, before: Counts, after: Counts) -> None:
    octaves = [np.minimum(_octave(ranks.astype(np.int64)), _RANK_OCTAVES) for ranks in (before, after)]
    most = max(int(found.max(initial=1)) for found in octaves)
    for shift, found, colour, label in ((-0.2, octaves[0], PALE, "before"), (0.2, octaves[1], BLUE, "after")):
        axes.bar(
            np.arange(1, most + 1) + shift,
            np.bincount(found, minlength=most + 1)[1:],
            width=0.38,
            color=colour,
            label=label,
        )
    names = [_octave_name(octave, _RANK_OCTAVES) for octave in range(1, most + 1)]
    axes.set_xticks(range(1, most + 1), names, fontsize=8)
    axes.set(xlabel="rank", ylabel="queries")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False)


def _move_bars(axes: Axes, gained: NDArray[np.int64]) -> None:
    octaves = np.clip(_octave(gained), -_MOVE_OCTAVES, _MOVE_OCTAVES)
    most = int(np.abs(octaves).max(initial=1))
    places = np.arange(-most, most + 1)
    colours = np.select([places > 0, places < 0], [BLUE, VERMILION], GREY)
    axes.bar(places, np.bincount(octaves + most, minlength=2 * most + 1), width=0.8, color=list(colours))
    names = [_octave_name(abs(place), _MOVE_OCTAVES) if place else "0" for place in places.tolist()]
    axes.set_xticks(places, names, fontsize=8, rotation=30)
    axes.set(xlabel="places lost     ·     places gained", ylabel="queries")
    axes.grid(axis="x", visible=False)
    for at, ha, colour, word, share in (
        (0.02, "left", VERMILION, "worse", np.mean(gained < 0) if len(gained) else 0.0),
        (0.98, "right", BLUE, "better", np.mean(gained > 0) if len(gained) else 0.0),
    ):
        words = f"{100 * share:.0f} % {word}"
        axes.text(at, 0.96, words, transform=axes.transAxes, ha=ha, va="top", color=colour)


def _wilson(share: NDArray[np.float64], count: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return centre - half, centre + half
