from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from radrank.core.errors import InvalidQuery
from radrank.core.studies import Study, StudyImage
from radrank.datasets.decoding import decoded


def study(name: str, *contents: bytes | Path) -> Study:
    images = tuple(StudyImage(image_id=str(place), content=content) for place, content in enumerate(contents))
    return Study(study_id=name, images=images)


@pytest.mark.parametrize("workers", [1, 4])
def test_studies_come_in_order_with_one_picture_an_image(files, workers):
    good = files.encoded(files.ramp())
    found = list(decoded([study(str(place), *[good] * (place % 3)) for place in range(20)], 32, workers=workers))
    assert [each.study.study_id for each in found] == [str(place) for place in range(20)]
    assert [[one.shape for one in each.pixels] for each in found] == [[(32, 32)] * (place % 3) for place in range(20)]


def test_a_broken_image_is_told_apart_and_the_others_stay(files, tmp_path):
    good = files.encoded(files.ramp())
    (found,) = decoded([study("one", good, b"not an image", tmp_path / "gone.png", good)], 32, workers=1)
    assert [image.image_id for image in found.study.images] == ["0", "3"]
    assert len(found.pixels) == 2
    assert [(place, image.image_id) for place, image, _ in found.bad] == [(1, "1"), (2, "2")]
    assert "can't be read" in found.bad[1][2].reason


def test_what_is_kept_of_an_image_may_differ_from_it_and_may_refuse_it(files):
    def keep(image: StudyImage, content: bytes) -> StudyImage:
        if image.image_id == "1":
            raise InvalidQuery("image", "has to go")
        return replace(image, content=content[:4])

    good = files.encoded(files.ramp())
    (found,) = decoded([study("one", good, good)], 32, workers=1, keep=keep)
    assert [image.content for image in found.study.images] == [good[:4]]
    assert [error.reason for _, _, error in found.bad] == ["has to go"]


def test_only_a_few_studies_are_read_ahead(files):
    taken = 0

    def many():
        nonlocal taken
        for place in range(100):
            taken += 1
            yield study(str(place), files.encoded(files.ramp()))

    next(decoded(many(), 32, workers=2))
    assert taken < 10
