"""A data set on which the archive knows what the embedding does not: clusters of one label lie far apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.doubles import joined
from helpers.made_up import GROUPS, LAYOUT, SETTINGS, feature_set, tiny_reranker
from radrank.core.graph import DIRECTIONS
from radrank.core.relevance import ndcg
from radrank.core.studies import Modality, Split
from radrank.training import listwise
from radrank.training.episodes import Episodes, episodes, make_world
from radrank.training.features import FeatureSet
from radrank.training.heads import Epoch
from radrank.training.listwise import (
    RerankerSettings,
    _class_weights,
    _ideal,
    _normals_moved,
    _Tensors,
    evaluate,
    normals_offset,
    train_reranker,
)
from radrank.training.reranker import GraphReranker, RerankerShape

QUICK = RerankerSettings(
    candidates=60,
    width=16,
    layers=2,
    dropout=0.1,
    epochs=5,
    patience=5,
    batch_size=16,
    learning_rate=2e-3,
)
SHORT = replace(QUICK, epochs=1, sample=48)
PRIOR = np.full(1 + len(GROUPS), 0.25, dtype=np.float32)
UNTRAINED = GraphReranker(RerankerShape(name="sage", groups=len(GROUPS), width=16))
Judged = tuple[list[Episodes], Episodes]


def clustered(studies: int = 180) -> tuple[FeatureSet, dict[Modality, np.ndarray]]:
    """Sixteen clusters, four of each label. A study's items lie about its cluster's centre, nothing in a cosine tells
    which clusters share their label, and what is believed of it tells little; the labels of the archive do."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 16, studies)
    labels = np.eye(1 + len(GROUPS), dtype=np.bool_)[cluster % 4]
    made = replace(feature_set(studies), labels=labels, normal=np.where(labels[:, 0], 1, -1).astype(np.int8))
    centres = 2.0 * rng.normal(size=(16, LAYOUT.projection))
    vectors = {}
    for m in Modality:
        owners = made.study[m]
        noise = rng.normal(size=(len(owners), LAYOUT.projection))
        beliefs = np.clip(0.2 + 0.4 * labels[owners] + 0.25 * rng.normal(size=(len(owners), 4)), 0.02, 0.98)
        vectors[m] = joined(centres[cluster[owners]] + noise, beliefs, m, LAYOUT)
    return made, vectors


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Two worlds to train on, of one half of the training studies each, and one of validation."""
    features, vectors = clustered()
    train, validation, test = (features.of_split(split) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST))
    made = [
        episodes(
            make_world(features, vectors, gallery=gallery, archive=test, layout=LAYOUT, settings=SETTINGS),
            candidates=60,
        )
        for gallery in (train[::2], train[1::2], validation)
    ]
    return made[:2], made[2]


def train(
    judged: Judged, settings: RerankerSettings = QUICK, name: str = "sage"
) -> tuple[GraphReranker, int, dict[str, float], list[Epoch]]:
    log: list[Epoch] = []
    found = train_reranker(name, settings, prior=PRIOR, train=judged[0], validation=judged[1], on_epoch=log.append)
    return (*found, log)


@pytest.fixture(scope="module")
def learnt(judged):
    return train(judged)


def normals_in_front(model: GraphReranker, found: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Share of normal studies among the first ten, by direction: as the model ranks, and as the encoder does."""
    base = np.where(found.batch.arrays["mask"] > 0, found.batch.arrays["base"], -np.inf)
    with torch.inference_mode():
        scores = model.eval()(_Tensors(found, model).arrays(torch.arange(len(found)))).numpy()
    shares = []
    for ranked in (np.where(np.isfinite(base), scores, -np.inf), base):
        first = np.argsort(-ranked, axis=1, kind="stable")[:, :10]
        share = np.take_along_axis(found.shown, first, axis=1).mean(axis=1)
        shares.append(np.array([share[found.direction == place].mean() for place in range(len(DIRECTIONS))]))
    return shares[0], shares[1]


def test_it_learns_what_archive_neighbours_tell(judged, learnt):
    model, best, metrics, log = learnt
    before = evaluate(GraphReranker(model.shape), judged[1])
    assert log[0].epoch == 0
    assert np.isnan(log[0].loss)
    assert log[0].score == before["score"]
    assert log[best].best
    assert metrics["score"] == log[best].score == max(epoch.score for epoch in log)
    assert metrics["score"] > before["score"] + 0.03
    assert log[-1].loss < log[1].loss
    assert evaluate(model, judged[1]) == metrics
    assert not model.training
    assert torch.equal(model.prior, torch.from_numpy(PRIOR))


def test_without_the_archive_it_learns_less(judged, learnt):
    _, _, metrics, _ = train(judged, name="mlp_bare")
    assert metrics["score"] < learnt[2]["score"] - 0.02


def test_what_it_has_learnt_moves_no_normals_to_the_front(judged, learnt):
    after, before = normals_in_front(learnt[0], judged[1])
    np.testing.assert_allclose(after, before, atol=0.02)


def test_the_untrained_reranker_ranks_as_the_encoder_does(judged):
    """Epoch 0's metrics are those of candidates in the order they came."""
    found, some = evaluate(UNTRAINED, judged[1]), judged[1].direction == 1
    expected = ndcg(judged[1].gains[some], judged[1].ideal[some], 10)
    assert found["image→report nDCG@10"] == pytest.approx(expected.mean())
    normal = judged[1].normal[some] == 1
    macro = (expected[normal].mean() + expected[~normal].mean()) / 2
    assert found["image→report macro nDCG@10"] == pytest.approx(macro)
    names = [f"{source}→{target} macro nDCG@10" for source, target in DIRECTIONS]
    assert found["score"] == pytest.approx(np.mean([found[name] for name in names]))


@pytest.mark.parametrize("name", ["sage", "gcn", "gat_alone", "mlp_bare"])
def test_a_seed_gives_the_same_reranker_to_the_last_bit_and_another_seed_another(judged, name):
    first, again, other = (train(judged, replace(SHORT, seed=seed), name)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def perfect(found: Episodes) -> Episodes:
    """The same queries, their candidates in the best order already."""
    gains = -np.sort(-found.gains)
    return replace(found, gains=gains, ideal=gains[:, :10])


@pytest.mark.parametrize("name", ["sage", "mlp_bare"])
def test_where_nothing_beats_the_base_the_untrained_reranker_comes_back(judged, name):
    """To the last bit, though training does not begin from it."""
    settings = replace(SHORT, epochs=2)
    model, best, metrics, log = train((judged[0], perfect(judged[1])), settings, name)
    assert (best, metrics["score"]) == (0, pytest.approx(1.0))
    assert [epoch.best for epoch in log] == [True, False, False]
    torch.manual_seed(settings.seed)
    untrained = GraphReranker(model.shape, torch.from_numpy(PRIOR)).state_dict()
    assert all(torch.equal(value, untrained[key]) for key, value in model.state_dict().items())
    assert not model.gate.any()
    assert not model.offset.any()
    arrays = _Tensors(judged[1], model).arrays(torch.arange(len(judged[1])))
    with torch.inference_mode():
        assert torch.equal(model(arrays), arrays["base"])


def test_training_begins_from_the_fixed_mixture(judged):
    """With networks that hardly learn, and a mixture that hardly moves, it is that which an epoch ends with."""
    model, best, metrics, _ = train(judged, replace(SHORT, learning_rate=1e-9, mixture_rate=1e-9))
    assert best == 1
    fixed = GraphReranker(model.shape, torch.from_numpy(PRIOR))
    np.testing.assert_allclose(model.mixture.detach(), fixed.mixture.detach(), atol=1e-6)
    torch.nn.init.ones_(fixed.gate)
    fixed.offset.copy_(normals_offset(fixed, _Tensors(judged[1], fixed)))
    assert metrics == pytest.approx(evaluate(fixed, judged[1]), abs=2e-3)


@pytest.mark.parametrize("moving", ["mixers", "networks"])
def test_mixers_and_networks_learn_at_rates_of_their_own(judged, moving):
    rates = {"mixers": (0.0, 1e-2), "networks": (1e-2, 0.0)}
    learning, mixture = rates[moving]
    model, best, *_ = train(judged, replace(SHORT, learning_rate=learning, mixture_rate=mixture))
    assert best == 1
    torch.manual_seed(SHORT.seed)
    before = GraphReranker(model.shape, torch.from_numpy(PRIOR))
    torch.nn.init.ones_(before.gate)
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    moved = {id(now) for now, then in pairs if not torch.equal(now, then)}
    mixers = {id(parameter) for parameter in model.mixers()}
    assert moved
    assert moved <= mixers if moving == "mixers" else moved.isdisjoint(mixers)


def test_it_stops_where_patience_ends(judged):
    *_, log = train((judged[0], perfect(judged[1])), replace(SHORT, epochs=5, patience=2))
    assert [epoch.epoch for epoch in log] == [0, 1, 2]


def test_an_epoch_reads_as_many_queries_as_the_sample_has(judged, monkeypatch):
    read: list[int] = []
    arrays = _Tensors.arrays
    monkeypatch.setattr(_Tensors, "arrays", lambda self, rows: read.append(len(rows)) or arrays(self, rows))
    monkeypatch.setattr(listwise, "normals_offset", lambda model, world: torch.zeros(len(DIRECTIONS)))
    monkeypatch.setattr(listwise, "_evaluated", lambda model, found: {"score": 0.0})
    train(judged, replace(SHORT, sample=50, batch_size=16))
    assert sum(read) == 50
    assert max(read) <= 16
    read.clear()
    train(judged, replace(SHORT, sample=0))
    assert sum(read) == sum(len(world) for world in judged[0])


@pytest.mark.parametrize("seed", range(3))
def test_an_offset_brings_back_the_share_of_normals_that_the_encoder_has(judged, seed):
    """Whatever offset the model has already."""
    model, found = tiny_reranker("sage", seed=seed), judged[1]
    model.offset.fill_(3.0)
    moved, base = normals_in_front(model, found)
    assert (moved > base + 0.05).all()
    world = _Tensors(found, model)
    offset = normals_offset(model, world)
    assert (offset.shape, offset.dtype) == ((len(DIRECTIONS),), torch.float32)
    assert model.offset.tolist() == [3.0] * len(DIRECTIONS)
    model.offset.copy_(offset)
    held, _ = normals_in_front(model, found)
    # One study more or fewer in one list is the least that an offset moves; a few may be moved at once.
    least = 1 / (10 * np.bincount(found.direction).min())
    np.testing.assert_allclose(held, base, atol=4 * least)
    assert torch.equal(normals_offset(model, world), offset)


def test_padded_places_have_no_say_in_an_offset(judged):
    model, found = tiny_reranker("sage"), judged[1]
    empty = found.batch.arrays["mask"] == 0
    assert empty.any()
    base = np.where(empty, np.float32(9.0), found.batch.arrays["base"])
    loud = replace(found, batch=replace(found.batch, arrays={**found.batch.arrays, "base": base}))
    np.testing.assert_allclose(*(normals_offset(model, _Tensors(one, model)) for one in (loud, found)), atol=1e-3)


def test_an_offset_goes_as_far_as_it_must(judged):
    """Scores of hundreds of spreads are no reason to give up; something that nothing holds is one to stop."""
    model, found = tiny_reranker("mlp_bare"), judged[1]
    with torch.no_grad():
        model.mixture.zero_()
        model.read[-1].weight.zero_()
        model.read[-1].bias.zero_()
        model.gate.fill_(1.0)
    world = _Tensors(found, model)
    scored = model.scored
    against = lambda arrays: (scored(arrays)[0] - 12.0 * arrays["candidate"][:, :, 0], scored(arrays)[1])  # noqa: E731
    model.scored = against  # type: ignore[method-assign]
    np.testing.assert_allclose(normals_offset(model, world), 12.0, atol=0.5)
    world.shown = torch.ones_like(world.shown)  # any order has as many
    assert normals_offset(model, world).isfinite().all()


def test_a_direction_that_nobody_asks_in_needs_no_offset(judged):
    model, found = tiny_reranker("sage"), judged[1]
    arrays = {**found.batch.arrays, "direction": np.zeros_like(found.direction)}
    there = replace(found, direction=np.zeros_like(found.direction), batch=replace(found.batch, arrays=arrays))
    offset = normals_offset(model, _Tensors(there, model))
    assert offset[1:].tolist() == [0.0] * 3
    assert offset[0] != 0.0


def test_each_world_has_an_offset_of_its_own(judged, monkeypatch):
    """Anew before every epoch, and in the scores that are judged and whose normals are counted."""
    asked: list[_Tensors] = []
    latest: dict[str, object] = {}
    found: list[tuple[int, float, float]] = []

    def offset(model: GraphReranker, world: _Tensors) -> torch.Tensor:
        asked.append(world)
        return torch.arange(len(DIRECTIONS)) + 10.0 * len(asked)

    arrays, scored, moved, loss = _Tensors.arrays, GraphReranker.scored, _normals_moved, listwise.approximate_ndcg_loss

    def reading(self, rows):
        latest["world"] = self
        return arrays(self, rows)

    def scoring(self, given):
        latest["arrays"], latest["scored"] = given, scored(self, given)
        return latest["scored"]

    def counting(scores, *args):
        given, (unheld, spread) = latest["arrays"], latest["scored"]
        real = given["mask"] > 0
        added = ((scores - given["base"] / spread - unheld) / given["candidate"][:, :, 0])[real]
        place = float(given["direction"][0])
        found.append((asked.index(latest["world"]), float(added.mean().detach()) - place, float(added.std().detach())))
        latest["scores"] = scores
        return moved(scores, *args)

    def judging(scores, *args):
        latest["judged"] = scores
        return loss(scores, *args)

    monkeypatch.setattr(listwise, "normals_offset", offset)
    monkeypatch.setattr(listwise, "_evaluated", lambda model, found: {"score": float(model.offset[0])})
    monkeypatch.setattr(_Tensors, "arrays", reading)
    monkeypatch.setattr(GraphReranker, "scored", scoring)
    monkeypatch.setattr(listwise, "_normals_moved", counting)
    monkeypatch.setattr(listwise, "approximate_ndcg_loss", judging)
    *_, log = train(judged, replace(SHORT, epochs=2, sample=0))
    assert [asked.index(world) for world in asked] == [0, 1, 2, 0, 1, 2]
    assert {world for world, *_ in found} == {0, 1}
    half = len(found) // 2
    for number, (world, mean, spread) in enumerate(found):
        expected = 10.0 * (world + 1 + 3 * (number >= half))
        assert (mean, spread) == (pytest.approx(expected, abs=1e-2), pytest.approx(0.0, abs=1e-2))
    ratio = latest["judged"] / latest["scores"]
    assert float(ratio.std().detach()) < 1e-3 * float(ratio.mean().detach())
    # Validation's own is the model's.
    assert [epoch.score for epoch in log] == [0.0, 30.0, 60.0]


# -- what it costs to move normals ------------------------------------------------------------------------------------


def lists(queries: int = 3, count: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base scores, in order, which candidates are normal, and a mask."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(queries, count, generator=generator).sort(dim=1, descending=True).values
    return base, torch.rand(queries, count, generator=generator) < 0.4, torch.ones(queries, count)


def test_normals_in_an_unchanged_order_have_not_moved():
    """In whatever units."""
    base, shown, mask = lists()
    for scores in (base, 7.0 * base - 3.0, 0.1 * base):
        assert float(_normals_moved(scores, base, shown, mask)) == pytest.approx(0.0, abs=1e-5)


def test_normals_that_go_up_have_moved_up_and_those_that_go_down_down():
    base, shown, mask = lists()
    changes = [float(_normals_moved(base + by * shown, base, shown, mask)) for by in (-2.0, -0.2, 0.0, 0.2, 2.0)]
    assert changes == sorted(changes)
    assert changes[1] < -0.02 < 0.02 < changes[3]
    assert float(_normals_moved(base - 2.0 * shown, base, ~shown, mask)) == pytest.approx(-changes[0], abs=1e-5)


def test_how_far_normals_have_moved_is_near_the_change_of_their_share():
    base, shown, mask = lists(queries=40)
    scores = base + 0.5 * shown

    def share(found: torch.Tensor) -> float:
        return float(shown.gather(1, found.argsort(dim=1, descending=True)[:, :10]).float().mean())

    assert float(_normals_moved(scores, base, shown, mask)) == pytest.approx(share(scores) - share(base), abs=0.1)
    assert float(_normals_moved(scores, base, torch.ones_like(shown), mask)) == pytest.approx(0.0, abs=1e-6)


def test_to_move_normals_up_costs_more_and_others_less():
    base, shown, mask = lists()
    scores = base.clone().requires_grad_()
    _normals_moved(scores, base, shown, mask).backward()
    assert scores.grad is not None
    assert (scores.grad[shown] >= 0).all()
    assert (scores.grad[~shown] <= 0).all()
    assert float(scores.grad.abs().max()) > 1e-2


def test_where_there_is_no_candidate_none_moves():
    base, shown, mask = lists()
    scores = base + 0.3 * shown
    expected = float(_normals_moved(scores, base, shown, mask))
    padding = torch.full((3, 15), 0.5)
    padded = [torch.cat([part, padding.to(part.dtype)], dim=1) for part in (scores, base, shown)]
    wide = torch.cat([mask, torch.zeros(3, 15)], dim=1)
    assert float(_normals_moved(padded[0] + 9.0 * (wide == 0), *padded[1:], wide)) == pytest.approx(expected, abs=1e-6)


def test_so_few_candidates_that_all_are_among_the_first():
    base, shown, mask = lists(count=4)
    scores = (base + 0.3 * shown).requires_grad_()
    moved = _normals_moved(scores, base, shown, mask)
    moved.backward()
    assert torch.isfinite(moved)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    equal = torch.full((2, 12), 0.5)
    assert float(_normals_moved(equal, equal, torch.ones(2, 12) > 0, torch.ones(2, 12))) == pytest.approx(0.0)


@pytest.mark.parametrize("change", [1.0, -0.5, 0.0])
def test_the_price_rises_with_every_batch_that_moves_normals(judged, monkeypatch, change):
    """In its direction, over all worlds and epochs. Here nothing else costs anything."""
    monkeypatch.setattr(listwise, "_normals_moved", lambda scores, *_: scores.mean() * 0.0 + change)
    monkeypatch.setattr(listwise, "approximate_ndcg_loss", lambda scores, *_: scores.sum(dim=1) * 0.0)
    settings = replace(SHORT, epochs=2, sample=0, price=0.25)
    *_, log = train(judged, settings)
    batches = [
        sum(-(-int((world.direction == place).sum()) // settings.batch_size) for world in judged[0])
        for place in range(len(DIRECTIONS))
    ]
    for epoch in (1, 2):
        before = [range((epoch - 1) * count, epoch * count) for count in batches]
        costs = [change * settings.price * change * number for numbers in before for number in numbers]
        assert log[epoch].loss == pytest.approx(np.mean(costs), rel=1e-5, abs=1e-9)


def test_where_normals_are_dear_they_are_moved_less(judged, monkeypatch):
    """Training queries that want nothing but normals."""
    wanting = [replace(world, overlap=world.shown.astype(np.float32)) for world in judged[0]]
    ends: list[float] = []
    for price in (0.0, 5.0):
        seen: list[float] = []

        def watched(*args: torch.Tensor, seen: list[float] = seen) -> torch.Tensor:
            moved = _normals_moved(*args)
            seen.append(float(moved.detach()))
            return moved

        with monkeypatch.context() as patch:
            patch.setattr(listwise, "_normals_moved", watched)
            train((wanting, judged[1]), replace(SHORT, sample=0, price=price, learning_rate=1e-2))
        ends.append(float(np.mean(seen[-len(seen) // 3 :])))
    assert ends[0] > 0.1
    assert abs(ends[1]) < ends[0] / 2


# -- what is read and wanted ------------------------------------------------------------------------------------------


def test_rows_of_queries_are_taken_and_the_archive_is_whole(judged):
    found, model = judged[1], tiny_reranker("sage")
    tensors, rows = _Tensors(found, model), torch.tensor([5, 3, 90])
    for name, array in tensors.arrays(rows).items():
        whole = torch.from_numpy(found.batch.arrays[name])
        assert torch.equal(array, whole if name in list(Modality) else whole[rows])
    assert torch.cat(list(tensors.parts(size=37))).tolist() == list(range(len(found)))


def test_wanted_is_overlap_and_what_is_shown_tells_of_normal_studies(judged):
    found = _Tensors(judged[1], UNTRAINED)
    assert np.array_equal(found.wanted, judged[1].overlap)
    assert np.array_equal(found.shown, judged[1].shown)


def test_the_ideal_is_the_gain_of_the_best_order():
    gains = torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert _ideal(gains).tolist() == pytest.approx([2.0 / np.log2(2) + 0.5 / np.log2(3), 0.0])


def test_normal_abnormal_and_unknown_queries_count_alike_in_sum(judged):
    """All may be there, in any world."""
    some = [replace(judged[0][0], normal=np.array(part, dtype=np.int8)) for part in ((1, 1, 1, -1), (-1, 0))]
    weights = _class_weights(some)
    assert float(weights[1 + 1]) * 3 == pytest.approx(float(weights[-1 + 1]) * 2)
    assert float(weights[-1 + 1]) * 2 == pytest.approx(float(weights[0 + 1]) * 1)
    assert sum(float(weights[normal + 1]) for one in some for normal in one.normal.tolist()) == pytest.approx(6)
