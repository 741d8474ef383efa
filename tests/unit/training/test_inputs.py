"""What heads read: frozen features beside what a labeller of each modality makes of an item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.made_up import TOWER, WORDS, feature_set, tiny_backbone, tiny_inputs
from radrank.core.studies import Modality, Split
from radrank.training.features import FeatureSet
from radrank.training.inputs import HeadInputs, Inputs, empty_inputs, fit_inputs

FEATURES = feature_set()
TRAIN, TEST = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.TEST)
IMAGE, REPORT = Modality.IMAGE, Modality.REPORT
LABELS = FEATURES.labels.shape[1]


def tail() -> nn.Module:
    return tiny_backbone().image_tower.tail


def fitted(features: FeatureSet = FEATURES, train: np.ndarray = TRAIN) -> HeadInputs:
    return fit_inputs(features, tail(), TOWER, train=train)


def equal(left: nn.Module, right: nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def owned(m: Modality, studies: np.ndarray) -> np.ndarray:
    """bool [items], whether the item is of one of these studies."""
    return np.isin(FEATURES.study[m], studies)


@pytest.fixture(scope="module")
def read() -> dict[Modality, Inputs]:
    return tiny_inputs().of(FEATURES)


def test_every_item_has_features_and_beliefs(read):
    words = len(tiny_inputs().report.labeller.lexicon.vocabulary)
    assert tiny_inputs().widths == {IMAGE: 12 + LABELS + 10, REPORT: 10 + words}
    for m, width in tiny_inputs().widths.items():
        assert read[m].features.shape == (len(FEATURES.study[m]), width)
        assert read[m].beliefs.shape == (len(FEATURES.study[m]), LABELS)
        assert read[m].features.dtype == read[m].beliefs.dtype == np.float32


@pytest.mark.parametrize("m", list(Modality))
def test_beliefs_are_chances_and_higher_where_a_label_holds(read, m):
    beliefs, truth = read[m].beliefs, FEATURES.labels[FEATURES.study[m]]
    assert beliefs.min() >= 0.0
    assert beliefs.max() <= 1.0
    unseen = owned(m, TEST) & truth.any(axis=1)
    assert beliefs[unseen][truth[unseen]].mean() > beliefs[unseen][~truth[unseen]].mean()


def test_frozen_image_features_have_mean_zero_and_unit_variance_over_training_images(read):
    found = read[IMAGE].features[owned(IMAGE, TRAIN)]
    np.testing.assert_allclose(found[:, :12].mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(found[:, :12].std(axis=0), 1.0, atol=1e-4)


def test_what_the_image_labeller_says_is_scaled_as_a_whole(read):
    """Logits stay halves of logits; the text part has unit variance over all of its columns, not in each."""
    found = read[IMAGE].features[owned(IMAGE, TRAIN)]
    logits = 2.0 * found[:, 12 : 12 + LABELS]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), read[IMAGE].beliefs[owned(IMAGE, TRAIN)], atol=1e-5)
    assert found[:, 12 + LABELS :].std() == pytest.approx(1.0, abs=1e-3)
    assert found[:, 12 + LABELS :].std(axis=0).max() > 1.05


def test_frozen_report_features_are_centred_and_scaled_as_a_whole_and_words_follow(read):
    labelled = owned(REPORT, TRAIN) & FEATURES.labels[FEATURES.study[REPORT]].any(axis=1)
    found = read[REPORT].features[labelled]
    np.testing.assert_allclose(found[:, :10].mean(axis=0), 0.0, atol=1e-5)
    assert np.sqrt((found[:, :10] ** 2).mean()) < 1.5
    np.testing.assert_allclose(np.linalg.norm(found[:, 10:], axis=1), 20.0, rtol=1e-5)
    words = tiny_inputs().report.labeller.lexicon.vocabulary.numpy()
    clear = 10 + int(np.flatnonzero(words == WORDS.index("clear"))[0])
    holds = (FEATURES.tokens[labelled] == WORDS.index("clear")).any(axis=1)
    assert np.array_equal(found[:, clear] > 0, holds)


def test_an_item_reads_the_same_whatever_it_stands_beside(read):
    """And in whatever order: 40 of 120 images are more than a batch, and fall into other batches."""
    for m in Modality:
        chosen = np.random.default_rng(0).permutation(len(FEATURES.study[m]))[:40]
        some = replace(
            FEATURES,
            features={**FEATURES.features, m: FEATURES.features[m][chosen]},
            **({"maps": FEATURES.maps[chosen]} if m is IMAGE else {"tokens": FEATURES.tokens[chosen]}),
        )
        found = tiny_inputs().of(some)[m]
        np.testing.assert_allclose(found.features, read[m].features[chosen], atol=1e-5)
        np.testing.assert_allclose(found.beliefs, read[m].beliefs[chosen], atol=1e-6)


def test_longer_padding_changes_nothing(read):
    padded = replace(FEATURES, tokens=np.pad(FEATURES.tokens, ((0, 0), (0, 9))))
    assert np.array_equal(tiny_inputs().of(padded)[REPORT].features, read[REPORT].features)
    assert equal(fitted(padded), fitted())


def test_training_studies_alone_decide():
    """Labels, words, features and maps of all others may be anything."""
    others = np.setdiff1d(np.arange(90), TRAIN)
    labels, tokens = FEATURES.labels.copy(), FEATURES.tokens.copy()
    labels[others] = ~labels[others]
    tokens[owned(REPORT, others)] = 99
    spoilt = {m: np.where(owned(m, others)[:, None], np.float32(9.0), FEATURES.features[m]) for m in Modality}
    maps = np.where(owned(IMAGE, others)[:, None, None, None], np.float16(9.0), FEATURES.maps)
    other = replace(FEATURES, labels=labels, tokens=tokens, features=spoilt, maps=maps)
    assert equal(fitted(), fitted(other))


@pytest.mark.parametrize("what", ["labels", "tokens", "maps"])
def test_what_training_studies_hold_is_learnt_from(what):
    """The test above could tell."""
    changed = np.roll(getattr(FEATURES, what), 1, axis=0)
    assert not equal(fitted(), fitted(replace(FEATURES, **{what: changed})))


def test_a_study_without_a_report_still_trains_the_image_labeller():
    silent = TRAIN[:5]
    kept = ~owned(REPORT, silent)
    some = replace(
        FEATURES,
        features={**FEATURES.features, REPORT: FEATURES.features[REPORT][kept]},
        study={**FEATURES.study, REPORT: FEATURES.study[REPORT][kept]},
        same_text=FEATURES.same_text[kept],
        tokens=FEATURES.tokens[kept],
    )
    maps = np.where(owned(IMAGE, silent)[:, None, None, None], np.float16(2.0), FEATURES.maps)
    first, other = fitted(some), fitted(replace(some, maps=maps))
    assert equal(first.report, other.report)
    assert not equal(first.image, other.image)


def test_fitting_repeats_itself_and_leaves_the_tail_alone():
    before = tail()
    network = tail()
    inputs = fit_inputs(FEATURES, network, TOWER, train=TRAIN)
    assert equal(inputs, fitted())
    assert equal(network, before)
    assert not equal(inputs.image.labeller.tail, before)  # but the copy was tuned


def test_empty_inputs_take_the_weights_of_fitted_ones(read):
    inputs = empty_inputs(
        tail(),
        image_width=12,
        text_width=10,
        groups=LABELS - 1,
        words=len(tiny_inputs().report.labeller.lexicon.vocabulary),
        settings=TOWER,
    )
    assert inputs.widths == tiny_inputs().widths
    inputs.load_state_dict(tiny_inputs().state_dict())
    found = inputs.of(FEATURES)
    for m in Modality:
        assert np.array_equal(found[m].features, read[m].features)
        assert np.array_equal(found[m].beliefs, read[m].beliefs)
