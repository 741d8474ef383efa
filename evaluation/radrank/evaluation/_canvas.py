"""What plots and maps share: colours, an empty figure, its headline and how it is saved.

Colours are those of Okabe and Ito (told apart by colour-blind readers too).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
DARK, GREY, PALE = "#333333", "#8A8A8A", "#C8C8C8"


def panels(
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


def headline(figure: Figure, words: str) -> None:
    figure.suptitle(words, x=0.01, ha="left", fontsize=13)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
