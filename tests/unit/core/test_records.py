from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.doubles import picture, record, study
from radrank.core.columns import VIEW_CODES, view_bits
from radrank.core.studies import StudyImage, View
from radrank.core.vectors import unit


def seen(*views):
    images = [StudyImage(image_id=f"{i}", content=picture(i), view=view) for i, view in enumerate(views)]
    return record(replace(study(1), images=tuple(images)))


@pytest.mark.parametrize(
    ("views", "position"),
    [((View.LATERAL, View.AP, View.PA, View.PA), 2), ((View.LATERAL,), 0), ((View.UNKNOWN, View.FRONTAL), 1)],
)
def test_all_images_are_one_item_that_names_the_primary_one(views, position):
    held = seen(*views)
    item = held.image_item
    np.testing.assert_allclose(item.vector, unit(held.image_vectors.sum(axis=0)), atol=1e-6)
    assert (item.position, item.view) == (position, VIEW_CODES[views[position]])
    assert item.views == view_bits(views)


def test_a_study_without_images_has_no_item():
    assert seen().image_item is None


def test_each_view_has_a_bit_of_its_own():
    assert len({view_bits([view]) for view in View}) == len(View)
    assert view_bits(View) == np.uint8(view_bits(View)) == 31
    assert (view_bits([View.PA, View.PA]), view_bits([])) == (view_bits([View.PA]), 0)
