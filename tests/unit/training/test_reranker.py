"""What a re-ranker reads, what its formulas say by naive loops, and that it changes nothing until it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.made_up import GROUPS, KINDS, LAYOUT, SETTINGS, tiny_reranker
from radrank.core.graph import ARCHIVE_RELATIONS, CANDIDATE, DIRECTIONS, QUERY, RELATIONS, TOLD_RELATIONS, GraphBatch
from radrank.core.studies import Modality
from radrank.export.golden import random_batch
from radrank.training.reranker import (
    SERVED,
    VARIANTS,
    GraphReranker,
    _standard,
    _trusting,
    _votes,
    equal_sets,
    expected_jaccard,
)

WIDTH = 1 + len(GROUPS)
BATCH = random_batch(np.random.default_rng(2), LAYOUT, SETTINGS, graphs=4, candidates=25)
ARCHIVE = [r.name for r in ARCHIVE_RELATIONS]
AMONG = [r.name for r in RELATIONS if r not in ARCHIVE_RELATIONS]


def tensors(model: GraphReranker, batch: GraphBatch = BATCH) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.feed(model.array_names).items()}


@torch.inference_mode()
def scores(model: GraphReranker, batch: GraphBatch = BATCH) -> np.ndarray:
    """Of the 25 candidates."""
    return model(tensors(model, batch)).numpy()[:, :25]


def changed(**arrays: np.ndarray) -> GraphBatch:
    return replace(BATCH, arrays={**BATCH.arrays, **arrays})


def beliefs(*shape: int) -> Tensor:
    return torch.rand(*shape, WIDTH, generator=torch.Generator().manual_seed(sum(shape)))


class Watched(dict[str, Tensor]):
    """Remembers what was asked for."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        super().__init__(arrays)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def test_the_variants_are_three_networks_their_controls_and_the_networks_without_edges():
    controls = {f"{kind}_{end}" for kind, end in product(KINDS, ("shuffled", "alone"))}
    assert set(VARIANTS) == {*KINDS, "mlp", "mlp_bare"} | controls
    assert set(SERVED) == {*KINDS, "mlp"}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_an_untrained_reranker_changes_nothing(name):
    untrained = GraphReranker(tiny_reranker(name).shape).eval()
    assert np.array_equal(scores(untrained), BATCH.arrays["base"][:, :25])


@pytest.mark.parametrize("name", list(VARIANTS))
def test_it_reads_the_arrays_that_it_names_and_no_other(name):
    model = tiny_reranker(name)
    arrays = Watched(tensors(model))
    model(arrays)
    assert arrays.read == set(model.array_names)
    assert len(model.array_names) == len(arrays)


APART = ["sage", "mlp", "sage_alone"]


def told(model: GraphReranker, batch: GraphBatch = BATCH) -> dict[str, Tensor]:
    """The arrays of a batch with the re-ranker's own messages."""
    heard = {name: torch.from_numpy(array) for name, array in batch.hearing(TOLD_RELATIONS).arrays.items()}
    with torch.inference_mode():
        messages = model.messages({name: heard[name] for name in model.message_names}).numpy()
    return {name: torch.from_numpy(array) for name, array in batch.told(messages).feed(model.input_names).items()}


def test_what_the_archive_tells_candidates_is_apart_where_no_query_changes_it():
    assert [name for name, variant in VARIANTS.items() if variant.apart] == APART


@pytest.mark.parametrize("name", APART)
def test_a_batch_with_messages_scores_as_a_whole_one(name):
    model = tiny_reranker(name, layers=2)
    with torch.inference_mode():
        found = model(told(model)).numpy()[:, :25]
    np.testing.assert_allclose(found, scores(model), atol=1e-6, rtol=0)
    assert not np.allclose(found, BATCH.arrays["base"][:, :25], atol=1e-3)


@pytest.mark.parametrize("name", APART)
def test_of_a_batch_with_messages_it_reads_the_arrays_that_it_names_and_no_other(name):
    model = tiny_reranker(name)
    arrays = Watched(told(model))
    model(arrays)
    assert arrays.read == set(model.input_names) == set(arrays)
    heard = Watched(tensors(model, BATCH))
    model.messages(heard)
    assert heard.read == set(model.message_names)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in APART])
def test_the_others_are_exported_with_the_arrays_of_a_whole_batch(name):
    assert tiny_reranker(name).input_names == tiny_reranker(name).array_names


@pytest.mark.parametrize(
    ("name", "edges", "archive"),
    [
        ("mlp_bare", set(), False),
        ("mlp", {f"{r}.{part}" for r in ARCHIVE for part in ("idx", "weight")}, True),
        ("sage", {f"{r.name}.{part}" for r in RELATIONS for part in ("idx", "weight")}, True),
        (
            "gcn",
            {f"{r.name}.{part}" for r in RELATIONS for part in ("idx", "norm")} | {f"{r}.weight" for r in ARCHIVE},
            True,
        ),
        (
            "gcn_alone",
            {f"{r}.{part}" for r in ARCHIVE for part in ("idx", "weight")}
            | {f"{r}.{part}" for r in AMONG for part in ("idx", "norm")},
            True,
        ),
    ],
)
def test_a_variant_reads_its_edges_alone(name, edges, archive):
    """mlp counts its archive neighbours' labels, and so reads their edges; mlp_bare does not know of an archive."""
    items = {m.value for m in Modality} if archive else set()
    assert set(tiny_reranker(name).array_names) == {"direction", QUERY, CANDIDATE, "base", "mask"} | edges | items


@pytest.mark.parametrize("name", ["mlp", *(f"{kind}_alone" for kind in KINDS)])
def test_a_variant_without_archive_messages_hears_labels_alone(name):
    believed = {m.value: BATCH.arrays[m.value].copy() for m in Modality}
    labelled = {m.value: BATCH.arrays[m.value].copy() for m in Modality}
    for m in Modality:
        believed[m][:, : 2 * WIDTH] = 0.5
        labelled[m][:, 2 * WIDTH :] = np.roll(labelled[m][:, 2 * WIDTH :], 1, axis=1)
    model = tiny_reranker(name, layers=2)
    assert np.array_equal(scores(model, changed(**believed)), scores(model))
    assert not np.allclose(scores(model, changed(**labelled)), scores(model), atol=1e-6)
    hearing = tiny_reranker(name.removesuffix("_alone"), layers=2)
    assert np.array_equal(scores(hearing, changed(**believed)), scores(hearing)) is (name == "mlp")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shuffled_twin_is_the_same_network(kind):
    """What it reads is shuffled, not how."""
    assert tiny_reranker(f"{kind}_shuffled").array_names == tiny_reranker(kind).array_names
    assert np.array_equal(scores(tiny_reranker(f"{kind}_shuffled")), scores(tiny_reranker(kind)))


def test_a_gate_opens_one_direction():
    model = GraphReranker(tiny_reranker("sage").shape).eval()
    with torch.no_grad():
        model.gate[2] = 0.5
    moved = (scores(model) != BATCH.arrays["base"][:, :25]).any(axis=1)
    assert moved.tolist() == [place == 2 for place in BATCH.arrays["direction"]]
    assert moved.any()


def test_an_offset_adds_to_normal_candidates_by_their_belief_in_units_of_the_spread():
    model = GraphReranker(tiny_reranker("sage").shape).eval()
    model.offset += torch.arange(len(DIRECTIONS)) - 1.5
    base, normal = BATCH.arrays["base"][:, :25], BATCH.arrays[CANDIDATE][:, :25, 0]
    offset = BATCH.arrays["direction"][:, None] - 1.5
    expected = base + base.std(axis=1, keepdims=True) * offset * normal
    np.testing.assert_allclose(scores(model), expected, atol=1e-5)


def test_what_is_believed_of_a_query_counts_by_its_modality():
    """The same numbers, but of another direction: other weights read them."""
    model = tiny_reranker("mlp")
    for parameter in model.parameters():
        if len(parameter) == len(DIRECTIONS):
            torch.nn.init.constant_(parameter, 0.3)  # no direction has a readout of its own
    model.offset.zero_()
    places = [
        scores(model, changed(direction=np.full_like(BATCH.arrays["direction"], place)))
        for place in range(len(DIRECTIONS))
    ]
    for one, other in ((0, 1), (0, 2), (1, 3), (2, 3)):
        assert not np.allclose(places[one], places[other], atol=1e-6)


def test_values_are_standardised_over_the_candidates_that_are_there():
    values, mask = beliefs(2, 7)[:, :, 0].clone(), torch.ones(2, 7)
    mask[1, 4:] = 0.0
    standard, spread = (found[:, :, 0] for found in _standard(values.unsqueeze(2), mask.unsqueeze(2)))
    for row, count in enumerate((7, 4)):
        real = values[row, :count].numpy()
        assert float(spread[row, 0]) == pytest.approx(real.std(), rel=1e-4)
        np.testing.assert_allclose(standard[row, :count], (real - real.mean()) / real.std(), atol=1e-3)
        assert not standard[row, count:].any()


def test_one_candidate_or_equal_ones_stand_at_0():
    mask = torch.tensor([[1.0] * 5, [1.0] + [0.0] * 4]).unsqueeze(2)
    standard, spread = _standard(torch.full((2, 5, 1), 0.3), mask)
    assert float(standard.abs().max()) < 1e-3
    assert (spread > 0).all()


@pytest.mark.parametrize("target", [QUERY, CANDIDATE])
def test_votes_are_shares_among_neighbours_of_known_findings_by_a_power_of_similarity(target):
    arrays = {name: torch.from_numpy(array) for name, array in BATCH.arrays.items()}
    found = _votes(arrays, target, WIDTH)
    relations = [r for r in ARCHIVE_RELATIONS if r.target == target]
    assert found.shape == (4, arrays[f"{relations[0].name}.idx"].shape[1], WIDTH)
    for b, node in np.ndindex(*found.shape[:2]):
        said, total = np.zeros(WIDTH), 0.0
        for r in relations:
            edges = zip(
                arrays[f"{r.name}.idx"][b, node].tolist(), arrays[f"{r.name}.weight"][b, node].tolist(), strict=True
            )
            for item, weight in edges:
                findings = BATCH.arrays[r.source][item, 2 * WIDTH :]
                if item >= 0 and findings.any():
                    voice = weight**4
                    said, total = said + voice * findings, total + voice
        np.testing.assert_allclose(found[b, node], said / max(total, 1e-6), atol=1e-5)
    assert found.any()


def test_nearer_neighbours_have_more_of_a_say_than_their_similarity():
    idx = torch.full((1, 1, 2), -1)
    arrays = {f"{r}.{part}": idx if part == "idx" else idx * 0.0 for r in ARCHIVE for part in ("idx", "weight")}
    arrays |= {"query_image.idx": torch.tensor([[[0, 1]]]), "query_image.weight": torch.tensor([[[0.8, 0.4]]])}
    arrays |= {m.value: torch.eye(2, WIDTH).repeat(1, 3) for m in Modality}
    found = _votes(arrays, QUERY, WIDTH)[0, 0]
    assert float(found[0] / found[1]) > 2.5
    assert float(found.sum()) == pytest.approx(1.0)


def test_a_node_without_neighbours_has_no_votes():
    idx = torch.full((1, 2, 3), -1)
    arrays = {f"{r}.{part}": idx if part == "idx" else idx * 0.0 for r in ARCHIVE for part in ("idx", "weight")}
    arrays |= {m.value: torch.ones(5, 3 * WIDTH) for m in Modality}
    assert not _votes(arrays, CANDIDATE, WIDTH).any()


def trusting(share: float, *, target: str = CANDIDATE) -> GraphReranker:
    """An untrained re-ranker that mixes this share of votes into beliefs, in every direction."""
    model = GraphReranker(tiny_reranker("sage").shape).eval()
    torch.nn.init.constant_(model.trust[target], float(torch.logit(torch.tensor(share), eps=1e-7)))
    return model


def mixed(model: GraphReranker, target: str, believed: Tensor, votes: Tensor, direction: Tensor) -> Tensor:
    return _trusting(believed, votes, model._of_direction(direction)[f"trust_{target}"])


@pytest.mark.parametrize("target", [QUERY, CANDIDATE])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_votes_are_mixed_into_beliefs_by_their_share(target, share):
    believed, votes = beliefs(len(DIRECTIONS), 5), beliefs(len(DIRECTIONS), 6)[:, :5]
    with torch.inference_mode():
        model = trusting(share, target=target)
        found = mixed(model, target, believed, votes, torch.arange(len(DIRECTIONS)))
    np.testing.assert_allclose(found, (1 - share) * believed + share * votes, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_node_without_a_known_neighbour_keeps_its_beliefs(share):
    believed, votes = beliefs(2, 5), beliefs(2, 6)[:, :5].clone()
    votes[0, 3] = 0.0
    with torch.inference_mode():
        found = mixed(trusting(share), CANDIDATE, believed, votes, torch.tensor([0, 3]))
    kept = (found == believed).all(dim=-1)
    assert kept.nonzero().tolist() == [[0, 3]]


def test_each_direction_trusts_votes_as_much_as_it_has_learnt_to():
    model, believed, votes = trusting(1e-7), beliefs(4, 5), beliefs(4, 6)[:, :5]
    with torch.inference_mode():
        model.trust[CANDIDATE][2] = 50.0
        found = mixed(model, CANDIDATE, believed, votes, torch.tensor([0, 2, 1, 2]))
    for row, expected in enumerate((believed[0], votes[1], believed[2], votes[3])):
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_where_beliefs_are_nothing_but_votes_these_are_what_is_compared():
    """All the way to the scores: of query and candidates alike, in every comparison but that of the votes alone."""
    believing, voting = (GraphReranker(tiny_reranker("mlp").shape).eval() for _ in range(2))
    with torch.no_grad():
        for model, mixture in ((believing, [1.0, 0, 0, 0]), (voting, [0, 0, 0, 1.0])):
            model.gate.fill_(1.0)
            model.mixture.copy_(torch.tensor(mixture).expand_as(model.mixture))
            for of_type in model.trust.values():
                of_type.fill_(50.0)
        for of_type in (QUERY, CANDIDATE):
            assert (_votes(tensors(voting), of_type, WIDTH)[:, :25].sum(dim=-1) > 0).all()
        np.testing.assert_allclose(scores(believing), scores(voting), atol=5e-3)
        for of_type in (QUERY, CANDIDATE):
            believing.trust[of_type].fill_(-50.0)
            assert np.abs(scores(believing) - scores(voting)).max() > 0.05
            believing.trust[of_type].fill_(50.0)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_mixers_are_the_parameters_that_have_a_row_for_each_direction_and_weigh(name):
    model = tiny_reranker(name)
    mixers = [id(parameter) for parameter in model.mixers()]
    named = {key for key, parameter in model.named_parameters() if id(parameter) in mixers}
    trust = {f"trust.{of_type}" for of_type in (QUERY, CANDIDATE)} if VARIANTS[name].votes else set()
    assert named == {"mixture", "gate"} | trust
    assert len(mixers) == len(set(mixers)) == len(named)


def test_expected_jaccard_is_expected_shared_over_expected_united_findings():
    query, candidates = beliefs(2, 1), beliefs(2, 5)
    found = expected_jaccard(query, candidates)
    for b, k in product(range(2), range(5)):
        p, q = query[b, 0].tolist(), candidates[b, k].tolist()
        shared = sum(x * y for x, y in zip(p, q, strict=True))
        united = sum(x + y - x * y for x, y in zip(p, q, strict=True))
        assert float(found[b, k]) == pytest.approx(shared / united, abs=1e-6)


def test_of_certain_sets_it_is_their_jaccard_and_of_nothing_it_is_none():
    sets = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]])
    assert expected_jaccard(sets[:, 1:2], sets)[0, :, 0].tolist() == pytest.approx([0.0, 1.0, 0.5, 0.0])
    assert expected_jaccard(sets[:, 3:], sets)[0, :, 0].tolist() == [0.0] * 4


def test_equal_sets_is_the_root_of_the_probability_of_equal_findings():
    query, candidates = beliefs(2, 1), beliefs(2, 5)
    found = equal_sets(query, candidates)
    for b, k in product(range(2), range(5)):
        probability = 0.0
        for findings in product((0, 1), repeat=WIDTH):  # of every set: that both have it
            both = 1.0
            for there, p, q in zip(findings, query[b, 0].tolist(), candidates[b, k].tolist(), strict=True):
                both *= p * q if there else (1 - p) * (1 - q)
            probability += both
        assert float(found[b, k]) == pytest.approx(probability**0.5, abs=1e-5)


def test_the_centred_cosine_compares_deviations_from_what_is_frequent():
    model, query, candidates = tiny_reranker("sage"), beliefs(2, 1), beliefs(2, 5)
    prior = model.prior.tolist()
    found = model._centred_cosine(query, candidates)
    for b, k in product(range(2), range(5)):
        left, right = (
            np.array([(p - f) / (f * (1 - f)) ** 0.5 for p, f in zip(row.tolist(), prior, strict=True)])
            for row in (query[b, 0], candidates[b, k])
        )
        expected = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        assert float(found[b, k]) == pytest.approx(expected, abs=1e-5)


def test_findings_that_are_never_or_always_there_are_finite():
    model = GraphReranker(tiny_reranker("sage").shape, torch.tensor([0.0, 1.0, 0.3, 0.2]))
    assert torch.isfinite(model._centred_cosine(beliefs(2, 1), beliefs(2, 5))).all()
