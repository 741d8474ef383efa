"""Maps of a space: t-SNE of images and reports, one panel a stage of the training. Nothing here knows an id or text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radrank.core.vectors import Matrix
from radrank.evaluation._canvas import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    headline,
    panels,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    save(map_figure(clouds, seed=seed, most=most), path)


def map_figure(clouds: Sequence[Cloud], *, seed: int = 0, most: int = 1500) -> Figure:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) of images and reports, such as before and after fine-tuning.

    Above coloured by normal and abnormal, below by finding group. Each panel shows at most `most` points, drawn at
    random. Where images and reports have different widths or spaces, as from raw backbones, no map can hold both: each
    is then embedded alone, and the title says so.
    """
    figure, grid = panels(2, len(clouds), (2.3 + 4.6 * len(clouds), 9.4))
    drawn = [_sampled(cloud, np.random.default_rng(seed), most) for cloud in clouds]
    groups = _commonest([group for cloud in drawn for group in _groups(cloud)], 7)
    colours = dict(zip(groups, (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, DARK), strict=False))
    kinds = {"normal": SKY, "abnormal": VERMILION}
    if any((points.normal == 0).any() for cloud in drawn for points in (cloud.images, cloud.reports)):
        kinds["not told"] = PALE
    for cloud, (above, below) in zip(drawn, grid.T, strict=True):
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
    headline(figure, "t-SNE of images and reports")
    _key(grid[0, -1], "by normal and abnormal", kinds)
    rest = {"other groups": GREY} if any(g and g not in colours for c in drawn for g in _groups(c)) else {}
    _key(
        grid[1, -1],
        "by finding group",
        {g.replace("_", " "): c for g, c in colours.items()} | rest | {"no finding": PALE},
    )
    return figure


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
