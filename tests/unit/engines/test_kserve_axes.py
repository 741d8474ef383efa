from __future__ import annotations

import numpy as np
import pytest

from radrank.core.errors import InvalidQuery
from radrank.core.graph import RELATIONS
from radrank.engines.kserve.axes import Axes, check_rows
from radrank.engines.kserve.tensors import Tensor

IDS = Tensor(name="ids", datatype="INT64", shape=(-1, -1))
MASK = Tensor(name="mask", datatype="FP32", shape=(-1, -1))
NODES = Tensor(name="nodes", datatype="FP32", shape=(-1, 3))
OUT = Tensor(name="out", datatype="FP32", shape=(-1, 5))
BUCKETS = [{"ids": (b, t), "mask": (b, t), "nodes": (b * t, 3)} for b in (1, 8) for t in (4, 16)]


def test_axes_that_are_equal_in_all_buckets_go_together():
    axes = Axes([IDS, MASK, NODES], [OUT], BUCKETS)
    axes.check({"ids": (2, 5), "mask": (2, 5), "nodes": (7, 3)})
    for mask in ((2, 6), (3, 5)):
        with pytest.raises(InvalidQuery, match=r"mask: has \d on axis \d, and must have as many as ids"):
            axes.check({"ids": (2, 5), "mask": mask, "nodes": (7, 3)})


def test_no_axis_is_longer_than_in_any_bucket():
    axes = Axes([IDS, MASK, NODES], [OUT], BUCKETS)
    axes.check({"ids": (8, 16), "mask": (8, 16), "nodes": (128, 3)})
    for shapes in ({"ids": (9, 4), "mask": (9, 4)}, {"ids": (8, 17), "mask": (8, 17)}):
        with pytest.raises(InvalidQuery, match=r"ids: .*at most"):
            axes.check(shapes | {"nodes": (1, 3)})
    with pytest.raises(InvalidQuery, match="nodes: has 129 on axis 0, and may have at most 128"):
        axes.check({"ids": (1, 1), "mask": (1, 1), "nodes": (129, 3)})


def test_requests_can_be_batched_where_all_first_axes_count_them():
    assert Axes([IDS, MASK], [OUT], BUCKETS).batch == 8
    assert Axes([IDS, MASK, NODES], [OUT], BUCKETS).batch == 0
    assert Axes([IDS], [Tensor(name="out", datatype="FP32", shape=(5,))], BUCKETS).batch == 0


def test_requests_are_counted_though_all_buckets_hold_as_many():
    axes = Axes([IDS, MASK], [OUT], [{"ids": (8, t), "mask": (8, t)} for t in (8, 16)])
    assert axes.batch == 8
    axes.check({"ids": (2, 5), "mask": (2, 5)})
    with pytest.raises(InvalidQuery, match="mask: has 3 on axis 0"):
        axes.check({"ids": (2, 5), "mask": (3, 5)})


def test_requests_are_not_taken_for_tokens_where_a_bucket_has_as_many_of_both():
    axes = Axes([IDS], [OUT], [{"ids": (4, 4)}])
    axes.check({"ids": (1, 4)})
    assert axes.batch == 4


@pytest.mark.parametrize(
    ("relation", "rows"),
    [(r.name, {"image": 5, "report": 6, "candidate": 3, "query": 1}[r.source]) for r in RELATIONS],
)
def test_an_edge_leads_to_a_node_or_nowhere(relation, rows):
    feed = {"candidate": np.zeros((2, 3, 4)), "image": np.zeros((5, 4)), "report": np.zeros((6, 4))}
    for good in (-1, rows - 1):
        check_rows(feed | {f"{relation}.idx": np.full((2, 3, 2), good)}, vocabulary=0)
    for bad in (-2, rows):
        with pytest.raises(InvalidQuery, match=f"{relation}.idx: must hold numbers from -1 to {rows - 1}"):
            check_rows(feed | {f"{relation}.idx": np.array([0, bad])}, vocabulary=0)


def test_token_ids_and_directions_have_their_range():
    check_rows({"ids": np.array([[0, 9]]), "direction": np.array([0, 3])}, vocabulary=10)
    for feed in ({"ids": np.array([[10]])}, {"ids": np.array([[-1]])}, {"direction": np.array([4])}):
        with pytest.raises(InvalidQuery, match=r"must hold numbers from 0"):
            check_rows(feed, vocabulary=10)
