from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.doubles import DoubleBundle, HashingEncoder, picture, record, study
from radrank.core.archive import Archive
from radrank.core.errors import InvalidQuery
from radrank.core.studies import StudyImage
from radrank.datasets import pixels
from radrank.server.building import import_studies, reencode
from radrank.server.importing import encode_studies

BROKEN = StudyImage(image_id="broken", content=b"\xff\xd8\xff nothing more")


@pytest.fixture
def archive(tmp_path):
    archive = Archive(tmp_path / "archive.sqlite")
    yield archive
    archive.close()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_records_come_in_order_with_the_vectors_of_their_own_items(batch_size):
    studies = [study(n, images=n % 4, report="" if n % 4 == 2 else None) for n in range(1, 30)]
    records = list(encode_studies(studies, HashingEncoder(), batch_size=batch_size))
    assert [found.study.study_id for found in records] == [one.study_id for one in studies]
    for found, one in zip(records, studies, strict=True):
        expected = record(one)
        assert np.allclose(found.image_vectors, expected.image_vectors, atol=1e-6)
        assert (found.report_vector is None) == (not one.report)
        if one.report:
            assert np.allclose(found.report_vector, expected.report_vector)


def test_images_are_kept_as_previews():
    large = study(1, images=0)
    large = replace(large, images=(StudyImage(image_id="a", content=picture(1, side=2000)),))
    found = next(encode_studies([large], HashingEncoder()))
    preview = found.study.images[0].read()
    assert preview.startswith(b"\xff\xd8")
    assert max(pixels.decode(preview).shape) == 1024


def test_a_bad_image_is_skipped_and_told_and_the_rest_of_the_study_stays():
    bad = []
    one = study(1, images=2)
    one = replace(one, images=(one.images[0], BROKEN, one.images[1]))
    found = list(encode_studies([one, study(2)], HashingEncoder(), on_bad=bad.append))
    assert [image.image_id for image in found[0].study.images] == ["I0001-0", "I0001-1"]
    assert np.allclose(found[0].image_vectors, record(study(1, images=2)).image_vectors, atol=1e-6)
    assert [str(told) for told in bad] == ["study S0001, image broken: is broken or truncated"]


def test_a_study_of_which_nothing_is_left_is_skipped_and_told(tmp_path):
    bad = []
    path = tmp_path / "missing.jpg"
    hollow = study(1, report="", images=0)
    hollow = replace(hollow, images=(StudyImage(image_id="x", content=path),))
    assert [one.study.study_id for one in encode_studies([hollow, study(2)], HashingEncoder(), on_bad=bad.append)] == [
        "S0002"
    ]
    assert str(path) in str(bad[0])
    assert "neither" in str(bad[1])


def test_without_a_listener_a_bad_image_is_named_by_its_place():
    one = replace(study(3), images=(*study(3).images, BROKEN))
    with pytest.raises(InvalidQuery) as caught:
        list(encode_studies([study(1), study(2), one], HashingEncoder()))
    assert caught.value.field == "studies[2].images[1].content"


def test_what_the_source_raises_is_raised():
    def broken():
        yield study(1)
        raise InvalidQuery("studies[1]", "is wrong")

    with pytest.raises(InvalidQuery, match=r"studies\[1\]"):
        list(encode_studies(broken(), HashingEncoder()))


def test_studies_are_read_only_a_little_ahead():
    taken = []

    def counted():
        for number in range(1_000):
            taken.append(number)
            yield study(number, images=0)

    next(encode_studies(counted(), HashingEncoder(), batch_size=4))
    assert len(taken) < 30


def test_an_import_adds_and_replaces_and_counts(archive):
    bundle, steps = DoubleBundle(), []
    done = import_studies(
        archive, bundle, [study(n) for n in range(300)], on_bad=pytest.fail, step=lambda: steps.append(1)
    )
    assert (done.added, done.replaced, len(steps)) == (300, 0, 300)
    again = import_studies(archive, bundle, [study(n, report="new") for n in (0, 300)], on_bad=pytest.fail)
    assert (again.added, again.replaced, archive.counts().studies) == (1, 1, 301)


def test_a_broken_id_is_told(archive):
    bad = []
    done = import_studies(archive, DoubleBundle(), [study(1, study_id="a\0b"), study(2)], on_bad=bad.append)
    assert (done.added, len(bad)) == (1, 1)


def test_reencoding_gives_every_study_the_other_encoders_vectors(archive):
    import_studies(archive, DoubleBundle(), [study(n, images=2) for n in range(40)], on_bad=pytest.fail)
    other = DoubleBundle(encoder=HashingEncoder(seed=5), encoder_id="f" * 64)
    reencode(archive, other)
    assert archive.encoder == "f" * 64
    found = archive.record("S0007", previews=True)
    assert np.allclose(found.image_vectors, record(found.study, other.encoder).image_vectors, atol=1e-6)
    assert found.study.findings == study(7).findings
