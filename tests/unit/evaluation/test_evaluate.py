"""A whole judgement on made-up collections: its rows, what it tunes on, seeds, controls, baseline, leak tests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from helpers.doubles import NeighbourReranker
from helpers.judging import NAMES, made_collection, silent
from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality, Split
from radrank.evaluation.controls import explained, family
from radrank.evaluation.evaluate import DIRECTIONS, Baseline, evaluate
from radrank.evaluation.matching import find_offset, with_offset
from radrank.evaluation.metrics import per_query
from radrank.evaluation.results import Family, Scope
from radrank.evaluation.scoring import EMBEDDING, Scorer, Seed
from radrank.evaluation.subject import Archive, of_split, transferred
from radrank.evaluation.training_free import FLOORS, METHODS, tune

THERE, BACK, IMAGES = DIRECTIONS[:3]
COLLECTION = made_collection(240)
BLOCKS = of_split(COLLECTION, Split.TEST)
OTHER = of_split(made_collection(240, encoder=1, noise=2.0), Split.TEST)
SCORER = Scorer(candidates=20)  # tunes once for all tests
RERANKERS = {
    "gcn": NeighbourReranker(0.1),
    "mlp": NeighbourReranker(0.0),
    "sage": NeighbourReranker(0.3),
    "sage_alone": NeighbourReranker(0.05),
    "sage_shuffled": NeighbourReranker(-0.3),
}


def seed_of(rerankers=None, *, blocks=BLOCKS, encoder="e"):
    return Seed(name="made", encoder=encoder, rerankers=RERANKERS if rerankers is None else rerankers, blocks=blocks)


def judged(*seeds, directions=(THERE,), **options):
    return evaluate(
        seeds or [seed_of()],
        SCORER,
        title="made up",
        task=silent,
        draws=20,
        directions=directions,
        **options,
    )


def rows_of(table):
    return {(row.method, row.matched): row for row in table.rows}


def mean(table, name, metric="Jaccard@10", *, matched=False, scope=Scope.ALL):
    return rows_of(table)[name, matched].metrics[scope][metric].mean


@pytest.fixture(scope="module")
def found():
    return judged(default="sage", notes=["a note"], directions=DIRECTIONS[:3])


def test_every_method_has_its_row_and_all_but_floors_and_reference_a_matched_twin(found):
    table = found.report.tables[0]
    plain = [*FLOORS, EMBEDDING, *METHODS, *RERANKERS]
    expected = [(name, False) for name in plain] + [(name, True) for name in plain[len(FLOORS) + 1 :]]
    assert [(row.method, row.matched) for row in table.rows] == expected
    kinds = {row.method: row.family for row in table.rows}
    assert {kinds[name] for name in FLOORS} == {Family.FLOOR}
    assert kinds[EMBEDDING] is Family.EMBEDDING
    assert {kinds[name] for name in METHODS} == {Family.TRAINING_FREE}
    assert {name for name, kind in kinds.items() if kind is Family.CONTROL} == {"mlp", "sage_alone", "sage_shuffled"}
    assert {name for name, kind in kinds.items() if kind is Family.RERANKER} == {"gcn", "sage"}
    assert table.reference == EMBEDDING


def test_the_missions_directions_come_first(found):
    assert [table.direction for table in found.report.tables] == ["image→report", "report→image", "image→image"]


def test_rerankers_are_compared_with_the_controls_there_are(found):
    pairs = {(one.method, one.against, one.matched) for one in found.report.tables[0].comparisons}
    against = [("gcn", "mlp"), ("sage", "mlp"), ("sage", "sage_shuffled"), ("sage", "sage_alone")]
    assert pairs == {(*pair, matched) for pair in against for matched in (False, True)}
    for one in found.report.tables[0].comparisons:
        assert list(one.changes) == list(Scope)


def test_numbers_are_those_of_the_parts(found):
    """Tuned on validation, scored on test: done here by hand."""
    table, (block,) = found.report.tables[0], BLOCKS
    trial, tuning = block.judged.trial(*THERE), block.tuning.trial(*THERE)
    share = per_query(tuning, tuning.cosines)["normals@10"].mean()
    method, banks = METHODS["CSLS"], block.tuning.banks(*THERE)
    chosen = tune(method, tuning, banks)
    score = method.score(trial, block.judged.banks(*THERE), **chosen)
    offset = find_offset(tuning, method.score(tuning, banks, **chosen), share)
    one = {"sage": RERANKERS["sage"]}
    sage = block.judged.reranked(one, trial, candidates=20)["sage"]
    sage_offset = find_offset(tuning, block.tuning.reranked(one, tuning, candidates=20)["sage"], share)
    for name, matched, scores in (
        (EMBEDDING, False, trial.cosines),
        ("CSLS", False, score),
        ("CSLS", True, with_offset(trial, score, offset)),
        ("sage", False, sage),
        ("sage", True, with_offset(trial, sage, sage_offset)),
    ):
        for metric, values in per_query(trial, scores).items():
            if metric != "median rank":
                assert mean(table, name, metric, matched=matched) == pytest.approx(values.mean())


def test_nothing_is_tuned_on_what_is_judged(found):
    """With the judged studies' labels turned upside down, the same parameters and offsets are chosen."""
    judged_rows = COLLECTION.of_split(Split.TEST)
    labels, normal = COLLECTION.labels.copy(), COLLECTION.normal.copy()
    labels[judged_rows], normal[judged_rows] = labels[judged_rows[::-1]], normal[judged_rows[::-1]]
    seeds = [seed_of(), seed_of(blocks=of_split(replace(COLLECTION, labels=labels, normal=normal), Split.TEST))]
    tuned = []
    for seed in seeds:
        scorer = Scorer(candidates=20)
        scores = scorer.scores(seed, THERE, plain=True)
        tuned.append((scorer.plain_tuned(seed.blocks[0].tuning, THERE), scores))
    assert tuned[0][0] == tuned[1][0]
    for key, scores in tuned[0][1].items():
        np.testing.assert_array_equal(scores, tuned[1][1][key])


def test_screening_is_of_both_modalities_by_the_vote_of_reports(found):
    assert list(found.report.screening) == ["image"]
    assert [one.method for one in found.report.screening["image"]] == [
        "majority class",
        "vote of the top 10",
        "vote of the top 10, sage",
        "classifier",
    ]
    assert list(judged(seed_of({}), directions=[(Modality.REPORT, Modality.REPORT)]).report.screening) == ["report"]
    assert found.reliability["image"].counts.sum() == np.count_nonzero(BLOCKS[0].judged.trial(*THERE).query_normal)


def test_leak_tests_are_in_the_report(found):
    assert list(found.report.leaks.values()) == [True] * 3


def test_details_are_those_of_the_reranker_that_is_served(found):
    there, _, images = found.details
    labels = COLLECTION.labels[COLLECTION.of_split(Split.TEST)]
    trial = BLOCKS[0].judged.trial(*THERE)
    assert (there.method, there.direction, there.groups) == ("sage", "image→report", ("normal", *NAMES))
    np.testing.assert_array_equal(there.counts, labels.sum(axis=0))
    plain = per_query(trial, trial.cosines)["Strong MRR"]
    np.testing.assert_allclose(there.before, [plain[labels[:, group]].mean() for group in range(5)])
    assert not np.allclose(there.before, there.after)
    assert list(there.ranks) == ["first strong match", "query's own study"]
    np.testing.assert_allclose(1 / there.ranks["first strong match"][0][plain > 0], plain[plain > 0])
    assert list(images.ranks) == ["first strong match"]
    assert judged(seed_of({}), default="off").details[0].method == "αQE + DBA"
    assert judged(default="off").details[0].method == "gcn"


def test_notes_tell_what_was_chosen_and_what_the_controls_are(found):
    notes = found.report.notes
    assert notes[0] == "a note"
    assert "sage_shuffled" not in explained(["sage"])
    assert any("<kind>_shuffled: its edges shuffled" in note for note in notes)
    assert sum(note.startswith("Chosen on validation") for note in notes) == 3


def test_seeds_of_one_encoder_share_its_rows_and_average_their_rerankers():
    one, other = {"sage": NeighbourReranker(0.3)}, {"sage": NeighbourReranker(-0.2), "gcn": NeighbourReranker(0.1)}
    table = judged(seed_of(one), seed_of(other)).report.tables[0]
    rows = rows_of(table)
    assert (rows[EMBEDDING, False].seeds, rows["CSLS", True].seeds) == (1, 1)
    assert (rows["sage", False].seeds, rows["sage", True].seeds, rows["gcn", False].seeds) == (2, 2, 1)
    apart = [mean(judged(seed_of(each)).report.tables[0], "sage") for each in (one, other)]
    spread = rows["sage", False].metrics[Scope.ALL]["Jaccard@10"]
    assert (spread.mean, spread.low, spread.high) == pytest.approx((np.mean(apart), min(apart), max(apart)))


def test_seeds_of_several_encoders_are_each_judged_in_their_own_space():
    seeds = [seed_of(encoder="a"), seed_of(encoder="b", blocks=OTHER)]
    table = judged(*seeds).report.tables[0]
    for name in (EMBEDDING, "αQE", "sage"):
        apart = [mean(judged(seed).report.tables[0], name) for seed in seeds]
        assert rows_of(table)[name, False].seeds == 2
        assert mean(table, name) == pytest.approx(np.mean(apart))


def test_a_baseline_is_a_row_matched_to_the_same_share_and_compared_with():
    baseline = Baseline(name="CLIP loss alone", blocks=[OTHER])
    table = judged(seed_of({"sage": NeighbourReranker(0.3)}), baselines=[baseline]).report.tables[0]
    row = rows_of(table)["CLIP loss alone", False]
    trial = OTHER[0].judged.trial(*THERE)
    assert row.family is Family.EMBEDDING
    assert row.metrics[Scope.ALL]["MRR"].mean == pytest.approx(per_query(trial, trial.cosines)["MRR"].mean())
    pairs = [(one.method, one.against, one.matched) for one in table.comparisons]
    assert pairs == [
        (EMBEDDING, "CLIP loss alone", False),
        ("sage", "CLIP loss alone", False),
        ("sage", "CLIP loss alone", True),
    ]
    share = mean(table, EMBEDDING, "normals@10")
    plain, matched = (mean(table, "CLIP loss alone", "normals@10", matched=one) for one in (False, True))
    assert abs(matched - share) <= abs(plain - share) + 0.05


def test_untuned_methods_keep_their_first_parameters_and_nothing_is_matched():
    blocks = of_split(made_collection(120), Split.TEST)
    assert blocks[0].tuning is None
    table = judged(seed_of(blocks=blocks)).report.tables[0]
    assert not any(row.matched for row in table.rows)
    assert {EMBEDDING, *METHODS, *RERANKERS} <= {row.method for row in table.rows}
    trial, banks = blocks[0].judged.trial(*THERE), blocks[0].judged.banks(*THERE)
    first = METHODS["NNN"].score(trial, banks, **METHODS["NNN"].grid[0])
    assert mean(table, "NNN") == pytest.approx(per_query(trial, first)["Jaccard@10"].mean())


def test_halves_of_a_target_are_pooled():
    blocks = transferred(made_collection(80, prefix="T", seed=5), COLLECTION, None)[Archive.BOTH]
    seed = seed_of({"sage": NeighbourReranker(0.3)}, blocks=blocks)
    table = judged(seed).report.tables[0]
    assert (table.queries[Scope.ALL], table.gallery) == (80, 80)
    apart = [judged(replace(seed, blocks=(block,))).report.tables[0] for block in blocks]
    for name in (EMBEDDING, "DBA", "sage"):
        for matched in (False, True)[: 1 + (name != EMBEDDING)]:
            halves = [mean(one, name, matched=matched) * one.queries[Scope.ALL] for one in apart]
            assert mean(table, name, matched=matched) == pytest.approx(sum(halves) / 80)


def test_what_was_tuned_is_not_tuned_again():
    scorer, counted = Scorer(candidates=20), []
    for _ in range(2):
        before = scorer.work([(seed_of(), True)], THERE)
        steps = []
        scorer.scores(seed_of(), THERE, plain=True, step=lambda steps=steps: steps.append(1))
        assert len(steps) == before
        counted.append(before)
    tuning = len(BLOCKS[0].tuning.entries[Modality.IMAGE])
    assert counted[0] - counted[1] == len(METHODS) + tuning


def test_bars_run_to_their_end():
    bars = []

    @contextmanager
    def task(label, total):
        bars.append([label, total, 0])

        def advance():
            bars[-1][2] += 1

        yield advance

    seeds = [seed_of(), seed_of({"sage": NeighbourReranker(0.2)})]
    evaluate(seeds, Scorer(candidates=20), title="", task=task, draws=20, directions=[THERE, BACK])
    assert [label for label, *_ in bars] == ["image→report", "bootstrap", "report→image", "bootstrap", "leak tests"]
    assert all(total == done for _, total, done in bars)


def test_a_reranker_may_not_be_called_as_another_row():
    with pytest.raises(InvalidQuery, match="CSLS"):
        judged(seed_of({"CSLS": NeighbourReranker()}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sage", Family.RERANKER),
        ("mlp", Family.CONTROL),
        ("mlp_bare", Family.CONTROL),
        ("mlp_mixer", Family.RERANKER),
        ("gat_shuffled", Family.CONTROL),
        ("gcn_alone", Family.CONTROL),
        ("alone", Family.RERANKER),
    ],
)
def test_controls_are_known_by_name(name, kind):
    assert family(name) is kind
