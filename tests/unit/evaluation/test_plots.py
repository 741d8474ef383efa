"""Plots show what they were given: as many bars and points, at the right places."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
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


def points(count, width, seed=0):
    rng = np.random.default_rng(seed)
    groups = [("", "opacity", "cardiomegaly")[n % 3] for n in range(count)]
    normal = np.array([1 if not group else -1 for group in groups], np.int8)
    return plots.Points(vectors=rng.normal(size=(count, width)).astype(np.float32), normal=normal, groups=groups)


def cloud(title, images, reports):
    return plots.Cloud(title=title, images=images, reports=reports)


def heights(axes):
    return [round(float(bar.get_height())) for bar in axes.patches]


def markers(axes):
    """x, y and marker of the points of a forest."""
    lines = [line for line in axes.lines if line.get_marker() in ("o", "D")]
    return [(*(float(np.round(v[0], 2)) for v in line.get_data()), line.get_marker()) for line in lines]


def drawn(axes):
    return [len(collection.get_offsets()) for collection in axes.collections]


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
        lambda path: plots.plot_map([cloud("before", points(12, 8), points(12, 8))], path),
    ],
    ids=["changes", "groups", "ranks", "reliability", "map"],
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


def test_one_map_holds_both_modalities_of_one_width():
    figure = plots.map_figure([cloud("after", points(15, 8), points(12, 8, seed=1))])
    assert titles(figure) == ["after", ""]
    assert [drawn(axes) for axes in figure.axes] == [[15, 12], [15, 12]]
    assert figure.axes[0].texts[0].get_text() == "15 images and 12 reports, in one map"


@pytest.mark.parametrize(("width", "one_space"), [(5, True), (8, False)])
def test_vectors_of_two_spaces_get_a_map_each_and_the_panel_says_so(width, one_space):
    before = plots.Cloud(title="before", images=points(15, 8), reports=points(12, width), one_space=one_space)
    figure = plots.map_figure([before])
    images, reports = (np.asarray(found.get_offsets()) for found in figure.axes[0].collections)
    assert images[:, 1].min() > reports[:, 1].min()
    assert np.abs(np.concatenate([images, reports])).max() <= 1.0 + 1e-9
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["15 images and 12 reports, in a map of their own each", "images", "reports"]


def test_points_are_coloured_by_status_above_and_by_group_below():
    figure = plots.map_figure([cloud("after", points(12, 8), points(12, 8, seed=1))])
    above, below = ([to_hex(c).upper() for c in axes.collections[0].get_facecolors()[:3]] for axes in figure.axes)
    assert above == [plots.SKY, plots.VERMILION, plots.VERMILION]
    assert len({*below}) == 3
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "cardiomegaly",
        "opacity",
        "no finding",
        "image",
        "report",
    ]


def test_a_large_cloud_is_drawn_in_part_and_the_same_part_again():
    large = cloud("after", points(40, 8), points(40, 8, seed=1))
    once, again = (plots.map_figure([large], most=30, seed=3).axes[0] for _ in range(2))
    assert sum(drawn(once)) == 30
    for one, other in zip(once.collections, again.collections, strict=True):
        np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())


def test_a_status_that_is_not_told_has_its_own_colour_only_where_there_is_one():
    some = points(12, 8)
    some.normal[:2] = 0
    for images, told in ((some, True), (points(12, 8), False)):
        figure = plots.map_figure([cloud("after", images, points(12, 8))])
        assert ("not told" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]) is told
