"""Two blocks judged together are what they are apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.trials import made_trial
from radrank.core.errors import Mismatch
from radrank.evaluation.matching import with_offset
from radrank.evaluation.metrics import METRICS, per_query
from radrank.evaluation.pooling import pooled_scores, pooled_trial

BLOCKS = [made_trial(1, studies=30), made_trial(2, studies=25)]


def test_one_block_is_itself():
    assert pooled_trial(BLOCKS[:1]) is BLOCKS[0]


def test_entries_are_valid_for_the_queries_of_their_block():
    pooled = pooled_trial(BLOCKS)
    assert pooled.valid.shape == (55, 55)
    assert pooled.valid[:30, :30].all()
    assert pooled.valid[30:, 30:].all()
    assert not pooled.valid[:30, 30:].any()
    assert not pooled.valid[30:, :30].any()
    np.testing.assert_array_equal(pooled.query_normal, np.concatenate([b.query_normal for b in BLOCKS]))
    assert pooled.name == BLOCKS[0].name


@pytest.mark.parametrize("same", [False, True])
def test_every_metric_of_a_query_is_that_of_its_block(same):
    blocks = [made_trial(1, studies=30, same=same), made_trial(2, studies=25, same=same)]
    scores = [block.cosines + 0.1 * block.jaccard for block in blocks]
    scores[0][:, 7:] = -np.inf  # not ranked
    found = per_query(pooled_trial(blocks), pooled_scores(blocks, scores))
    for name in METRICS[5:] if same else METRICS:
        apart = [per_query(block, one)[name] for block, one in zip(blocks, scores, strict=True)]
        np.testing.assert_allclose(found[name], np.concatenate(apart))


def test_matched_scores_too():
    scores = [with_offset(block, block.cosines, 1.5) for block in BLOCKS]
    found = per_query(pooled_trial(BLOCKS), pooled_scores(BLOCKS, scores))["normals@10"]
    apart = [per_query(block, one)["normals@10"] for block, one in zip(BLOCKS, scores, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(apart))


def test_what_was_not_ranked_is_placed_by_the_blocks_own_cosines():
    """So scores of another encoder can be judged in this trial."""
    unranked = np.full(BLOCKS[0].valid.shape, -np.inf)
    other = replace(BLOCKS[0], queries=BLOCKS[0].queries[::-1])
    scores = pooled_scores([other], [unranked])
    np.testing.assert_array_equal(scores.argsort(axis=1), other.cosines.argsort(axis=1))
    assert np.isfinite(scores).all()


def test_scores_must_be_those_of_the_blocks():
    with pytest.raises(Mismatch, match="scores of a block"):
        pooled_scores(BLOCKS, [BLOCKS[0].cosines, BLOCKS[0].cosines])
