"""What is judged beside what: no study on both sides, and nothing tuned on what is judged."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.judging import made_collection
from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality, Split
from radrank.evaluation.subject import LEAST_TUNING, Archive, of_split, transferred, unseen

COLLECTION = made_collection(240)  # 60 validation studies
SMALL = made_collection(120)  # 30


def ids(world, rows):
    return {world.collection.study_ids[row] for row in rows}


def judged(blocks):
    return [ids(block.judged, block.judged.gallery) for block in blocks]


def archived(blocks):
    return [ids(block.judged, block.judged.archive) for block in blocks]


def of(collection, split):
    return {collection.study_ids[row] for row in collection.of_split(split)}


def test_test_is_judged_beside_train_and_tuned_on_validation():
    (block,) = of_split(COLLECTION, Split.TEST)
    assert ids(block.judged, block.judged.gallery) == of(COLLECTION, Split.TEST)
    assert ids(block.tuning, block.tuning.gallery) == of(COLLECTION, Split.VALIDATION)
    for world in (block.judged, block.tuning):
        assert ids(world, world.archive) == of(COLLECTION, Split.TRAIN)


def test_validation_is_judged_in_halves_each_tuned_on_the_other():
    blocks = of_split(made_collection(480), Split.VALIDATION)
    first, second = judged(blocks)
    assert not first & second
    assert len(first | second) == 120
    assert blocks[0].tuning is blocks[1].judged
    assert blocks[1].tuning is blocks[0].judged


def test_train_is_not_judged():
    with pytest.raises(InvalidQuery, match="learned"):
        of_split(COLLECTION, Split.TRAIN)


def test_with_too_little_to_tune_on_nothing_is_tuned():
    assert len(SMALL.of_split(Split.VALIDATION)) < LEAST_TUNING <= len(COLLECTION.of_split(Split.VALIDATION))
    assert of_split(SMALL, Split.TEST)[0].tuning is None


@pytest.mark.parametrize("splits", [(Split.TRAIN,), (Split.TEST,)])
def test_a_side_without_studies_is_refused(splits):
    with pytest.raises(InvalidQuery, match="too few to rank"):
        of_split(made_collection(40, splits=splits * 40), Split.TEST)


def test_unseen_studies_are_judged_beside_a_snapshot_tuned_on_its_validation():
    folder = made_collection(40, prefix="T")
    (block,), overlap = unseen(folder, COLLECTION, None)
    assert overlap == 0
    assert ids(block.judged, block.judged.gallery) == set(folder.study_ids)
    assert ids(block.judged, block.judged.archive) == set(COLLECTION.study_ids)
    assert ids(block.tuning, block.tuning.gallery) == of(COLLECTION, Split.VALIDATION)
    assert ids(block.tuning, block.tuning.archive) == set(COLLECTION.study_ids) - of(COLLECTION, Split.VALIDATION)
    (test,), _ = unseen(folder, COLLECTION, Split.TEST)
    assert ids(test.judged, test.judged.gallery) == of(folder, Split.TEST)


def test_studies_that_the_snapshot_knows_are_left_out_of_it():
    folder = made_collection(40)
    (block,), overlap = unseen(folder, COLLECTION, None)
    assert overlap == 40
    assert ids(block.judged, block.judged.archive) == set(COLLECTION.study_ids[40:])
    assert not ids(block.tuning, [*block.tuning.gallery, *block.tuning.archive]) & set(folder.study_ids)


def test_a_transfer_judges_both_halves_of_the_target_beside_every_archive():
    target = made_collection(60, prefix="T", seed=3)
    found = transferred(target, COLLECTION, None)
    train = of(COLLECTION, Split.TRAIN)
    for archive, blocks in found.items():
        first, second = judged(blocks)
        assert not first & second
        assert first | second == set(target.study_ids)
        rest = {Archive.SOURCE: [set(), set()], Archive.TARGET: [second, first], Archive.BOTH: [second, first]}[archive]
        around = set() if archive is Archive.TARGET else train
        assert archived(blocks) == [around | rest[0], around | rest[1]]
        for block in blocks:
            assert block.tuning is found[Archive.SOURCE][0].tuning  # tuned once
            assert ids(block.tuning, block.tuning.gallery) == of(COLLECTION, Split.VALIDATION)
            assert ids(block.tuning, block.tuning.archive) == train


def test_a_patients_studies_are_in_one_half():
    target = made_collection(60, prefix="T")
    for block in transferred(target, COLLECTION, None)[Archive.TARGET]:
        world = block.judged
        patients = [{world.collection.patients[row] for row in rows} for rows in (world.gallery, world.archive)]
        assert not patients[0] & patients[1]


def test_a_transfer_may_judge_one_split_of_the_target():
    target = made_collection(80, prefix="T")
    first, second = judged(transferred(target, COLLECTION, Split.TEST)[Archive.BOTH])
    assert first | second == of(target, Split.TEST)


def test_labels_of_source_and_target_are_joined_by_name():
    target = made_collection(60, prefix="T", groups=("covid", "edema", "opacity", "scar"))
    world = transferred(target, COLLECTION, None)[Archive.BOTH][0].judged
    assert world.collection.groups == ("covid", "edema", "fracture", "opacity", "scar")
    entries = world.entries[Modality.IMAGE]
    assert not entries.labels[:, 3].any()  # no target study has a fracture
    np.testing.assert_array_equal(entries.labels[:, [0, 1, 2, 4, 5]], target.labels[entries.study])
