"""Maps show what they were given, in the colours of what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from radrank.evaluation import _canvas, maps


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def drawn(axes):
    return [len(collection.get_offsets()) for collection in axes.collections]


def cloud(title, images, reports):
    return maps.Cloud(title=title, images=images, reports=reports)


def points(count, width, seed=0):
    rng = np.random.default_rng(seed)
    groups = [("", "opacity", "cardiomegaly")[n % 3] for n in range(count)]
    normal = np.array([1 if not group else -1 for group in groups], np.int8)
    return maps.Points(vectors=rng.normal(size=(count, width)).astype(np.float32), normal=normal, groups=groups)


def test_a_map_is_a_picture_with_something_on_it(tmp_path):
    maps.plot_map([cloud("before", points(12, 8), points(12, 8))], tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_one_map_holds_both_modalities_of_one_width():
    figure = maps.map_figure([cloud("after", points(15, 8), points(12, 8, seed=1))])
    assert titles(figure) == ["after", ""]
    assert [drawn(axes) for axes in figure.axes] == [[15, 12], [15, 12]]
    assert figure.axes[0].texts[0].get_text() == "15 images and 12 reports, in one map"


@pytest.mark.parametrize(("width", "one_space"), [(5, True), (8, False)])
def test_vectors_of_two_spaces_get_a_map_each_and_the_panel_says_so(width, one_space):
    before = maps.Cloud(title="before", images=points(15, 8), reports=points(12, width), one_space=one_space)
    figure = maps.map_figure([before])
    images, reports = (np.asarray(found.get_offsets()) for found in figure.axes[0].collections)
    assert images[:, 1].min() > reports[:, 1].min()
    assert np.abs(np.concatenate([images, reports])).max() <= 1.0 + 1e-9
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["15 images and 12 reports, in a map of their own each", "images", "reports"]


def test_points_are_coloured_by_status_above_and_by_group_below():
    figure = maps.map_figure([cloud("after", points(12, 8), points(12, 8, seed=1))])
    above, below = ([to_hex(c).upper() for c in axes.collections[0].get_facecolors()[:3]] for axes in figure.axes)
    assert above == [_canvas.SKY, _canvas.VERMILION, _canvas.VERMILION]
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
    once, again = (maps.map_figure([large], most=30, seed=3).axes[0] for _ in range(2))
    assert sum(drawn(once)) == 30
    for one, other in zip(once.collections, again.collections, strict=True):
        np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())


def test_a_status_that_is_not_told_has_its_own_colour_only_where_there_is_one():
    some = points(12, 8)
    some.normal[:2] = 0
    for images, told in ((some, True), (points(12, 8), False)):
        figure = maps.map_figure([cloud("after", images, points(12, 8))])
        assert ("not told" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]) is told
