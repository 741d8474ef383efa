"""Random graphs that check an export are as odd as real ones: otherwise an export is checked where nothing is hard."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.made_up import LAYOUT, SETTINGS
from radrank.core.graph import ARCHIVE_RELATIONS, CANDIDATE, DIRECTIONS, QUERY, RELATIONS
from radrank.core.studies import Modality
from radrank.export.golden import random_batch

WIDTH = LAYOUT.beliefs_width


def batch_of(seed=0, *, graphs=4, candidates=25):
    return random_batch(np.random.default_rng(seed), LAYOUT, SETTINGS, graphs=graphs, candidates=candidates)


def test_every_array_is_there_and_repeats_itself():
    one, again, other = batch_of(), batch_of(), batch_of(1)
    edges = {f"{r.name}.{part}" for r in RELATIONS for part in ("idx", "weight")}
    assert set(one.arrays) == {"direction", QUERY, CANDIDATE, *Modality, "base", "mask"} | edges
    for name, array in one.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert not np.array_equal(one.arrays["base"], other.arrays["base"])


@pytest.mark.parametrize("candidates", [3, 25, 100])
def test_it_has_as_many_candidates_as_asked_for_and_padding_beside_them(candidates):
    batch = batch_of(candidates=candidates)
    assert batch.candidates == (candidates,) * 4
    assert batch.arrays["mask"].sum(axis=1).tolist() == [candidates] * 4
    assert batch.arrays["mask"].shape[1] == {3: 10, 25: 40, 100: 100}[candidates]


def test_queries_ask_in_every_direction():
    assert sorted(batch_of().arrays["direction"].tolist()) == list(range(len(DIRECTIONS)))


def test_some_archive_studies_lack_a_report_and_some_are_unknown():
    facts = batch_of().arrays["image"]
    beliefs, pairs, findings = (facts[:, place * WIDTH : (place + 1) * WIDTH].any(axis=1) for place in range(3))
    assert beliefs.mean() > 0.8  # a few believe nothing
    for part in (pairs, findings):
        assert 0.3 < part.mean() < 1.0


def test_candidates_hear_from_both_modalities_and_from_one_another():
    batch = batch_of()
    for relation in ARCHIVE_RELATIONS:
        assert (batch.arrays[f"{relation.name}.idx"] >= 0).any()
        assert batch.arrays[f"{relation.name}.weight"].any()
    assert (batch.arrays["candidate_candidate.idx"] >= 0).sum() == 4 * 25 * SETTINGS.neighbours
