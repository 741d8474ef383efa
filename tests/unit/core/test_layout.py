from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from helpers.doubles import joined
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality
from radrank.training.heads import Heads, HeadSettings

LAYOUT = VectorLayout(projection=3, share=0.2, groups=("edema", "opacity"))
BELIEFS = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.1, 0.9, 0.25], [0.0, 1.0, 1.0]])  # none longer than √2
PROJECTIONS = np.array([[1.0, 0.0, 0.0], [0.0, -0.6, 0.8], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def by_hand(modality: Modality) -> np.ndarray:
    return joined(PROJECTIONS, BELIEFS, modality, LAYOUT)


def by_heads(modality: Modality) -> np.ndarray:
    settings = HeadSettings(projection=LAYOUT.projection, beliefs=LAYOUT.share)
    heads = Heads(dict.fromkeys(Modality, 4), LAYOUT.groups, settings)
    assert heads.layout == LAYOUT
    with torch.inference_mode():
        vectors: np.ndarray = heads.join(torch.tensor(PROJECTIONS), torch.tensor(BELIEFS), modality).numpy()
    return vectors.astype(np.float32)


def test_a_vector_is_the_projection_the_beliefs_and_an_end_in_each_modality():
    assert LAYOUT.beliefs_width == 3  # normal, edema, opacity
    assert LAYOUT.dimensions == 3 + 3 + 2
    image, report = (by_hand(m)[1] for m in Modality)
    certain, rest = np.sqrt(0.2 / 2), np.sqrt(0.2 / 2)  # one certain belief is half of what there is room for
    assert image.tolist() == pytest.approx([0, -0.6 * 0.8**0.5, 0.8 * 0.8**0.5, certain, 0, 0, rest, 0])
    assert report.tolist() == pytest.approx([0, -0.6 * 0.8**0.5, 0.8 * 0.8**0.5, certain, 0, 0, 0, rest])


@pytest.mark.parametrize("vectors", [by_hand, by_heads])
@pytest.mark.parametrize("m", list(Modality))
def test_beliefs_are_read_from_the_vectors_that_hold_them(vectors, m):
    found = vectors(m)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    beliefs = LAYOUT.beliefs(found)
    assert beliefs.dtype == np.float32
    np.testing.assert_allclose(beliefs, BELIEFS, atol=1e-6)


@pytest.mark.parametrize("m", list(Modality))
def test_heads_join_what_the_formula_says(m):
    np.testing.assert_allclose(by_heads(m), by_hand(m), atol=1e-6)


def test_beliefs_that_do_not_fit_are_read_shorter_and_in_the_same_proportions():
    full = joined(PROJECTIONS[:1], np.ones((1, 3)), Modality.IMAGE, LAYOUT)
    np.testing.assert_allclose(LAYOUT.beliefs(full), np.full((1, 3), (2 / 3) ** 0.5), atol=1e-6)


def test_beliefs_of_one_vector_and_of_a_stack_of_them_are_the_same():
    stack = by_hand(Modality.REPORT)
    assert np.array_equal(LAYOUT.beliefs(stack[2]), LAYOUT.beliefs(stack)[2])
    assert np.array_equal(LAYOUT.beliefs(stack.reshape(2, 2, -1))[1, 0], LAYOUT.beliefs(stack)[2])
    assert LAYOUT.beliefs(stack[:0]).shape == (0, 3)


def test_beliefs_of_any_vector_stay_from_0_to_1():
    """A caller's embedding may be anything of length one."""
    strange = np.array([[0, 0, 0, 0.8, -0.6, 0, 0, 0]], np.float32)
    assert LAYOUT.beliefs(strange).tolist() == [[1, 0, 0]]


def test_a_layout_survives_json():
    assert VectorLayout.from_json(json.loads(json.dumps(asdict(LAYOUT)))) == LAYOUT


@pytest.mark.parametrize(
    ("stored", "error"),
    [({}, KeyError), ({"groups": []}, TypeError), (asdict(LAYOUT) | {"dimensions": 9}, TypeError), ([], TypeError)],
)
def test_a_stored_layout_with_other_fields_is_none(stored, error):
    with pytest.raises(error):
        VectorLayout.from_json(stored)
