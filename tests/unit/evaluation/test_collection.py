"""A data set under an encoder: one image item a study, labels by name, and what a snapshot says of the same studies."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from helpers.doubles import HashingEncoder, picture, record, snapshot_of, study
from helpers.judging import made_collection, silent
from radrank.core.archive import Archive
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality, Split, StudyImage, View, hashed_split
from radrank.core.vectors import unit
from radrank.datasets import pixels
from radrank.evaluation.collection import collect, from_snapshot, joined

ENCODER = HashingEncoder()


def image(seed, view, content=None):
    return StudyImage(image_id=f"I{seed}", content=content or picture(seed), view=view)


def seen(number, images, **known):
    """A study with these images."""
    return replace(study(number, images=0, **known), images=images)


def vectors(*seeds):
    return ENCODER.encode_images(np.stack([pixels.load(picture(seed), ENCODER.image_size) for seed in seeds]))


class Shelf(list):
    """A Reader over studies at hand."""

    skipped = ()
    left_out: dict[str, int] = {}  # noqa: RUF012


def collected(*studies, on_bad=None, **options):
    def refuse(bad):
        raise AssertionError(bad)

    return collect(Shelf(studies), ENCODER, on_bad=on_bad or refuse, task=silent, **options)


STUDIES = [
    study(1, images=0, labels=("opacity",), normal=False, split=Split.TEST),
    study(2, images=0, normal=True, patient_id="P1"),
    study(3, images=0, labels=("edema", "opacity"), uncertain=("fracture",), normal=False),
    study(4, images=0),
]


def test_studies_are_told_by_id_split_patient_and_labels():
    found = collected(*STUDIES)
    assert found.study_ids == ("S0001", "S0002", "S0003", "S0004")
    assert found.splits == (Split.TEST, *(hashed_split(f"S000{n}") for n in (2, 3, 4)))
    assert found.patients == ("S0001", "P1", "S0003", "S0004")
    assert found.groups == ("edema", "opacity")
    np.testing.assert_array_equal(found.labels, [[0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found.normal, [-1, 1, -1, 0])
    np.testing.assert_array_equal(found.uncertain, [False, False, True, False])
    assert found.layout == ENCODER.layout


def test_findings_are_told_in_the_encoders_order_without_groups_that_it_has_no_name_for():
    layout = VectorLayout(projection=8, share=0.2, groups=("opacity", "scar", "edema"))
    made = [
        study(1, labels=("edema", "hernia"), normal=False),
        study(2, normal=True),
        study(3, labels=("opacity",), normal=False),
        study(4, labels=("hernia",), normal=False),
        study(5),
    ]
    found = replace(collected(*made), layout=layout)
    assert found.groups == ("edema", "hernia", "opacity")
    assert found.findings.dtype == np.uint8
    np.testing.assert_array_equal(
        found.findings, [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )


def test_an_image_item_is_the_sum_of_a_studys_views():
    views = (image(1, View.LATERAL), image(2, View.PA))
    found = collected(study(1, images=0), seen(2, views))
    np.testing.assert_array_equal(found.study[Modality.IMAGE], [1])
    np.testing.assert_allclose(found.vectors[Modality.IMAGE], unit(vectors(1, 2).sum(axis=0))[None], atol=1e-6)


def test_or_its_primary_frontal_alone():
    views = (image(1, View.LATERAL), image(2, View.AP), image(3, View.PA), image(4, View.PA))
    found = collected(seen(1, views), views="primary")
    np.testing.assert_array_equal(found.vectors[Modality.IMAGE], vectors(3))


def test_laterals_alone_are_archive_only():
    made = seen(1, (image(1, View.LATERAL),)), study(2, view=View.UNKNOWN)
    np.testing.assert_array_equal(collected(*made).frontal, [False, True])
    alone = collected(*made, views="primary")
    assert (alone.study[Modality.IMAGE].tolist(), alone.frontal.tolist()) == ([1], [True])


def test_reports_that_repeat_word_for_word_are_known():
    texts = ["clear", "effusion", "clear", "", "clear lungs and more of it", "effusion"]
    found = collected(*(study(n, report=text) for n, text in enumerate(texts)))
    np.testing.assert_array_equal(found.same_text, [0, 1, 0, 2, 1])
    np.testing.assert_array_equal(found.study[Modality.REPORT], [0, 1, 2, 4, 5])
    expected = ENCODER.encode_texts([text for text in texts if text])
    np.testing.assert_array_equal(found.vectors[Modality.REPORT], expected)


def test_probabilities_are_those_of_the_classifier():
    found = collected(*(study(n) for n in range(3)))
    for m in Modality:
        np.testing.assert_array_equal(found.abnormal[m], ENCODER.classify(found.vectors[m], m))


def test_a_broken_image_is_told_and_a_study_without_anything_left_out():
    bad = []
    broken = image(1, View.PA, b"no image")
    found = collected(
        seen(1, (broken,), report=""),
        seen(2, (broken, image(2, View.PA))),
        on_bad=bad.append,
    )
    assert found.study_ids == ("S0002",)
    np.testing.assert_array_equal(found.vectors[Modality.IMAGE], vectors(2))
    assert [one.reason for one in bad] == ["is neither JPEG, PNG nor DICOM"] * 2
    assert not any("S000" in str(one) for one in bad)


def test_bars_run_to_their_end():
    bars = {}

    @contextmanager
    def task(label, total):
        bars[label] = [total, 0]

        def advance():
            bars[label][1] += 1

        yield advance

    many = [study(n, report=f"text {n % 40}") for n in range(70)]
    collect(Shelf(many), ENCODER, workers=2, on_bad=print, task=task)
    assert bars == {"images": [70, 70], "reports": [40, 40]}


def test_a_snapshot_holds_the_same(tmp_path):
    made = [
        study(
            n,
            images=1 + n % 2,
            view=View.AP if n % 3 else View.LATERAL,
            labels=("edema",) if n % 2 else (),
            normal=n % 2 == 0,
        )
        for n in range(9)
    ]
    made.append(study(10, images=0, labels=("scar",)))
    archive = Archive(tmp_path / "archive.sqlite")
    archive.upsert([record(one) for one in made], encoder="e" * 64)
    snapshot = snapshot_of(tmp_path / "snapshots", archive)
    archive.close()
    held, read = from_snapshot(snapshot, ENCODER), collected(*made)
    for name in ("study_ids", "splits", "groups", "layout"):
        assert getattr(held, name) == getattr(read, name)
    for name in ("labels", "normal", "uncertain", "frontal", "findings"):
        np.testing.assert_array_equal(getattr(held, name), getattr(read, name))
    for m in Modality:
        np.testing.assert_array_equal(held.study[m], read.study[m])
        np.testing.assert_allclose(held.vectors[m], read.vectors[m], atol=1e-6)
        np.testing.assert_allclose(held.abnormal[m], read.abnormal[m], atol=1e-6)
    assert len(set(held.same_text.tolist())) == len(held.same_text)  # texts are not kept


def test_groups_of_one_name_are_one_when_collections_are_joined():
    first = collected(study(1, labels=("opacity",)), study(2, normal=True, images=0))
    second = collected(study(1, labels=("edema", "opacity"), report="one"), study(5, report=""))
    both = joined(first, second)
    assert (len(both), both.groups, both.layout) == (4, ("edema", "opacity"), ENCODER.layout)
    np.testing.assert_array_equal(both.labels, [[0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(both.study[Modality.IMAGE], [0, 2, 3])
    np.testing.assert_array_equal(both.study[Modality.REPORT], [0, 1, 2])
    np.testing.assert_array_equal(both.same_text, [0, 1, 2])
    np.testing.assert_array_equal(both.vectors[Modality.IMAGE][1:], second.vectors[Modality.IMAGE])


def test_halves_are_by_patient_and_the_same_in_any_company():
    collection = made_collection(80)
    rows = np.arange(80, dtype=np.int32)
    first, second = collection.halves(rows)
    assert sorted([*first, *second]) == rows.tolist()
    owners = [{collection.patients[row] for row in half} for half in (first, second)]
    assert not owners[0] & owners[1]
    assert abs(len(owners[0]) - len(owners[1])) <= 1
    again = joined(collection, made_collection(20, prefix="T")).halves(rows)
    np.testing.assert_array_equal(again[0], first)
