"""From a run to a bundle: whole and checked, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.made_up import (
    AFTER,
    DIMENSIONS,
    KINDS,
    LAYOUT,
    SETTINGS,
    tiny_backbone,
    tiny_bundle,
    tiny_reranker,
    tiny_run,
)
from radrank.core.errors import InvalidQuery, Mismatch
from radrank.core.graph import GraphBatch
from radrank.core.studies import Modality
from radrank.engines.bundle import EngineMessages, EngineReranker, open_bundle
from radrank.engines.engine import Model
from radrank.engines.manifest import MANIFEST, BundleManifest, read_manifest
from radrank.export import bundles
from radrank.export import onnx as exporting
from radrank.export.golden import random_batch
from radrank.training import runs
from radrank.training.features import token_ids
from radrank.training.reranker import GraphReranker
from radrank.training.runs import Run


@pytest.fixture(autouse=True)
def _tiny_backbone(monkeypatch):
    monkeypatch.setattr(runs, "load_backbone", lambda name, weights: tiny_backbone())


@pytest.fixture
def exported_before(monkeypatch):
    """The same weights were exported once already: take those files, since an export takes seconds.

    A shuffled twin is the same network, and with the same seed has the same weights.
    """
    made = tiny_bundle()  # before anything is replaced
    entries = read_manifest(made)[0].rerankers

    def taking(name: str) -> Callable[..., None]:
        return lambda *arguments: shutil.copy(made / name, arguments[-1])

    def reranker(_model: GraphReranker, _examples: object, path: Path, apart: Path) -> int:
        shutil.copy(made / path.name.replace("_shuffled", ""), path)
        told = entries[path.stem.removeprefix("reranker_").replace("_shuffled", "")].messages
        if told is None:
            return 0
        shutil.copy(made / told.file, apart)
        return told.width

    monkeypatch.setattr(bundles, "export_image_encoder", taking("image_encoder.onnx"))
    monkeypatch.setattr(bundles, "export_text_encoder", taking("text_encoder.onnx"))
    monkeypatch.setattr(bundles, "export_reranker", reranker)


def record(run: Run, kind: str, **changes: Any) -> None:
    """Changes what is written about a re-ranker."""
    path = run.path / "rerankers" / kind / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_holds_what_its_manifest_says():
    path = tiny_bundle()
    manifest, _ = read_manifest(path)
    assert set(left(path)) == {MANIFEST, *manifest.files}
    assert (manifest.name, manifest.layout, manifest.precision) == ("tiny", LAYOUT, "fp32")
    assert manifest.graph == SETTINGS
    assert manifest.text.buckets == (8, 16, 32)
    assert {kind: list(entry.inputs) for kind, entry in manifest.rerankers.items()} == {
        kind: tiny_reranker(kind).input_names for kind in KINDS
    }
    told = {kind: entry.messages for kind, entry in manifest.rerankers.items() if entry.messages}
    assert {kind: list(each.inputs) for kind, each in told.items()} == {"sage": tiny_reranker("sage").message_names}


def test_a_manifest_comes_back_from_json():
    manifest, _ = read_manifest(tiny_bundle())
    assert BundleManifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_bundle_tells_how_it_was_trained_and_how_well():
    manifest, _ = read_manifest(tiny_bundle())
    assert manifest.training["dataset"]["name"] == "made up"
    assert manifest.training["heads"]["projection"] == 8
    assert manifest.training["inputs"]["tower"]["epochs"] == 2
    assert manifest.training["sage"] == {"settings": {"epochs": 1}, "best_epoch": 1}
    assert manifest.quality["gcn"] == {"before": {"score": 0.45}, "after": {"score": AFTER["gcn"]}}


@pytest.mark.parametrize(
    "onnx_says", [lambda answer: answer + 0.01, lambda answer: answer * np.nan, lambda a: a[:, :1]]
)
def test_where_onnx_and_torch_differ_no_bundle_is_left(tmp_path, monkeypatch, onnx_says):
    class OtherEngine(exporting.CpuEngine):
        def run(self, feed):
            return {name: onnx_says(array).astype(np.float32) for name, array in super().run(feed).items()}

    run = tiny_run(tmp_path / "run")
    monkeypatch.setattr(exporting, "CpuEngine", OtherEngine)
    with pytest.raises(Mismatch, match=r"image_encoder\.onnx against torch"):
        bundles.write_bundle(run, tmp_path / "made" / "bundle")
    assert left(tmp_path / "made") == []


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_reranker_is_checked_against_torch(tmp_path, kind):
    """The file of one seed's weights does not pass for another's."""
    told = read_manifest(tiny_bundle())[0].rerankers[kind].messages
    rng, width = np.random.default_rng(0), told.width if told else 0
    batch = random_batch(rng, LAYOUT, SETTINGS, graphs=2, candidates=25, messages=width)
    path = tiny_bundle() / f"reranker_{kind}.onnx"
    for seed in (0, 1):
        trained = tiny_reranker(kind, seed=seed)
        model = exporting._Positional(trained, trained.input_names)
        feed = batch.feed(model.names)
        if seed == 0:
            exporting._check(model, path, feed)
        else:
            with pytest.raises(Mismatch, match=f"reranker_{kind}"):
                exporting._check(model, path, feed)


@pytest.mark.parametrize("name", ["mlp", "mlp_bare", "gcn_alone", "sage_shuffled"])
def test_controls_are_exported_as_the_others(tmp_path, name):
    """Those whose inputs are not a network's. Of other sizes than any that shaped or checked the export."""
    model, path, apart = tiny_reranker(name), tmp_path / "reranker.onnx", tmp_path / "messages.onnx"
    rng = np.random.default_rng(0)

    def batch(graphs: int, candidates: int) -> GraphBatch:
        return random_batch(rng, LAYOUT, SETTINGS, graphs=graphs, candidates=candidates)

    width = exporting.export_reranker(model, [batch(2, 40), batch(1, 100)], path, apart)
    assert (width > 0) == apart.exists() == (name == "mlp")
    engines = [exporting.CpuEngine(_model(file), threads=1) for file in (path, apart) if file.exists()]
    messages = EngineMessages(engines[1], "", SETTINGS) if width else None
    reranker = EngineReranker(engines[0], SETTINGS, messages)
    for graphs, candidates in ((1, 10), (4, 25), (7, 3), (2, 1)):
        whole = batch(graphs, candidates)
        with torch.inference_mode():
            feed = whole.feed(model.array_names)
            expected = model({key: torch.from_numpy(array) for key, array in feed.items()}).numpy()
        np.testing.assert_allclose(reranker.score(whole), expected, atol=1e-4, rtol=0)
        assert np.isfinite(expected).all()
    for engine in engines:
        engine.close()


def _model(path: Path) -> Model:
    return Model(name=path.stem, path=path, sha256="", precision="fp32")


def test_a_file_of_other_weights_does_not_pass_the_golden_queries(tmp_path, exported_before):
    run = tiny_run(tmp_path / "run", ["gat"])
    other = tiny_reranker("gat", seed=1)
    from safetensors.torch import save_file

    save_file(other.state_dict(), run.path / "rerankers" / "gat" / "reranker.safetensors")
    with pytest.raises(Mismatch, match="reranker_gat on onnxruntime-cpu"):
        bundles.write_bundle(run, tmp_path / "bundle")
    assert left(tmp_path) == ["run"]


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "export_image_encoder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundles.write_bundle(tiny_run(tmp_path / "run"), tmp_path / "bundle")
    assert left(tmp_path) == ["run"]


def test_a_bundle_is_never_written_over(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InvalidQuery, match="exists already"):
        bundles.write_bundle(tiny_run(tmp_path / "run"), tmp_path / "bundle")
    assert left(tmp_path / "bundle") == []


@pytest.mark.parametrize(
    ("scores", "asked", "expected"),
    [
        ({"sage": 0.47, "gcn": 0.48, "gat": 0.46}, None, "gcn"),
        ({"sage": 0.49, "gcn": 0.48, "gat": 0.46}, None, "sage"),
        ({"sage": 0.45, "gcn": 0.44, "gat": 0.45}, None, "off"),
        ({"sage": 0.47, "gcn": 0.48, "gat": 0.46}, "sage", "sage"),
        ({"sage": 0.47, "gcn": 0.48, "gat": 0.46}, "off", "off"),
    ],
)
def test_the_default_is_the_best_on_validation_or_off_or_what_was_asked(
    tmp_path, exported_before, scores, asked, expected
):
    run = tiny_run(tmp_path / "run", list(scores))
    for kind, score in scores.items():
        record(run, kind, validation={"score": score}, validation_before={"score": 0.45})
    bundle = open_bundle(bundles.write_bundle(run, tmp_path / "bundle", default=asked))
    assert bundle.default_reranker == expected
    assert set(bundle.rerankers) == set(scores)


def test_a_control_is_never_the_default_unless_asked_for_and_a_shuffled_one_reads_a_shuffled_graph(
    tmp_path, exported_before
):
    run = tiny_run(tmp_path / "run", ["gcn", "gcn_shuffled"])
    record(run, "gcn_shuffled", validation={"score": 0.9})
    path = bundles.write_bundle(run, tmp_path / "bundle")
    manifest, _ = read_manifest(path)
    assert {name: entry.shuffled for name, entry in manifest.rerankers.items()} == {
        "gcn": False,
        "gcn_shuffled": True,
    }
    bundle = open_bundle(path)
    assert bundle.default_reranker == "gcn"
    assert bundle.rerankers["gcn"].settings == manifest.graph == SETTINGS
    assert bundle.rerankers["gcn_shuffled"].settings == replace(SETTINGS, shuffled=True)
    asked = bundles.write_bundle(run, tmp_path / "asked", default="gcn_shuffled")
    assert open_bundle(asked).default_reranker == "gcn_shuffled"


def test_without_rerankers_the_default_is_off(tmp_path, exported_before):
    steps: list[str] = []
    path = bundles.write_bundle(tiny_run(tmp_path / "run"), tmp_path / "bundle", step=steps.append)
    manifest, _ = read_manifest(path)
    assert (manifest.default_reranker, dict(manifest.rerankers), manifest.name) == ("off", {}, "bundle")
    assert steps == ["loading the backbone", "image encoder", "text encoder", "golden queries"]
    open_bundle(path).warm_up()


def test_a_default_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(InvalidQuery, match="sage, off"):
        bundles.write_bundle(tiny_run(tmp_path / "run", ["sage"]), tmp_path / "bundle", default="gat")


def test_rerankers_of_different_graphs_do_not_share_a_bundle(tmp_path):
    run = tiny_run(tmp_path / "run", ["sage", "gcn"])
    record(run, "gcn", graph={"neighbours": 5})
    with pytest.raises(InvalidQuery, match="different graph settings"):
        bundles.write_bundle(run, tmp_path / "bundle")


def test_the_exported_image_encoder_is_that_of_the_run():
    """The tower as it is for the frozen features, its tuned tail beside it, and the projector over both."""
    run, backbone = Run(path=tiny_bundle().parent / "run"), tiny_backbone()
    heads, inputs = run.heads(), run.inputs(backbone)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 16, 16), dtype=np.uint8)
    with torch.inference_mode():
        maps = backbone.image_tower.stem(torch.from_numpy(pictures))
        features, beliefs = inputs.image(backbone.image_tower(torch.from_numpy(pictures)), maps)
        expected = heads(features, beliefs, Modality.IMAGE)
        whole = exporting.ImageEncoder(backbone, inputs, heads)(torch.from_numpy(pictures))
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    np.testing.assert_allclose(open_bundle(tiny_bundle()).encoder.encode_images(pictures), expected, atol=1e-5)


def test_the_exported_text_encoder_is_that_of_the_run():
    """The frozen tower and the lexicon, over the same ids; a text of no known word among them."""
    run, backbone = Run(path=tiny_bundle().parent / "run"), tiny_backbone()
    heads, inputs = run.heads(), run.inputs(backbone)
    texts = ["the lungs are clear", "large opacity left", "pneumothorax", "heart is normal " * 5]
    ids = torch.from_numpy(token_ids(backbone, texts).astype(np.int64))
    with torch.inference_mode():
        features, beliefs = inputs.report(backbone.text_tower(ids), ids)
        expected = heads(features, beliefs, Modality.REPORT)
        whole = exporting.TextEncoder(backbone, inputs, heads)(ids)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    np.testing.assert_allclose(open_bundle(tiny_bundle()).encoder.encode_texts(texts), expected, atol=1e-5)


def test_golden_vectors_are_those_of_the_encoders_over_made_up_material():
    run, backbone = Run(path=tiny_bundle().parent / "run"), tiny_backbone()
    image = exporting.ImageEncoder(backbone, run.inputs(backbone), run.heads())
    with np.load(tiny_bundle() / "golden.npz") as golden, torch.inference_mode():
        assert golden["image_vectors"].shape == golden["report_vectors"].shape == (16, DIMENSIONS)
        np.testing.assert_allclose(image(torch.from_numpy(golden["pixels"])), golden["image_vectors"], atol=1e-6)
