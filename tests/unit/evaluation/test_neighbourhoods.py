"""Both methods against their papers, one query and one pair of sets at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.trials import made_banks, made_trial, only
from radrank.core.studies import Modality
from radrank.core.vectors import unit
from radrank.evaluation.neighbourhoods import gnn, k_reciprocal

BANKS = made_banks()
CASES = pytest.mark.parametrize(
    ("seed", "same"), [(0, False), (1, False), (0, True), (1, True)], ids=["across", "across", "within", "within"]
)


def nearest(vector, vectors, k, without=()):
    """Numbers of the k vectors nearest to a vector."""
    cosines = np.asarray(vectors, np.float64) @ np.asarray(vector, np.float64)
    allowed = [number for number in range(len(vectors)) if number not in without]
    return set(sorted(allowed, key=lambda number: -cosines[number])[:k])


class Written:
    """A trial's gallery and one query of it, as sets."""

    def __init__(self, trial, banks, query):
        self.trial, self.banks, self.query = trial, banks, query
        self.own = {int(number) for number in np.flatnonzero(~trial.valid[query])}
        self.everyone = range(len(trial.gallery))

    def of_entry(self, entry, k):
        """N(g, k): an entry and the k others nearest to it."""
        return {entry} | nearest(self.trial.gallery[entry], self.trial.gallery, k, {entry})

    def of_query(self, k):
        """N(q, k): the k entries nearest to the query."""
        return nearest(self.trial.queries[self.query], self.trial.gallery, k, self.own)

    def reaches(self, entry, k):
        """Whether the query would be among N(g, k), had it a place beside the gallery (or the bank of queries)."""
        query, vector = self.trial.queries[self.query], self.trial.gallery[entry]
        if self.trial.source == self.trial.target:
            others = np.delete(self.trial.gallery, sorted({entry} | self.own), axis=0)
        else:
            others, k = self.banks.queries, round(k * len(self.banks.queries) / len(self.trial.gallery))
        return len(others) in nearest(vector, [*others, query], k)


def written_k_reciprocal(trial, banks, query, *, k1, k2, weight):
    graph = Written(trial, banks, query)

    def mutual(entry, k):
        """R(g, k): those of N(g, k) that have g among theirs."""
        return {other for other in graph.of_entry(entry, k) if entry in graph.of_entry(other, k)}

    def enlarged(members):
        """R*: takes in R(m, k1/2) of each member m where two thirds of it are members."""
        larger = set(members)
        for member in members:
            half = mutual(member, k1 // 2)
            if len(members & half) >= 2 / 3 * len(half):
                larger |= half
        return larger

    def distances(vector, without=()):
        squared = {g: 2 - 2 * float(vector @ trial.gallery[g]) for g in graph.everyone if g not in without}
        return {g: value / max(squared.values()) for g, value in squared.items()}

    def encoded(members, distance):
        weights = np.array([np.exp(-distance[g]) if g in members else 0.0 for g in graph.everyone])
        return weights / weights.sum() if weights.any() else weights

    encodings = [encoded(enlarged(mutual(g, k1)), distances(trial.gallery[g])) for g in graph.everyone]
    to_query = distances(trial.queries[query], graph.own)
    mine = {entry for entry in graph.of_query(k1) if graph.reaches(entry, k1)}
    own = encoded(enlarged(mine) - graph.own, to_query)
    own = np.mean([own, *(encodings[g] for g in graph.of_query(k2 - 1))], axis=0)
    spread = [np.mean([encodings[near] for near in graph.of_entry(g, k2 - 1)], axis=0) for g in graph.everyone]
    scores = {}
    for entry in set(graph.everyone) - graph.own:
        overlap = np.minimum(own, spread[entry]).sum() / np.maximum(own, spread[entry]).sum()
        scores[entry] = -((1 - weight) * (1 - overlap) + weight * to_query[entry])
    return scores


def written_gnn(trial, banks, query, *, k1, k2, alpha, layers):
    graph = Written(trial, banks, query)
    features = [
        np.array([((h in graph.of_entry(g, k1)) + (g in graph.of_entry(h, k1))) / 2 for h in graph.everyone])
        for g in graph.everyone
    ]
    own = np.array(
        [0.0 if g in graph.own else ((g in graph.of_query(k1)) + graph.reaches(g, k1)) / 2 for g in graph.everyone]
    )

    def edge(left, right):
        return max(float(left @ right), 0.0) ** alpha

    for _ in range(layers):
        pulled = [
            features[g]
            + sum(edge(trial.gallery[g], trial.gallery[h]) * features[h] for h in graph.of_entry(g, k2) - {g})
            for g in graph.everyone
        ]
        own = own + sum(edge(trial.queries[query], trial.gallery[g]) * features[g] for g in graph.of_query(k2))
        own = own / np.linalg.norm(own)
        features = [row / np.linalg.norm(row) for row in pulled]
    return {g: float(own @ features[g]) for g in set(graph.everyone) - graph.own}


@CASES
@pytest.mark.parametrize("parameters", [{"k1": 6, "k2": 3, "weight": 0.3}, {"k1": 3, "k2": 1, "weight": 0.0}])
def test_k_reciprocal_is_the_distance_of_encoded_sets(seed, same, parameters):
    trial = made_trial(seed, studies=16, same=same)
    found = k_reciprocal(trial, BANKS, **parameters)
    for query in range(16):
        for entry, expected in written_k_reciprocal(trial, BANKS, query, **parameters).items():
            assert found[query, entry] == pytest.approx(expected, abs=1e-5)


@CASES
@pytest.mark.parametrize(
    "parameters", [{"k1": 4, "k2": 3, "alpha": 2.0, "layers": 2}, {"k1": 2, "k2": 1, "alpha": 1.0, "layers": 1}]
)
def test_gnn_compares_rows_of_the_graph_after_each_took_on_its_neighbours(seed, same, parameters):
    trial = made_trial(seed, studies=16, same=same)
    found = gnn(trial, BANKS, **parameters)
    for query in range(16):
        for entry, expected in written_gnn(trial, BANKS, query, **parameters).items():
            assert found[query, entry] == pytest.approx(expected if expected > 0 else -np.inf, abs=1e-5)


def circle(*degrees):
    return unit(np.array([[np.cos(np.radians(one)), np.sin(np.radians(one))] for one in degrees]))


def on_a_circle(query, *gallery):
    """One image among images, by their angles."""
    trial = only(made_trial(studies=len(gallery)), [0])
    return replace(trial, source=Modality.IMAGE, target=Modality.IMAGE, queries=circle(query), gallery=circle(*gallery))


def test_a_neighbour_that_has_nearer_ones_falls_behind_one_that_has_not():
    # The query's nearest, at 0°, has a cluster of its own; the one at 24.5° has nothing nearer than the query.
    trial = on_a_circle(12, 0, -1, -2, -3, 24.5, 90, 91, 92)
    assert trial.cosines.argmax() == 0
    assert k_reciprocal(trial, BANKS, k1=2, k2=1, weight=0.1).argmax() == 4


def test_entries_that_share_no_neighbour_with_the_query_are_not_ranked():
    trial = on_a_circle(13, 0, -1, -2, 1, 90, 91, 92, 93)
    assert np.isfinite(gnn(trial, BANKS, k1=2, k2=1))[0].tolist() == [True] * 4 + [False] * 4


def test_across_a_gap_between_modalities_queries_still_have_reciprocal_neighbours():
    # Entries are nearer to each other than to any query, so a query would never be among their nearest entries.
    trial = made_trial(0, studies=30)
    aside = np.zeros(16)
    aside[15] = 4.0
    apart = replace(trial, queries=unit(trial.queries - aside), gallery=unit(trial.gallery + aside))
    banks = replace(BANKS, queries=unit(BANKS.queries - aside))
    assert apart.cosines.max() < (apart.gallery @ apart.gallery.T).min()
    found = k_reciprocal(apart, banks, k1=6, k2=1, weight=0.0)
    assert (found.max(axis=1) > -1.0).mean() > 0.8
