"""Plots show what they were given: as many bars and points, at the right places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from radrank.evaluation import plots
from radrank.evaluation.results import Change, Family, Row, Scope, Table
from radrank.evaluation.screening import reliability

METRICS = plots.FOREST


def row(method, family, *, relative, matched=False):
    change = Change(relative=relative, low=relative - 0.05, high=relative + 0.1)
    return Row(
        method=method,
        family=family,
        matched=matched,
        seeds=1,
        metrics={},
        changes={Scope.ABNORMAL: dict.fromkeys(METRICS, change)},
    )


def table(direction="image→report", *more):
    rows = (
        row("SAGE", Family.RERANKER, relative=0.12),
        row("SAGE", Family.RERANKER, relative=0.04, matched=True),
        row("CSLS", Family.TRAINING_FREE, relative=-0.2),
        row("multi-task", Family.EMBEDDING, relative=0.0),
        row("random", Family.FLOOR, relative=-0.9),
        *more,
    )
    return Table(direction=direction, queries={}, gallery=9, reference="multi-task", rows=rows)


def heights(axes):
    return [round(float(bar.get_height())) for bar in axes.patches]


def markers(axes):
    """x, y and marker of the points of a forest."""
    lines = [line for line in axes.lines if line.get_marker() in ("o", "D")]
    return [(*(float(np.round(v[0], 2)) for v in line.get_data()), line.get_marker()) for line in lines]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def tick_labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


RANKS = {"first strong match": (np.array([1, 5, 3, 0, 300]), np.array([1, 2, 4, 0, 20]))}
SCREENS = {"image": reliability(np.array([0.05, 0.05, 0.95, 0.95]), np.array([1, -1, -1, -1], np.int8))}
GROUPS = (["hernia", "pleural_effusion", "device"], np.array([0.2, 0.1, 0.3]), np.array([0.3, 0.1, 0.2]))


@pytest.mark.parametrize(
    "plot",
    [
        lambda path: plots.plot_changes([table()], path, scope=Scope.ABNORMAL),
        lambda path: plots.plot_groups(*GROUPS, np.array([4, 9, 0]), path, direction="image→report"),
        lambda path: plots.plot_ranks(RANKS, path, direction="image→report"),
        lambda path: plots.plot_reliability(SCREENS, path),
    ],
    ids=["changes", "groups", "ranks", "reliability"],
)
def test_every_plot_is_a_picture_with_something_on_it(plot, tmp_path):
    plot(tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_changes_stand_at_their_value_the_matched_one_below():
    figure = plots.changes_figure([table()], scope=Scope.ABNORMAL)
    assert len(figure.axes) == len(METRICS)
    assert tick_labels(figure.axes[0].yaxis) == ["training-free", "CSLS", "re-ranker", "SAGE"]
    for axes in figure.axes:
        assert markers(axes) == [(-20.0, 1.0, "D"), (12.0, 2.82, "D"), (4.0, 3.18, "o")]
        spans = [span.get_segments()[0][:, 0] for span in axes.collections]
        np.testing.assert_allclose(spans, [[-25, -10], [7, 22], [-1, 14]], atol=1e-9)


def test_directions_share_the_scale_of_a_metric_and_zero_is_in_sight():
    wide = table("report→image", row("GAT", Family.RERANKER, relative=0.9))
    figure = plots.changes_figure([table(), wide], scope=Scope.ABNORMAL, metrics=("Jaccard@10",))
    assert titles(figure) == ["image→report, against multi-task", "report→image, against multi-task"]
    one, other = (axes.get_xlim() for axes in figure.axes)
    assert one == other
    assert one[0] < 0 < 100 < one[1]


def test_a_change_that_is_no_number_is_not_drawn():
    figure = plots.changes_figure([table("t", row("GAT", Family.RERANKER, relative=np.inf))], scope=Scope.ABNORMAL)
    assert [len(markers(axes)) for axes in figure.axes] == [3, 3, 3]


def test_a_scope_without_changes_leaves_the_panels_empty(tmp_path):
    plots.plot_changes([table()], tmp_path / "plot.png", scope=Scope.MACRO)
    assert [markers(axes) for axes in plots.changes_figure([table()], scope=Scope.MACRO).axes] == [[], [], []]


def test_groups_are_sorted_by_size_and_those_without_queries_left_out():
    names, before, after = GROUPS
    figure = plots.groups_figure(names, before, after, np.array([4, 1200, 0]), direction="image→report")
    (axes,) = figure.axes
    assert tick_labels(axes.yaxis) == ["pleural effusion (1,200)", "hernia (4)"]
    assert [float(bar.get_width()) for bar in axes.patches] == [0.1, 0.2, 0.1, 0.3]
    assert [text.get_text() for text in axes.texts] == [".10", ".20", ".10", ".30"]
    assert axes.get_title(loc="left") == "Strong MRR by finding group, image→report"


def test_ranks_are_counted_in_octaves_before_and_after():
    left, right = plots.ranks_figure(RANKS, direction="image→report").axes
    assert tick_labels(left.xaxis) == ["1", "2–3", "4–7", "8–15", "16–31", "32–63", "64–127", "≥128"]
    assert heights(left)[:8] == [1, 1, 1, 0, 0, 0, 0, 1]
    assert heights(left)[8:] == [1, 1, 1, 0, 1, 0, 0, 0]
    lost, still, gained = heights(right)[:7], heights(right)[7], heights(right)[8:]
    assert (lost[::-1], still, gained) == ([1, 0, 0, 0, 0, 0, 0], 1, [0, 1, 0, 0, 0, 0, 1])
    assert [text.get_text() for text in right.texts] == ["25 % worse", "50 % better"]


def test_nothing_that_moves_is_still_a_plot(tmp_path):
    none = np.zeros(3, np.int64)
    plots.plot_ranks({"pair": (none, none)}, tmp_path / "plot.png", direction="image→report")
    left, right = plots.ranks_figure({"pair": (none + 1, none + 1)}, direction="image→report").axes
    assert heights(left) == [3, 3]
    assert heights(right) == [0, 3, 0]


def test_reliability_draws_the_bins_that_hold_something():
    above, below = plots.reliability_figure(SCREENS).axes
    (curve,) = (line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(curve.get_xydata(), [[0.05, 0.5], [0.95, 1.0]])
    assert heights(below) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert "image: 4 studies, calibration error .25" in [text.get_text() for text in above.get_legend().get_texts()]


def test_intervals_of_a_share_are_wilsons():
    """Agresti and Coull (The American Statistician 1998): none of 10 is [0, .278]."""
    low, high = plots._wilson(np.array([0.0, 1.0]), np.array([10, 10]))
    np.testing.assert_allclose(low, [0.0, 0.722], atol=5e-4)
    np.testing.assert_allclose(high, [0.278, 1.0], atol=5e-4)
