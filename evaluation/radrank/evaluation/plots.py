"""Plots of what an evaluation found. Every kind has a function that draws it and one that saves it as PNG.

Colours are those of Okabe and Ito (told apart by colour-blind readers too). Nothing here knows a study's id or text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import Matrix
from radrank.evaluation.markdown import SCOPES
from radrank.evaluation.results import Change, Family, Row, Scope, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from radrank.evaluation.screening import Reliability

Means = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
Ranks = Mapping[str, tuple[Counts, Counts]]

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
DARK, GREY, PALE = "#333333", "#8A8A8A", "#C8C8C8"

FOREST = ("Jaccard@10", "Strong P@10", "Strong mAP@10")

# The last bars of ranks_figure are open: 128 and more, 64 and more.
_RANK_OCTAVES, _MOVE_OCTAVES = 8, 7


def plot_changes(
    tables: Sequence[Table], path: Path, *, scope: Scope = Scope.ALL, metrics: Sequence[str] = FOREST
) -> None:
    """Saves changes_figure."""
    _save(changes_figure(tables, scope=scope, metrics=metrics), path)


def changes_figure(tables: Sequence[Table], *, scope: Scope = Scope.ALL, metrics: Sequence[str] = FOREST) -> Figure:
    """Relative changes with their intervals: a row of panels for each direction, a column for each metric.

    The floor is left out: its changes would squeeze all others.
    """
    from matplotlib.lines import Line2D

    lines = [_forest_lines(table, scope) for table in tables]
    heights = [0.25 * max(len(group), 4) for group in lines]
    size = (2.2 + 2.9 * len(metrics), 1.5 + sum(heights) + 0.7 * len(tables))
    figure, panels = _panels(len(tables), len(metrics), size, heights)
    for table, group, row in zip(tables, lines, panels, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _forest(axes, group, scope, metric)
        row[0].tick_params(axis="y", labelleft=True)
        for tick, (_, rows) in zip(row[0].get_yticklabels(), group, strict=True):
            if not rows:
                tick.set(fontweight="bold", color=GREY)
        row[0].set_title(f"{table.direction}, against {table.reference}", loc="left", fontweight="bold")
    for axes, metric in zip(panels[-1], metrics, strict=True):
        axes.set_xlabel(f"change of {metric}")
    for column in panels.T:
        _share_limits(column)
    _headline(figure, f"Relative change with 95 % intervals, {SCOPES[scope]}")
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
    _save(groups_figure(names, before, after, counts, direction=direction, metric=metric), path)


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
    figure, panels = _panels(1, 1, (7.5, 1.6 + 0.42 * len(order)))
    axes = panels[0, 0]
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
    _save(ranks_figure(ranks, direction=direction), path)


def ranks_figure(ranks: Ranks, *, direction: str) -> Figure:
    """Where the first relevant entry stands before and after re-ranking, and by how much it moved.

    ranks: what is sought, such as "first strong match" → (before, after), both int [q] from 1. Queries that have no
    such entry (a rank below 1) are left out.
    """
    figure, panels = _panels(len(ranks), 2, (10.5, 0.6 + 3.2 * len(ranks)))
    for (left, right), (sought, (before, after)) in zip(panels, ranks.items(), strict=True):
        kept = (before > 0) & (after > 0)
        _rank_bars(left, before[kept], after[kept])
        left.set_title(f"rank of the {sought}", loc="left", fontweight="bold")
        _move_bars(right, before[kept].astype(np.int64) - after[kept])
        right.set_title(f"places moved by the {sought}", loc="left", fontweight="bold")
    _headline(figure, f"Before and after re-ranking, {direction}")
    return figure


def plot_reliability(screens: Mapping[str, Reliability], path: Path) -> None:
    """Saves reliability_figure."""
    _save(reliability_figure(screens), path)


def reliability_figure(screens: Mapping[str, Reliability]) -> Figure:
    """How often a study that is given some probability of abnormal is so, and below how often that one is given.

    screens: by what is screened, such as "image". Bars are Wilson's 95 % intervals (JASA 1927).
    """
    figure, panels = _panels(2, 1, (5.6, 6.4), [3, 1])
    above, below = panels[:, 0]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Items of one modality. vectors: float32 [n, d]; normal: int8 [n], 1, −1 or 0; groups: [n], "" where normal."""

    vectors: Matrix
    normal: NDArray[np.int8]
    groups: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloud:
    """One panel of a map: both modalities at one stage of the training.

    one_space: False where images and reports can't be compared, though their vectors may be of one width
    """

    title: str
    images: Points
    reports: Points
    one_space: bool = True


def plot_map(clouds: Sequence[Cloud], path: Path, *, seed: int = 0, most: int = 1500) -> None:
    """Saves map_figure."""
    _save(map_figure(clouds, seed=seed, most=most), path)


def map_figure(clouds: Sequence[Cloud], *, seed: int = 0, most: int = 1500) -> Figure:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of images and reports, such as before and after fine-tuning.

    Above coloured by normal and abnormal, below by finding group. Each panel shows at most `most` points, drawn at
    random. Where images and reports have different widths or spaces, as from raw backbones, no map can hold both: each
    is then embedded alone, and the title says so.
    """
    figure, panels = _panels(2, len(clouds), (1.8 + 4.6 * len(clouds), 9.4))
    drawn = [_sampled(cloud, np.random.default_rng(seed), most) for cloud in clouds]
    groups = _commonest([group for cloud in drawn for group in _groups(cloud)], 7)
    colours = dict(zip(groups, (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, DARK), strict=False))
    kinds = {"normal": SKY, "abnormal": VERMILION}
    if any((points.normal == 0).any() for cloud in drawn for points in (cloud.images, cloud.reports)):
        kinds["not told"] = PALE
    for cloud, (above, below) in zip(drawn, panels.T, strict=True):
        images, reports, apart = _embedded(cloud, seed)
        shown = f"{len(images):,} images and {len(reports):,} reports"
        for points, places, marker in ((cloud.images, images, "o"), (cloud.reports, reports, "^")):
            told = np.select([points.normal > 0, points.normal < 0], [SKY, VERMILION], PALE)
            named = [PALE if not group else colours.get(group, GREY) for group in points.groups]
            for axes, colour in ((above, list(told)), (below, named)):
                axes.scatter(*places.T, c=colour, marker=marker, s=15, alpha=0.75, linewidths=0)
        above.set_title(cloud.title, loc="left", fontweight="bold", pad=22)
        above.annotate(
            f"{shown}{', in a map of their own each' if apart else ', in one map'}",
            (0, 1),
            xytext=(0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            color=GREY,
        )
        for axes in (above, below):
            axes.set(xticks=[], yticks=[], xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
            axes.set_box_aspect(1)
            axes.spines[:].set(visible=True, color=PALE)
            if apart:
                axes.text(-1.04, -0.1, "images", va="top", color=GREY)
                axes.text(1.04, 0.1, "reports", ha="right", va="bottom", color=GREY)
    _headline(figure, "t-SNE of images and reports")
    _key(panels[0, -1], "by normal and abnormal", kinds)
    rest = {"other groups": GREY} if any(g and g not in colours for c in drawn for g in _groups(c)) else {}
    _key(
        panels[1, -1],
        "by finding group",
        {g.replace("_", " "): c for g, c in colours.items()} | rest | {"no finding": PALE},
    )
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


def _sampled(cloud: Cloud, random: np.random.Generator, most: int) -> Cloud:
    images = len(cloud.images.vectors)
    total = images + len(cloud.reports.vectors)
    kept = np.sort(random.permutation(total)[:most])

    def part(points: Points, rows: NDArray[np.int64]) -> Points:
        return Points(
            vectors=points.vectors[rows], normal=points.normal[rows], groups=[points.groups[row] for row in rows]
        )

    return Cloud(
        title=cloud.title,
        images=part(cloud.images, kept[kept < images]),
        reports=part(cloud.reports, kept[kept >= images] - images),
        one_space=cloud.one_space,
    )


def _embedded(cloud: Cloud, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Places of images [n, 2] and reports [m, 2], and whether they are apart: images top left, reports bottom right."""
    images, reports = cloud.images.vectors, cloud.reports.vectors
    if cloud.one_space and images.shape[1] == reports.shape[1]:
        both = _tsne(np.concatenate([images, reports]), seed)
        return both[: len(images)], both[len(images) :], False
    corners = ([-0.44, 0.44], [0.44, -0.44])
    alone = [0.56 * _tsne(vectors, seed) + corner for vectors, corner in zip((images, reports), corners, strict=True)]
    return alone[0], alone[1], True


def _tsne(vectors: Matrix, seed: int) -> NDArray[np.float64]:
    """Places [n, 2], centred in a square from −1 to 1."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(vectors) - 1) / 3))
    model = TSNE(init="pca", metric="cosine", perplexity=perplexity, random_state=seed, n_jobs=1)
    places: NDArray[np.float64] = model.fit_transform(vectors).astype(np.float64)
    places -= (places.min(0) + places.max(0)) / 2
    return places / max(float(np.abs(places).max()), 1e-12)


def _groups(cloud: Cloud) -> list[str]:
    return [*cloud.images.groups, *cloud.reports.groups]


def _commonest(groups: Sequence[str], most: int) -> list[str]:
    names = sorted({group for group in groups if group})
    return sorted(names, key=lambda name: -groups.count(name))[:most]


def _key(axes: Axes, title: str, colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, marker="s", linestyle="", label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color=DARK, marker=marker, mfc="none", linestyle="", label=name)
        for marker, name in (("o", "image"), ("^", "report"))
    ]
    axes.legend(
        handles=handles,
        title=title,
        title_fontproperties={"weight": "bold"},
        alignment="left",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )


def _panels(
    rows: int, columns: int, size: tuple[float, float], heights: Sequence[float] | None = None
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure and its axes [rows, columns], quiet enough for the data to be seen."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09))
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(PALE)
        axes.tick_params(color=PALE)
        axes.grid(color="#E8E8E8", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _headline(figure: Figure, words: str) -> None:
    figure.suptitle(words, x=0.01, ha="left", fontsize=13)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
