"""What a world asks and ranks: entries, relevance, banks, and re-rankers' scores of each query's candidates."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from helpers.doubles import NeighbourReranker
from helpers.judging import made_collection
from radrank.core.relevance import jaccard
from radrank.core.studies import Modality, Split
from radrank.core.vectors import top_k
from radrank.evaluation.worlds import World

IMAGE, REPORT = Modality.IMAGE, Modality.REPORT
DIRECTIONS = list(product(Modality, Modality))
COLLECTION = made_collection()
TEST, TRAIN = COLLECTION.of_split(Split.TEST), COLLECTION.of_split(Split.TRAIN)


def world_of(collection=COLLECTION):
    return World(collection, gallery=TEST, archive=TRAIN)


def with_texts(*groups, **changed):
    """The collection in which the test studies of a group, by their place among them, have one text."""
    texts = COLLECTION.same_text.copy()
    for group in groups:
        texts[TEST[list(group)]] = texts[TEST[group[0]]]
    return replace(COLLECTION, same_text=texts, **changed)


def with_labels(*rows):
    """The collection in which the first test studies have these sets of labels, normal first."""
    labels, normal = COLLECTION.labels.copy(), COLLECTION.normal.copy()
    labels[TEST[: len(rows)]] = rows
    normal[TEST[: len(rows)]] = [1 if row[0] else -1 if any(row) else 0 for row in rows]
    return {"labels": labels, "normal": normal}


NORMAL, EDEMA, SCAR = [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_study_asks_for_every_other(direction):
    source, target = direction
    trial = world_of().trial(source, target)
    np.testing.assert_array_equal(trial.queries, COLLECTION.vectors[source][TEST])
    np.testing.assert_array_equal(trial.gallery, COLLECTION.vectors[target][TEST])
    labels = COLLECTION.labels[TEST]
    overlap = jaccard(labels, labels)
    np.testing.assert_array_equal(trial.jaccard, overlap)
    np.testing.assert_array_equal(trial.strong, overlap == 1)
    np.testing.assert_array_equal(trial.weak, overlap > 0)
    np.testing.assert_array_equal(trial.pair, np.eye(len(TEST), dtype=bool))
    np.testing.assert_array_equal(trial.valid, ~np.eye(len(TEST), dtype=bool) | (source is not target))
    np.testing.assert_array_equal(trial.query_normal, COLLECTION.normal[TEST])
    np.testing.assert_array_equal(trial.gallery_abnormal, COLLECTION.abnormal[target][TEST])


def test_reports_of_one_text_are_one_entry_and_the_pair_of_all_their_studies():
    world = world_of(with_texts([1, 4, 6], [2, 3]))
    there, back = world.trial(IMAGE, REPORT), world.trial(REPORT, IMAGE)
    assert there.pair.shape == (len(TEST), len(TEST) - 3)
    np.testing.assert_array_equal(there.pair, back.pair.T)
    assert np.flatnonzero(there.pair[:, 1]).tolist() == [1, 4, 6]
    assert np.flatnonzero(there.pair[:, 2]).tolist() == [2, 3]
    assert there.pair.sum() == len(TEST)
    np.testing.assert_array_equal(there.gallery[:5], COLLECTION.vectors[REPORT][TEST[[0, 1, 2, 5, 7]]])
    assert world.trial(REPORT, REPORT).valid.sum() == (len(TEST) - 3) * (len(TEST) - 4)


@pytest.mark.parametrize(
    ("rows", "spoken"),
    [([EDEMA, SCAR, SCAR], SCAR), ([EDEMA, SCAR, NORMAL], EDEMA), ([NORMAL, SCAR, NORMAL], NORMAL)],
)
def test_such_an_entry_has_the_labels_most_frequent_among_its_studies_or_the_first(rows, spoken):
    entries = world_of(with_texts([0, 1, 2], **with_labels(*rows))).entries[REPORT]
    np.testing.assert_array_equal(entries.labels[0], np.array(spoken, dtype=bool))
    assert entries.normal[0] == (1 if spoken == NORMAL else -1)


def test_texts_of_the_archive_do_not_collapse():
    texts = COLLECTION.same_text.copy()
    texts[TRAIN[:5]] = texts[TEST[0]]
    world = world_of(replace(COLLECTION, same_text=texts))
    assert len(world.entries[REPORT]) == len(TEST)
    assert len(world.banks(IMAGE, REPORT).gallery) == len(TRAIN)


def test_a_query_with_an_uncertain_finding_has_no_strong_match_but_others_find_it():
    uncertain = COLLECTION.uncertain.copy()
    uncertain[TEST[3]] = True
    plain, changed = (w.trial(IMAGE, REPORT) for w in (world_of(), world_of(replace(COLLECTION, uncertain=uncertain))))
    assert plain.strong[3].any()
    assert not changed.strong[3].any()
    np.testing.assert_array_equal(np.delete(plain.strong, 3, axis=0), np.delete(changed.strong, 3, axis=0))
    np.testing.assert_array_equal(plain.weak, changed.weak)


def test_laterals_alone_are_neither_asked_with_nor_found_but_stand_in_the_archive():
    frontal = COLLECTION.frontal.copy()
    frontal[[TEST[2], TRAIN[0]]] = False
    world = world_of(replace(COLLECTION, frontal=frontal))
    trial = world.trial(REPORT, IMAGE)
    assert trial.pair.shape == (len(TEST), len(TEST) - 1)
    assert not trial.pair[2].any()
    assert len(world.banks(IMAGE, IMAGE).gallery) == len(TRAIN)


def test_judged_studies_never_stand_in_the_archive():
    world = World(COLLECTION, gallery=TEST, archive=np.concatenate([TRAIN, TEST[:4]]))
    np.testing.assert_array_equal(world.archive, TRAIN)
    banks = world.banks(REPORT, IMAGE)
    np.testing.assert_array_equal(banks.queries, COLLECTION.vectors[REPORT][TRAIN])
    np.testing.assert_array_equal(banks.gallery, COLLECTION.vectors[IMAGE][TRAIN])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_reranker_scores_a_querys_candidates_and_nothing_else(direction):
    world = world_of()
    trial = world.trial(*direction)
    scores = world.reranked({"plain": NeighbourReranker(0.0)}, trial, candidates=7)["plain"]
    cosines = np.where(trial.valid, trial.cosines, -np.inf).astype(np.float32)
    best = top_k(cosines, 7)
    assert (np.isfinite(scores).sum(axis=1) == 7).all()
    np.testing.assert_allclose(np.take_along_axis(scores, best, 1), np.take_along_axis(cosines, best, 1), atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_graph_knows_the_archive_alone(direction):
    """Archive nodes are training studies with their pairs' beliefs and their findings; of query and candidates no more
    is told than what their vectors say."""
    world = world_of()
    trial = world.trial(*direction)
    found, batch = world.graph(trial, 0, NeighbourReranker().settings, candidates=9)
    beliefs = COLLECTION.layout.beliefs
    assert len(found) == 9
    np.testing.assert_array_equal(batch.arrays["query"], beliefs(trial.queries[:1]))
    np.testing.assert_array_equal(batch.arrays["candidate"][0, :9], beliefs(trial.gallery[found]))
    for m in Modality:
        facts = [beliefs(COLLECTION.vectors[one][TRAIN]) for one in (m, m.other)]
        known = {row.tobytes() for row in np.concatenate([*facts, COLLECTION.findings[TRAIN]], axis=1)}
        for relation in (f"candidate_{m}", f"query_{m}"):
            heard = batch.arrays[f"{relation}.idx"]
            assert (heard[:, :1] >= 0).all()
            assert {row.tobytes() for row in batch.arrays[m.value][heard[heard >= 0]]} <= known


def test_a_graph_tells_findings_as_the_encoder_names_them():
    """Of a data set with groups that the encoder has no name for, and without some that it has."""
    foreign = replace(COLLECTION, groups=("edema", "hernia", "opacity", "scar"))
    world = world_of(foreign)
    _, batch = world.graph(world.trial(IMAGE, REPORT), 0, NeighbourReranker().settings, candidates=9)
    told = batch.arrays["report"][:, -COLLECTION.layout.beliefs_width :]
    assert COLLECTION.layout.groups == ("edema", "fracture", "opacity", "scar")
    assert told[:, [0, 1, 3, 4]].any(axis=0).all()
    assert not told[:, 2].any()


def test_threads_change_no_bit_and_rows_can_be_chosen():
    world, rerankers = world_of(), {"a": NeighbourReranker(0.3), "b": NeighbourReranker(0.1)}
    trial, steps = world.trial(IMAGE, REPORT), []
    alone = world.reranked(rerankers, trial, candidates=9, step=lambda: steps.append(1))
    threads = world_of().reranked(rerankers, trial, candidates=9, workers=4)
    some = world.reranked(rerankers, trial, candidates=9, queries=np.array([3, 5]))
    assert len(steps) == len(TEST)
    for name in rerankers:
        assert alone[name].tobytes() == threads[name].tobytes()
        assert some[name][[3, 5]].tobytes() == alone[name][[3, 5]].tobytes()
        assert not np.isfinite(np.delete(some[name], [3, 5], axis=0)).any()


def test_rerankers_of_one_graph_share_it(monkeypatch):
    world, built = world_of(), []
    graph = World.graph
    monkeypatch.setattr(World, "graph", lambda *args, **options: built.append(1) or graph(*args, **options))
    other = NeighbourReranker()
    other.settings = replace(other.settings, neighbours=2)
    world.reranked({"a": NeighbourReranker(), "b": NeighbourReranker(0.5), "c": other}, world.trial(IMAGE, REPORT))
    assert len(built) == 2 * len(TEST)


def test_a_world_with_one_query_left_ranks_the_same_gallery():
    world = world_of(with_texts([1, 4, 6]))
    alone = world.alone(REPORT, 1)
    trial = alone.trial(REPORT, IMAGE)
    np.testing.assert_array_equal(trial.queries, world.trial(REPORT, IMAGE).queries[1:2])
    np.testing.assert_array_equal(trial.pair, world.trial(REPORT, IMAGE).pair[1:2])
    assert len(world.entries[REPORT]) == len(TEST) - 2
