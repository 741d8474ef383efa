"""Re-rankers of a run directory: what they train on is made once, kept, and thrown away with the heads."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.made_up import HEADS, LAYOUT, SETTINGS, TOWER, feature_set, tiny_backbone, tiny_run
from radrank.core.errors import InvalidQuery
from radrank.core.studies import Modality, Split
from radrank.training import episodes, pipeline, runs
from radrank.training.listwise import RerankerSettings
from radrank.training.pipeline import Material, run_heads, run_rerankers
from radrank.training.runs import Run

QUICK = RerankerSettings(candidates=10, folds=2, width=16, layers=1, epochs=1, batch_size=32, sample=64)
FEATURES = feature_set()
TRAIN, VALIDATION = FEATURES.of_split(Split.TRAIN), FEATURES.of_split(Split.VALIDATION)


class Told:
    """A reporter that remembers its bars and what it said."""

    def __init__(self):
        self.bars = {}
        self.said = []

    @contextmanager
    def task(self, label, total):
        self.bars[label] = [total, 0]

        def advance():
            self.bars[label][1] += 1

        yield advance

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def fitted(monkeypatch):
    """The studies of which folds an encoder was fitted without, one list a call."""
    calls: list[list[int]] = []
    fit_inputs = episodes.fit_inputs

    def counting(features, tail, tower, *, train, **options):
        calls.append(train.tolist())
        return fit_inputs(features, tail, tower, train=train, **options)

    monkeypatch.setattr(episodes, "fit_inputs", counting)
    return calls


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    for module in (runs, pipeline):
        monkeypatch.setattr(module, "load_backbone", lambda name, weights: tiny_backbone())
    return tiny_run(tmp_path / "run")


def trained(run: Run, *names: str, settings: RerankerSettings = QUICK) -> Told:
    reporter = Told()
    run_rerankers(run, names, settings=settings, graph=SETTINGS, reporter=reporter)
    return reporter


def head_again(run: Run) -> Run:
    return run_heads(
        run.path,
        dataset="made up",
        root=None,
        backbone="tiny",
        weights=None,
        settings=replace(HEADS, epochs=1),
        tower=replace(TOWER, epochs=0),
        reporter=Told(),
    )


def test_rerankers_of_all_names_are_trained_and_kept(run):
    told = trained(run, "sage", "mlp_bare", "sage_shuffled")
    assert set(run.rerankers()) == {"sage", "mlp_bare", "sage_shuffled"}
    for name in run.rerankers():
        model, record = run.reranker(name)
        assert (model.shape.name, model.shape.groups) == (name, len(FEATURES.groups))
        assert record["validation"]["score"] >= record["validation_before"]["score"]
        assert not record["graph"]["shuffled"]  # a bundle has one graph: that a twin's is shuffled, its name tells
        log = [json.loads(line) for line in (run.path / "rerankers" / name / "log.jsonl").read_text().splitlines()]
        assert log[0]["score"] == record["validation_before"]["score"]
        assert told.bars[name] == [1, 1]
    assert told.bars["folds"] == [2 * TOWER.epochs] * 2
    assert any(line.startswith("sage_shuffled: best epoch") for line in told.said)


def test_each_variant_reads_the_graph_that_it_should(run, monkeypatch):
    shown = []
    of = Material.episodes
    monkeypatch.setattr(Material, "episodes", lambda *args: shown.append(args[2].shuffled) or of(*args))
    trained(run, "sage", "gcn", "sage_shuffled")
    assert shown == [False, True]  # made once for those that share it


def test_folds_are_kept_and_read_by_the_next_training(run, fitted):
    trained(run, "mlp_bare")
    first = run.reranker("mlp_bare")[0].state_dict()
    kept = (run.path / "folds.npz").read_bytes()
    assert [len(studies) for studies in fitted] == [15, 15]
    told = trained(run, "mlp_bare")
    assert len(fitted) == 2
    assert told.said[0].startswith("folds: those of an earlier training")
    assert (run.path / "folds.npz").read_bytes() == kept
    again = run.reranker("mlp_bare")[0].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_number_of_folds_is_cut_anew(run, fitted):
    trained(run, "mlp_bare")
    trained(run, "mlp_bare", settings=replace(QUICK, folds=3))
    assert [len(studies) for studies in fitted] == [15, 15, 20, 20, 20]
    assert run.folds(2) is None
    assert len(run.folds(3)) == 3


def test_new_heads_throw_away_folds_and_rerankers(run, fitted):
    trained(run, "mlp_bare")
    head_again(run)
    assert not (run.path / "folds.npz").exists()
    assert run.rerankers() == {}
    trained(run, "mlp_bare")
    assert len(fitted) == 4


def test_a_run_trained_again_reads_its_features_again_and_tells_its_layout(run):
    again = head_again(run)
    assert again.heads().layout == LAYOUT
    assert again.record["heads"]["groups"] == list(FEATURES.groups)
    assert np.array_equal(again.features.labels, FEATURES.labels)


def test_material_is_of_train_and_validation_alone(run):
    material = Material.of(run, folds=2, reporter=Told())
    assert material.layout == LAYOUT
    assert sorted(np.concatenate([fold for fold, _ in material.folds]).tolist()) == TRAIN.tolist()
    known = FEATURES.labels[TRAIN]
    np.testing.assert_allclose(material.prior, known[known.any(axis=1)].mean(axis=0), atol=1e-6)
    assert material.prior.dtype == np.float32
    training, judged = material.episodes(QUICK, SETTINGS)
    reports = [len(np.unique(FEATURES.same_text[fold])) for fold, _ in material.folds]
    for found, (fold, _), count in zip(training, material.folds, reports, strict=True):
        assert np.bincount(found.direction).tolist() == [len(fold)] * 2 + [count] * 2
        assert len(found.batch.arrays["image"]) == len(TRAIN) - len(fold)
    assert np.bincount(judged.direction).tolist() == [len(VALIDATION)] * 4
    assert len(judged.batch.arrays["image"]) == len(judged.batch.arrays["report"]) == len(TRAIN)


def test_validation_is_asked_in_the_space_of_the_encoder_that_serves(run):
    material = Material.of(run, folds=2, reporter=Told())
    _, judged = material.episodes(QUICK, SETTINGS)
    vectors = run.heads().vectors(run.inputs(tiny_backbone()).of(FEATURES))
    rows = np.flatnonzero(judged.direction == 2)  # report→image
    expected = LAYOUT.beliefs(vectors[Modality.REPORT][VALIDATION])
    np.testing.assert_allclose(judged.batch.arrays["query"][rows], expected, atol=1e-6)


def test_a_name_that_no_variant_has_is_answered_with_those_there_are(run):
    with pytest.raises(InvalidQuery, match="sage, gcn, gat, mlp, mlp_bare"):
        trained(run, "sage", "transformer")
    assert run.rerankers() == {}


def test_a_reranker_is_the_same_whatever_was_trained_before_it(run, tmp_path):
    trained(run, "sage_shuffled", "mlp_bare")
    after: dict[str, torch.Tensor] = run.reranker("mlp_bare")[0].state_dict()
    other: Path = tmp_path / "other"
    alone = tiny_run(other)
    trained(alone, "mlp_bare")
    assert all(torch.equal(value, after[name]) for name, value in alone.reranker("mlp_bare")[0].state_dict().items())
