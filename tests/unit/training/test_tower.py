"""Tuning the image tower's tail on made-up maps, whose brightest quarter tells the class."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from radrank.training.tower import ImageLabeller, TowerSettings, fit_image_labeller

SETTINGS = TowerSettings(epochs=12, batch_size=16, learning_rate=1e-2, output_learning_rate=3e-2, dropout=0.1, shift=0)
CLASSES, WIDTH, TEXT = 4, 6, 5


def made_up(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps [n, 2, 4, 4], labels [n, 4], features of reports [n, 5] that say the class."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, CLASSES, count)
    maps = 0.5 * rng.normal(size=(count, 2, 4, 4))
    for row, k in enumerate(kind):
        maps[row, :, 2 * (k // 2) : 2 * (k // 2) + 2, 2 * (k % 2) : 2 * (k % 2) + 2] += 1.0
    said = np.random.default_rng(99).normal(size=(CLASSES, TEXT))[kind] + 0.1 * rng.normal(size=(count, TEXT))
    return maps.astype(np.float16), np.eye(CLASSES, dtype=np.bool_)[kind], said.astype(np.float32)


def flat_tail() -> nn.Module:
    """As it comes frozen from a backbone; it barely tells the classes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tail = nn.Sequential(nn.Flatten(), nn.Linear(32, WIDTH), nn.BatchNorm1d(WIDTH), nn.GELU())
    return tail.eval().requires_grad_(False)


class TokenTail(nn.Module):
    """Maps [n, t, w] as a transformer has them: a mean over tokens after one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, WIDTH)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.layer(maps)).mean(dim=1)


MAPS, LABELS, TEXTS = made_up(96)
ROWS = np.arange(96)


def fitted(settings: TowerSettings = SETTINGS, tail: nn.Module | None = None, **changes: np.ndarray) -> ImageLabeller:
    given = {"maps": MAPS, "rows": ROWS, "labels": LABELS, "texts": TEXTS} | changes
    return fit_image_labeller(tail or flat_tail(), settings, **given)


@torch.inference_mode()
def answers(labeller: ImageLabeller, maps: np.ndarray = MAPS) -> tuple[torch.Tensor, torch.Tensor]:
    return labeller(torch.from_numpy(maps.astype(np.float32)))


def loss(labeller: ImageLabeller) -> float:
    return float(F.binary_cross_entropy_with_logits(answers(labeller)[0], torch.from_numpy(LABELS).float()))


def equal(left: nn.Module, right: nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def test_tuning_tells_labels_of_images_that_it_has_not_seen():
    maps, labels, _ = made_up(80, seed=1)
    share = labels.mean(axis=0).max()
    right = (answers(fitted(), maps)[0].argmax(dim=1).numpy() == labels.argmax(axis=1)).mean()
    assert right > 0.85 > share + 0.3


def test_tuning_lowers_the_loss_below_that_of_the_outputs_alone():
    at_first = fitted(replace(SETTINGS, learning_rate=0.0, output_learning_rate=0.0, epochs=1))
    assert loss(fitted()) < loss(fitted(replace(SETTINGS, epochs=0))) < loss(at_first)


def test_before_the_first_step_every_label_is_as_likely_as_it_is_common():
    logits, _ = answers(fitted(replace(SETTINGS, learning_rate=0.0, output_learning_rate=0.0, epochs=1)))
    np.testing.assert_allclose(logits.sigmoid(), np.tile(LABELS.mean(axis=0), (96, 1)), atol=1e-5)


def test_the_second_output_says_what_reports_say_beyond_what_they_share():
    centred = TEXTS / np.linalg.norm(TEXTS, axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    alike = F.cosine_similarity(answers(fitted())[1], torch.from_numpy(centred))
    assert alike.mean() > 0.8


def test_without_the_text_term_reports_change_nothing():
    other = TEXTS[::-1].copy()
    silent = replace(SETTINGS, text=0.0, epochs=2)
    assert equal(fitted(silent), fitted(silent, texts=other))
    assert not equal(fitted(replace(silent, text=1.0)), fitted(replace(silent, text=1.0), texts=other))


def test_images_without_a_report_are_tuned_on_their_labels_alone():
    some = np.where(np.arange(96)[:, None] < 48, TEXTS, np.float32(0.0))
    labeller = fitted(texts=some)
    assert all(torch.isfinite(value).all() for value in labeller.state_dict().values())
    assert loss(labeller) < loss(fitted(replace(SETTINGS, epochs=0)))
    assert fitted(replace(SETTINGS, epochs=1), texts=np.zeros_like(TEXTS)).text.out_features == TEXT


def test_no_epochs_leave_the_tail_to_the_last_bit_as_it_was():
    labeller = fitted(replace(SETTINGS, epochs=0))
    assert equal(labeller.tail, flat_tail())
    assert labeller.findings.weight.abs().max() > 0.0  # the outputs are fitted all the same


@pytest.mark.parametrize("epochs", [0, 2])
def test_the_backbones_own_tail_never_changes(epochs):
    tail = flat_tail()
    labeller = fitted(replace(SETTINGS, epochs=epochs), tail)
    assert equal(tail, flat_tail())
    assert not tail.training
    assert not any(parameter.requires_grad for parameter in tail.parameters())
    assert labeller.tail is not tail
    assert equal(labeller.tail, tail) is (epochs == 0)


def test_what_comes_back_is_frozen():
    labeller = fitted(replace(SETTINGS, epochs=1))
    assert not any(module.training for module in labeller.modules())
    assert not any(parameter.requires_grad for parameter in labeller.parameters())
    assert all(torch.equal(one, other) for one, other in zip(answers(labeller), answers(labeller), strict=True))


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_seed_gives_the_same_labeller_to_the_last_bit_and_another_seed_another(epochs):
    first, again, other = (fitted(replace(SETTINGS, epochs=epochs, shift=1, seed=seed)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


def test_images_of_unlabelled_studies_are_left_out():
    unlabelled = np.arange(96) % 3 == 0
    labels = np.where(unlabelled[:, None], False, LABELS)
    spoilt = np.where(unlabelled[:, None, None, None], np.float16(9.0), MAPS)
    quick = replace(SETTINGS, epochs=2)
    first = fitted(quick, labels=labels)
    assert equal(first, fitted(quick, labels=labels, maps=spoilt, texts=np.where(unlabelled[:, None], 5.0, TEXTS)))
    kept = ~unlabelled
    assert equal(first, fitted(quick, rows=ROWS[kept], labels=LABELS[kept], texts=TEXTS[kept]))


def test_rows_choose_the_images():
    quick, rows = replace(SETTINGS, epochs=2), np.arange(10, 70)
    chosen = fitted(quick, rows=rows, labels=LABELS[rows], texts=TEXTS[rows])
    cut = fitted(quick, maps=MAPS[rows], rows=np.arange(60), labels=LABELS[rows], texts=TEXTS[rows])
    assert equal(chosen, cut)


def test_maps_are_read_from_disk_as_from_memory(tmp_path):
    MAPS.tofile(tmp_path / "maps.f16")
    stored = np.memmap(tmp_path / "maps.f16", dtype=np.float16, mode="r", shape=MAPS.shape)
    quick = replace(SETTINGS, epochs=2)
    assert equal(fitted(quick), fitted(quick, maps=stored))


def test_maps_may_be_tokens():
    """[n, t, w]: no cells to roll, so a shift changes nothing."""
    tokens = MAPS.reshape(96, 4, 8)
    tail = TokenTail().eval().requires_grad_(False)
    before = copy.deepcopy(tail)
    quick = replace(SETTINGS, epochs=2)
    labeller = fitted(quick, tail, maps=tokens)
    assert [tuple(part.shape) for part in answers(labeller, tokens)] == [(96, CLASSES), (96, TEXT)]
    assert equal(labeller, fitted(replace(quick, shift=1), tail, maps=tokens))
    assert equal(tail, before)


def test_a_shift_rolls_images_and_so_changes_what_is_learnt():
    quick = replace(SETTINGS, epochs=2)
    assert not equal(fitted(quick), fitted(replace(quick, shift=1)))


@pytest.mark.parametrize(("epochs", "told"), [(0, 20), (1, 1), (3, 3)])
def test_every_epoch_is_told(epochs, told):
    """Where the tail stays, those of the outputs."""
    done: list[None] = []
    fit_image_labeller(
        flat_tail(),
        replace(SETTINGS, epochs=epochs),
        maps=MAPS,
        rows=ROWS,
        labels=LABELS,
        texts=TEXTS,
        on_epoch=lambda: done.append(None),
    )
    assert len(done) == told


@pytest.mark.parametrize("epochs", range(1, 7))
def test_a_few_steps_are_enough(epochs):
    few = slice(0, 6)
    labeller = fitted(replace(SETTINGS, epochs=epochs), rows=ROWS[few], labels=LABELS[few], texts=TEXTS[few])
    assert all(torch.isfinite(value).all() for value in labeller.state_dict().values())


def test_fewer_images_than_a_batch_are_one_batch():
    few = slice(0, 6)
    labeller = fitted(replace(SETTINGS, epochs=1), rows=ROWS[few], labels=LABELS[few], texts=TEXTS[few])
    assert all(torch.isfinite(value).all() for value in labeller.state_dict().values())
