from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.trials import made_banks, made_trial, only
from radrank.core.vectors import unit
from radrank.evaluation.metrics import order, per_query
from radrank.evaluation.training_free import (
    FLOORS,
    METHODS,
    Method,
    alpha_qe,
    alpha_qe_dba,
    csls,
    dba,
    macro_jaccard,
    nnn,
    normals_first,
    qb_norm,
    random,
    sinkhorn,
    tune,
)

BANKS = made_banks()
BOTH = pytest.mark.parametrize("same", [False, True], ids=["across", "within"])


def cos(left, right):
    return float(np.asarray(left, np.float64) @ np.asarray(right, np.float64))


def best(vector, others, k):
    """The k of others nearest to a vector, nearest first."""
    return sorted(others, key=lambda other: -cos(vector, other))[:k]


def entries(trial, query):
    """What a query may find: (entry's number, its vector)."""
    return [(number, vector) for number, vector in enumerate(trial.gallery) if trial.valid[query, number]]


def assert_scores(found, trial, expected):
    """found [q, n] is expected(query's number, query, entry's number, entry) wherever the entry is valid."""
    assert found.dtype == np.float64
    for number, query in enumerate(trial.queries):
        for place, entry in entries(trial, number):
            assert found[number, place] == pytest.approx(expected(number, query, place, entry), abs=2e-6)


@pytest.fixture
def trial(same):
    return made_trial(studies=9, same=same)


@BOTH
def test_csls_takes_off_how_near_each_is_to_its_own_nearest(trial):
    def expected(number, query, _, entry):
        around_query = [cos(query, other) for other in best(query, [one for _, one in entries(trial, number)], 4)]
        around_entry = [cos(entry, other) for other in best(entry, BANKS.queries, 4)]
        return 2 * cos(query, entry) - sum(around_query) / 4 - sum(around_entry) / 4

    assert_scores(csls(trial, BANKS, k=4), trial, expected)


@BOTH
def test_nnn_takes_off_a_part_of_how_near_the_bank_is(trial):
    def expected(_number, query, _place, entry):
        return cos(query, entry) - 0.75 * sum(cos(entry, other) for other in best(entry, BANKS.queries, 5)) / 5

    assert_scores(nnn(trial, BANKS, k=5, alpha=0.75), trial, expected)


def test_a_bank_smaller_than_k_is_taken_whole():
    trial = made_trial(studies=9)
    np.testing.assert_allclose(nnn(trial, BANKS, k=60), nnn(trial, BANKS, k=600))


@BOTH
@pytest.mark.parametrize("banked", [2, 60])
def test_qb_norm_orders_as_the_inverted_softmax_where_the_nearest_entry_is_a_hub(trial, banked):
    banks = replace(BANKS, queries=BANKS.queries[:banked])
    hubs = {int(np.argmax([cos(probe, entry) for entry in trial.gallery])) for probe in banks.queries}
    found, beta = qb_norm(trial, banks, beta=7.0), 7.0
    touched = []
    for number, query in enumerate(trial.queries):
        places = [place for place, _ in entries(trial, number)]
        cosines = {place: cos(query, trial.gallery[place]) for place in places}
        touched.append(max(places, key=cosines.get) in hubs)
        for place in places:
            over = sum(np.exp(beta * cos(probe, trial.gallery[place])) for probe in banks.queries)
            softmax = np.exp(beta * cosines[place]) / over
            expected = softmax if touched[-1] else np.exp(beta * cosines[place])
            assert np.exp(beta * found[number, place]) == pytest.approx(expected, rel=1e-4)
    assert any(touched)
    assert banked > 2 or not all(touched)


@BOTH
def test_sinkhorn_gives_every_entry_the_same_share_of_the_bank(trial):
    found = sinkhorn(trial, BANKS, temperature=0.2, rounds=200)
    scaling = np.exp((found[0] - trial.cosines[0]) / 0.2)
    plan = np.exp(BANKS.queries @ trial.gallery.T / 0.2) * scaling
    plan /= plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(plan.mean(axis=0), np.full(9, 1 / 9), rtol=1e-4)
    np.testing.assert_allclose(found - trial.cosines, np.tile(found[0] - trial.cosines[0], (9, 1)), atol=1e-6)


def test_one_round_of_sinkhorn_by_hand():
    trial = made_trial(studies=3)
    banks = replace(BANKS, queries=BANKS.queries[:2])
    found = sinkhorn(trial, banks, temperature=0.5, rounds=1)
    kernel = [[np.exp(cos(probe, entry) / 0.5) for entry in trial.gallery] for probe in banks.queries]
    rows = [1 / (2 * sum(row)) for row in kernel]
    scaling = [1 / (3 * sum(rows[b] * kernel[b][g] for b in range(2))) for g in range(3)]
    assert_scores(found, trial, lambda _n, query, place, entry: cos(query, entry) + 0.5 * np.log(scaling[place]))


def expanded(vector, others, k, alpha):
    """v + Σ max(cos, 0)^α · x over the k nearest, as a unit vector."""
    total = np.asarray(vector, np.float64).copy()
    for other in best(vector, others, k):
        total += max(cos(vector, other), 0.0) ** alpha * other
    return total / np.linalg.norm(total)


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_alpha_qe_adds_the_nearest_of_gallery_and_archive(trial, alpha):
    def expected(number, query, _place, entry):
        database = [one for _, one in entries(trial, number)] + list(BANKS.gallery)
        return cos(expanded(query, database, 6, alpha), entry)

    assert_scores(alpha_qe(trial, BANKS, k=6, alpha=alpha), trial, expected)


def augmented(database, k, alpha):
    numbered = range(len(database))
    return [
        expanded(database[own], [database[other] for other in numbered if other != own], k, alpha) for own in numbered
    ]


@BOTH
def test_dba_does_to_entries_what_alpha_qe_does_to_queries(trial):
    database = augmented([*trial.gallery, *BANKS.gallery], 6, 3.0)
    found = dba(trial, BANKS, k=6, alpha=3.0)
    assert_scores(found, trial, lambda _n, query, place, _e: cos(query, database[place]))


@BOTH
def test_alpha_qe_and_dba_expand_in_the_augmented_database(trial):
    database = np.array(augmented([*trial.gallery, *BANKS.gallery], 6, 3.0))

    def expected(number, query, place, _entry):
        mine = [place for place, _ in entries(trial, number)] + list(range(9, len(database)))
        return cos(expanded(query, database[mine], 6, 3.0), database[place])

    assert_scores(alpha_qe_dba(trial, BANKS, k=6, alpha=3.0), trial, expected)


def test_an_entry_is_not_its_own_neighbour_even_among_twins():
    trial = made_trial(studies=6)
    twins = replace(BANKS, gallery=np.repeat(trial.gallery[:1], 4, axis=0))
    found = dba(trial, twins, k=2, alpha=1.0)
    np.testing.assert_allclose(found[:, 0], trial.cosines[:, 0], atol=1e-6)


def test_archive_vectors_pull_only_as_far_as_they_are_near():
    trial = only(made_trial(studies=3), [0])
    away = replace(BANKS, gallery=-trial.queries)
    np.testing.assert_allclose(alpha_qe(trial, away, k=4), alpha_qe(trial, replace(BANKS, gallery=away.gallery[:0])))


@BOTH
@pytest.mark.parametrize("name", METHODS)
def test_no_query_tells_another_anything(name, same):
    trial = made_trial(studies=30, same=same)
    method = METHODS[name]
    for parameters in (method.grid[0], method.grid[-1]):
        together = method.score(trial, BANKS, **parameters)
        assert together.shape == trial.valid.shape
        for query in range(0, 30, 7):
            alone = method.score(only(trial, [query]), BANKS, **parameters)[0]
            np.testing.assert_allclose(alone, together[query], atol=1e-5)


@BOTH
@pytest.mark.parametrize("name", METHODS)
def test_no_method_looks_at_what_is_relevant(name, same):
    trial = made_trial(studies=20, same=same)
    blind = replace(
        trial,
        **{part: np.zeros_like(getattr(trial, part)) for part in ("pair", "strong", "weak", "jaccard")},
        query_normal=-trial.query_normal,
        gallery_normal=-trial.gallery_normal,
    )
    score = METHODS[name].score
    np.testing.assert_array_equal(score(trial, BANKS), score(blind, BANKS))


@BOTH
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ranks_differently_from_the_embedding_and_not_at_random(name, same):
    trial = made_trial(studies=120, same=same, noise=0.5)
    found = METHODS[name].score(trial, BANKS)
    assert (order(trial, found) != order(trial, trial.cosines)).any()
    assert macro_jaccard(trial, found) > 1.2 * macro_jaccard(trial, random(trial))


def test_all_normal_entries_come_first_each_half_by_cosine():
    trial = made_trial()
    for query, ranked in enumerate(order(trial, normals_first(trial))):
        normal = trial.gallery_normal[ranked] == 1
        assert normal.tolist() == sorted(normal, reverse=True)
        for half in (ranked[normal], ranked[~normal]):
            assert (np.diff(trial.cosines[query, half]) <= 0).all()


def test_random_scores_are_those_of_their_seed():
    trial = made_trial()
    assert np.array_equal(random(trial, seed=1), random(trial, seed=1))
    assert not np.array_equal(random(trial, seed=1), random(trial, seed=2))


def test_the_floors_of_the_tables():
    assert {name: floor(made_trial()).shape for name, floor in FLOORS.items()} == {
        "random": (40, 40),
        "normals first": (40, 40),
    }


def test_tuning_takes_the_grid_point_with_the_best_macro_jaccard():
    trial = made_trial(noise=2.0)
    for name in ("αQE", "NNN"):
        method = METHODS[name]
        means = []
        for parameters in method.grid:
            overlap = per_query(trial, method.score(trial, BANKS, **parameters))["Jaccard@10"]
            means.append(overlap[trial.query_normal == 1].mean() + overlap[trial.query_normal == -1].mean())
        assert max(means) > min(means)
        assert tune(method, trial, BANKS) == method.grid[int(np.argmax(means))]


def test_tuning_can_ask_for_something_else_and_takes_the_first_of_equals():
    method = Method(score=lambda trial, _banks, *, shift: trial.cosines + shift, grid=({"shift": 1}, {"shift": 2}))
    trial = made_trial()
    assert tune(method, trial, BANKS, lambda _, scores: float(scores.mean())) == {"shift": 2}
    assert tune(method, trial, BANKS) == {"shift": 1}


def test_banks_are_unit_vectors():
    np.testing.assert_allclose(unit(BANKS.queries), BANKS.queries, atol=1e-6)
