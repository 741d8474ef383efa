from __future__ import annotations

import numpy as np
import pytest

from helpers.trials import made_trial
from radrank.core.errors import Mismatch, NotFound
from radrank.evaluation.bootstrap import paired_changes
from radrank.evaluation.judge import Judged, judge
from radrank.evaluation.matching import find_offset, with_offset
from radrank.evaluation.metrics import METRICS, per_query, scoped
from radrank.evaluation.results import Family, Scope
from radrank.evaluation.training_free import random

TRIAL = made_trial(studies=90)
WANTED = float(per_query(TRIAL, TRIAL.cosines)["normals@10"].mean())


def noisy(seed, noise):
    return TRIAL.cosines + noise * np.random.default_rng(seed).normal(size=TRIAL.valid.shape)


def knowing(seed):
    """A re-ranker that has seen the answers, a little."""
    return noisy(seed, 0.2) + 0.3 * TRIAL.jaccard


def matched(scores):
    return with_offset(TRIAL, scores, find_offset(TRIAL, scores, WANTED))


EMBEDDING = Judged(name="embedding", family=Family.EMBEDDING, matched=False, scores=(TRIAL.cosines,))
ROWS = (
    Judged(name="random", family=Family.FLOOR, matched=False, scores=(random(TRIAL),)),
    EMBEDDING,
    Judged(name="MLP", family=Family.CONTROL, matched=False, scores=tuple(noisy(s, 0.2) for s in range(3))),
    Judged(name="SAGE", family=Family.RERANKER, matched=False, scores=tuple(knowing(s) for s in range(3))),
    Judged(name="MLP", family=Family.CONTROL, matched=True, scores=tuple(matched(noisy(s, 0.2)) for s in range(3))),
    Judged(name="SAGE", family=Family.RERANKER, matched=True, scores=tuple(matched(knowing(s)) for s in range(3))),
)


@pytest.fixture(scope="module")
def table():
    return judge(TRIAL, ROWS, reference="embedding", comparisons=[("SAGE", "MLP"), ("MLP", "random")])


def test_a_table_says_what_was_judged(table):
    status = TRIAL.query_normal
    assert (table.direction, table.gallery, table.reference) == ("image→report", 90, "embedding")
    assert table.queries == {
        Scope.ALL: 90,
        Scope.ABNORMAL: (status == -1).sum(),
        Scope.MACRO: (status != 0).sum(),
    }


def test_rows_come_as_given_with_every_metric_in_every_scope(table):
    assert [(row.method, row.family, row.matched, row.seeds) for row in table.rows] == [
        (one.name, one.family, one.matched, len(one.scores)) for one in ROWS
    ]
    for row in table.rows:
        assert list(row.metrics) == list(row.changes) == list(Scope)
        for scope in Scope:
            assert tuple(row.metrics[scope]) == tuple(row.changes[scope]) == METRICS


def test_a_spread_is_over_seeds(table):
    row = table.rows[3]
    seeds = [scoped(per_query(TRIAL, scores), TRIAL.query_normal) for scores in ROWS[3].scores]
    for scope in Scope:
        for name in METRICS:
            values = [seed[scope][name] for seed in seeds]
            spread = row.metrics[scope][name]
            assert (spread.mean, spread.low, spread.high) == pytest.approx((np.mean(values), min(values), max(values)))
    one_seed = table.rows[1].metrics[Scope.ALL]["MRR"]
    assert one_seed.low == one_seed.mean == one_seed.high


def test_changes_are_of_each_querys_mean_over_seeds_against_the_reference(table):
    seeds = [per_query(TRIAL, scores) for scores in ROWS[3].scores]
    averaged = {name: np.mean([seed[name] for seed in seeds], axis=0) for name in METRICS}
    assert table.rows[3].changes == paired_changes(averaged, per_query(TRIAL, TRIAL.cosines), TRIAL.query_normal)


def test_the_reference_does_not_differ_from_itself(table):
    assert {(c.relative, c.low, c.high) for by in table.rows[1].changes.values() for c in by.values()} == {(0, 0, 0)}


def test_what_is_better_is_found_better_and_what_is_random_worse(table):
    for scope in Scope:
        assert table.rows[0].changes[scope]["Jaccard@10"].high < 0.0 < table.rows[3].changes[scope]["Jaccard@10"].low
        assert table.rows[5].changes[scope]["Jaccard@10"].low > 0.0
        assert table.rows[0].changes[scope]["median rank"].low > 0.0  # of a rank, less is better


def test_matched_rows_have_the_share_of_the_embedding(table):
    shares = [row.metrics[Scope.ALL]["normals@10"].mean for row in table.rows]
    assert shares[4:] == pytest.approx([WANTED] * 2, abs=0.01)
    assert abs(shares[3] - WANTED) > 0.02


def test_comparisons_are_between_rows_and_again_between_their_matched_twins(table):
    assert [(one.method, one.against, one.matched) for one in table.comparisons] == [
        ("SAGE", "MLP", False),
        ("SAGE", "MLP", True),
        ("MLP", "random", False),
    ]
    relative = table.comparisons[1].changes[Scope.ALL]["Jaccard@10"].relative
    sage, mlp = (table.rows[place].metrics[Scope.ALL]["Jaccard@10"].mean for place in (5, 4))
    assert relative == pytest.approx(sage / mlp - 1.0)


def test_the_same_seed_draws_the_same_table():
    few = [EMBEDDING, ROWS[2]]
    judged = [judge(TRIAL, few, reference="embedding", draws=50, seed=seed) for seed in (0, 0, 1)]
    assert judged[0] == judged[1] != judged[2]


def test_within_one_modality_the_pair_is_not_judged():
    trial = made_trial(same=True)
    plain = Judged(name="embedding", family=Family.EMBEDDING, matched=False, scores=(trial.cosines,))
    table = judge(trial, [plain], reference="embedding", draws=10)
    assert table.direction == "image→image"
    assert tuple(table.rows[0].metrics[Scope.MACRO]) == METRICS[5:]


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(NotFound, match="embedding"):
        judge(TRIAL, [EMBEDDING], reference="CLIP")
    with pytest.raises(NotFound, match="embedding"):
        judge(TRIAL, [EMBEDDING], reference="embedding", comparisons=[("SAGE", "embedding")])


def test_two_rows_of_one_name_are_not_one():
    with pytest.raises(Mismatch, match="embedding"):
        judge(TRIAL, [EMBEDDING, EMBEDDING], reference="embedding")
