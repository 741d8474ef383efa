"""Frozen features of a few studies, and the run directory that keeps them and what was trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields

import numpy as np
import pytest
import torch

from helpers.doubles import picture, study
from helpers.made_up import (
    HEADS,
    LAYOUT,
    SETTINGS,
    TOWER,
    feature_set,
    tiny_backbone,
    tiny_inputs,
    tiny_reranker,
    tiny_run,
)
from radrank.core.errors import NotFound
from radrank.core.graph import GraphSettings
from radrank.core.studies import Modality, Split, Study, StudyImage, View
from radrank.datasets import pixels
from radrank.training import runs
from radrank.training.backbones import embed_texts
from radrank.training.features import MAPS, FeatureSet, extract, token_ids
from radrank.training.heads import Epoch
from radrank.training.runs import Run, save_reranker

Extracted = tuple[FeatureSet, list[tuple[str, str]], Counter[tuple[str, int]]]
BROKEN = b"\x89PNG\r\n\x1a\n and nothing more"


def image(view: View, content: bytes | None = None) -> StudyImage:
    return StudyImage(image_id=view.value, content=content or picture(len(view.value)), view=view)


STUDIES = [
    study(0, images=1, labels=("opacity",), normal=False, split=Split.TEST, report="opacity left"),
    Study(study_id="two", images=(image(View.LATERAL), image(View.AP)), findings="the lungs are clear", normal=True),
    Study(study_id="broken", images=(image(View.PA, BROKEN), image(View.LATERAL), image(View.AP)), labels=("edema",)),
    Study(study_id="all broken", images=(image(View.PA, BROKEN),), findings="the lungs", impression="are clear"),
    Study(study_id="no image", findings="the lungs are clear", normal=True),
]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Extracted:
    bad: list[tuple[str, str]] = []
    done: Counter[tuple[str, int]] = Counter()

    @contextmanager
    def task(label: str, total: int) -> Iterator[Callable[[], None]]:
        yield lambda: done.update([(label, total)])

    found = extract(
        iter(STUDIES),
        tiny_backbone(),
        tmp_path_factory.mktemp("extracted"),
        expected=5,
        on_bad=lambda study_id, reason: bad.append((study_id, reason)),
        task=task,
    )
    return found, bad, done


def test_every_image_and_report_that_can_be_read_is_an_item(extracted):
    features, _, _ = extracted
    assert features.study_ids == ("S0000", "two", "broken", "all broken", "no image")
    assert features.study[Modality.IMAGE].tolist() == [0, 1, 1, 2, 2]
    assert features.study[Modality.REPORT].tolist() == [0, 1, 3, 4]
    assert features.features[Modality.IMAGE].shape == (5, 12)
    assert features.features[Modality.REPORT].shape == (4, 10)


def test_progress_is_told_by_study_and_by_report(extracted):
    assert extracted[2] == {("images", 5): 5, ("reports", 4): 4}


def test_labels_normals_and_splits_are_the_studies(extracted):
    features, _, _ = extracted
    assert features.groups == ("edema", "opacity")
    assert features.labels.astype(int).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert features.normal.tolist() == [-1, 1, 0, 0, 1]
    assert features.splits[0] is Split.TEST
    assert features.of_split(Split.TEST)[0] == 0


def test_a_broken_image_is_told_and_the_best_of_the_others_stands_for_its_study(extracted):
    features, bad, _ = extracted
    assert [study_id for study_id, _ in bad] == ["broken", "all broken"]
    assert all("broken or truncated" in reason for _, reason in bad)
    # two: AP, the second; broken: AP, since its PA is broken, and not the lateral before it.
    assert features.primary.tolist() == [True, False, True, False, True]


def test_reports_that_repeat_word_for_word_share_a_text(extracted):
    features, _, _ = extracted
    same = features.same_text
    assert same[1] == same[3] != same[2]  # findings and impression are two lines: other words
    assert same[0] not in same[1:]


def test_features_are_the_towers_own(extracted):
    features, _, _ = extracted
    backbone = tiny_backbone()
    decoded = pixels.load(STUDIES[0].images[0].read(), 16)
    with torch.inference_mode():
        expected = backbone.image_tower(torch.from_numpy(decoded[None].copy())).numpy()[0]
    np.testing.assert_allclose(features.features[Modality.IMAGE][0], expected, atol=1e-6)
    expected = embed_texts(backbone, [STUDIES[3].report])[0]
    np.testing.assert_allclose(features.features[Modality.REPORT][2], expected, atol=1e-6)


def test_maps_are_the_stems_own_and_lie_in_a_file(extracted):
    features, _, _ = extracted
    assert isinstance(features.maps, np.memmap)
    assert (features.maps.dtype, features.maps.shape) == (np.float16, (5, *tiny_backbone().map_shape))
    decoded = pixels.load(STUDIES[0].images[0].read(), 16)
    with torch.inference_mode():
        expected = tiny_backbone().image_tower.stem(torch.from_numpy(decoded[None].copy())).half().numpy()[0]
    assert np.array_equal(features.maps[0], expected)


def test_tokens_are_the_reports_words_padded_to_the_longest(extracted):
    features, _, _ = extracted
    assert (features.tokens.dtype, features.pad_id) == (np.int32, 0)
    # opacity left; the lungs are clear; the lungs\nare clear; the lungs are clear
    assert features.tokens.tolist() == [[10, 11, 0, 0], [2, 3, 4, 5], [2, 3, 4, 5], [2, 3, 4, 5]]


def test_a_text_longer_than_the_tower_reads_is_cut():
    assert token_ids(tiny_backbone(), ["clear " * 40, "heart"]).shape == (2, 32)


def test_a_data_set_without_images_or_reports_has_features_of_neither(tmp_path):
    silent = nullcontext(lambda: None)
    found = extract(
        [Study(study_id="bare")], tiny_backbone(), tmp_path, expected=1, on_bad=print, task=lambda label, total: silent
    )
    assert {m: array.shape for m, array in found.features.items()} == {
        Modality.IMAGE: (0, 12),
        Modality.REPORT: (0, 10),
    }
    assert (len(found.same_text), len(found.primary), len(found.tokens), len(found.maps)) == (0, 0, 0, 0)


def test_features_come_back_as_they_were_saved(tmp_path):
    features = feature_set()
    features.maps.tofile(tmp_path / MAPS)  # as extract left it
    features.save(tmp_path / "features.npz")
    loaded = FeatureSet.load(tmp_path / "features.npz")
    for field in fields(FeatureSet):
        kept, found = getattr(features, field.name), getattr(loaded, field.name)
        if isinstance(kept, dict):
            assert all(np.array_equal(kept[m], found[m]) and kept[m].dtype == found[m].dtype for m in Modality)
        elif isinstance(kept, np.ndarray):
            assert np.array_equal(kept, found)
            assert kept.dtype == found.dtype
        else:
            assert kept == found


def test_heads_come_back_as_they_were_saved(tmp_path):
    read = tiny_inputs().of(feature_set())
    run = tiny_run(tmp_path / "run")
    first, second = run.heads().vectors(read), Run(path=run.path).heads().vectors(read)
    assert all(np.array_equal(first[m], second[m]) for m in Modality)
    assert run.head_settings == run.heads().settings == HEADS
    assert run.heads().layout == LAYOUT
    assert not run.heads().training


def test_inputs_come_back_as_they_were_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())
    run = tiny_run(tmp_path / "run")
    loaded, kept = run.inputs(run.backbone()), tiny_inputs()
    assert run.tower_settings == TOWER
    assert (loaded.widths, loaded.training) == (kept.widths, False)
    expected, found = kept.of(feature_set()), loaded.of(feature_set())
    for m in Modality:
        assert np.array_equal(found[m].features, expected[m].features)
        assert np.array_equal(found[m].beliefs, expected[m].beliefs)


def test_a_reranker_comes_back_as_it_was_saved(tmp_path):
    run = tiny_run(tmp_path / "run")
    log = [Epoch(epoch=0, loss=float("nan"), score=0.4, best=True), Epoch(epoch=1, loss=0.9, score=0.5, best=True)]
    folder = save_reranker(
        run,
        tiny_reranker("gat", seed=9),
        settings={"epochs": 1},
        graph=SETTINGS,
        epoch=1,
        log=log,
        quality={"score": 0.5},
        before={"score": 0.4},
    )
    assert run.rerankers() == {"gat": folder}
    model, record = run.reranker("gat")
    expected = tiny_reranker("gat", seed=9).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert (model.shape, model.training) == (tiny_reranker("gat").shape, False)
    assert GraphSettings.from_json(record["graph"]) == SETTINGS
    assert (record["best_epoch"], record["validation"], record["validation_before"]) == (
        1,
        {"score": 0.5},
        {"score": 0.4},
    )
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert lines[0] == '{"epoch": 0, "loss": null, "score": 0.4, "best": true}'
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_folds_come_back_as_they_were_saved_and_no_others(tmp_path):
    rng = np.random.default_rng(0)
    folds = [(np.arange(3 * k, 3 * k + 3, dtype=np.int32), {m: rng.random((5, 4)) for m in Modality}) for k in range(3)]
    run = Run(path=tmp_path)
    assert run.folds(3) is None
    run.save_folds(folds)
    for (studies, vectors), (kept, others) in zip(folds, run.folds(3) or [], strict=True):
        assert np.array_equal(studies, kept)
        assert all(np.array_equal(vectors[m], others[m]) for m in Modality)
    assert run.folds(2) is run.folds(4) is None


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(NotFound, match="radrank train heads"):
        Run(path=tmp_path).heads()
    run = tiny_run(tmp_path / "run")
    assert run.rerankers() == {}
    with pytest.raises(NotFound, match=f"radrank train reranker sage --run {run.path}"):
        run.reranker("sage")
