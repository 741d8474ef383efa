"""Opening a bundle: every file is what the manifest says, every engine answers what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.feeds import MODELS
from helpers.made_up import GROUPS, HEADS, KINDS, tiny_bundle
from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.files import file_table
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality
from radrank.engines.bundle import open_bundle
from radrank.engines.manifest import MANIFEST, BundleManifest, read_manifest
from radrank.engines.models import GRAPHS

FILES = ["image_encoder.onnx", "text_encoder.onnx", "tokenizer.json", "classifier.npz", "golden.npz"]
RERANKERS = [f"{name}.onnx" for name in MODELS if name.startswith(GRAPHS)]


@pytest.fixture
def path(tmp_path) -> Path:
    """A bundle that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(tiny_bundle())


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest."""
    found = json.loads((path / MANIFEST).read_text())
    change(found)
    (path / MANIFEST).write_text(json.dumps(found))


def rehash(path: Path) -> None:
    """Makes the manifest fit the files as they are."""
    table = file_table(path)
    del table[MANIFEST]
    edit(path, lambda found: found.update(files=table))


def test_it_opens_and_its_golden_queries_are_answered(bundle):
    bundle.warm_up()
    assert set(bundle.rerankers) == set(KINDS)
    assert bundle.default_reranker == "gcn"
    assert set(bundle.manifest.files) == {*FILES, *RERANKERS}


@pytest.mark.parametrize("name", [*FILES, *RERANKERS])
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_byte_of_any_file_is_found(path, name, place):
    content = bytearray((path / name).read_bytes())
    content[place] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(Corrupt, match=f"{name}.*sha256"):
        open_bundle(path)


@pytest.mark.parametrize("name", [*FILES, *RERANKERS])
def test_a_longer_file_is_found(path, name):
    with (path / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(Corrupt, match=f"{name}.*bytes"):
        open_bundle(path)


@pytest.mark.parametrize("name", [*FILES, *RERANKERS])
def test_a_missing_file_is_named_with_the_cure(path, name):
    (path / name).unlink()
    with pytest.raises(NotFound, match=f"{name}.*make the directory anew"):
        open_bundle(path)


def test_a_directory_that_is_no_bundle_is_answered_with_the_command(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NotFound, match="radrank export"):
            open_bundle(place)


def test_another_schema_does_not_fit(path):
    edit(path, lambda found: found.update(schema=99))
    with pytest.raises(Mismatch, match="schema: expected 3, found 99"):
        open_bundle(path)


def test_a_bundle_that_does_not_tell_its_layout_is_of_another_schema(path):
    """As bundles were before they did."""

    def before(found: dict[str, Any]) -> None:
        found |= {"schema": 1, "dimensions": VectorLayout.from_json(found.pop("layout")).dimensions}
        found["graph"] = {"neighbours": 8, "pairs": 2, "node_buckets": [64]}

    edit(path, before)
    with pytest.raises(Mismatch, match="schema: expected 3, found 1"):
        open_bundle(path)


def test_a_manifest_survives_json(bundle):
    manifest = bundle.manifest
    assert BundleManifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_the_layout_is_that_of_the_encoders_vectors(bundle):
    layout = bundle.encoder.layout
    assert layout == bundle.manifest.layout
    assert layout == VectorLayout(projection=HEADS.projection, share=HEADS.beliefs, groups=GROUPS)
    assert bundle.encoder.encode_texts(["the lungs are clear"]).shape == (1, layout.dimensions)


def test_only_the_reranker_that_says_so_reads_a_shuffled_graph(path):
    edit(path, lambda found: found["rerankers"]["gcn"].update(shuffled=True))
    bundle = open_bundle(path)
    assert {name for name, reranker in bundle.rerankers.items() if reranker.settings.shuffled} == {"gcn"}
    assert not bundle.graph.shuffled
    for name in ("gcn", "sage"):
        assert bundle.rerankers[name].settings.neighbours == bundle.graph.neighbours == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_manifest_that_is_none_is_corrupt(path, text):
    (path / MANIFEST).write_text(text)
    with pytest.raises(Corrupt, match=MANIFEST):
        open_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        {"graph": {"depth": 3}},
        {"graph": []},
        {"rerankers": []},
        {"rerankers": {"sage": {}}},
        {"layout": {}},
        {"layout": []},
        {"layout": {"projection": 8, "share": 0.3, "groups": ["opacity"], "width": 4}},
        {"text": {}},
        {"image": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_manifest_with_other_fields_is_corrupt(path, change):
    edit(path, lambda found: found.update(change))
    with pytest.raises(Corrupt, match=MANIFEST):
        open_bundle(path)


def test_a_manifest_without_a_field_is_corrupt(path):
    edit(path, lambda found: found.pop("golden"))
    with pytest.raises(Corrupt, match="golden"):
        open_bundle(path)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/../../outside.onnx"])
def test_a_listed_path_that_leads_outside_is_refused(path, name):
    (path.parent / "outside.onnx").write_bytes(b"")
    edit(path, lambda found: found["files"].update({name: {"sha256": "0", "bytes": 0}}))
    with pytest.raises(Corrupt, match="outside"):
        open_bundle(path)


def test_a_link_that_leads_outside_is_refused(path):
    shutil.move(path / "classifier.npz", path.parent / "classifier.npz")
    (path / "classifier.npz").symlink_to(path.parent / "classifier.npz")
    with pytest.raises(Corrupt, match="outside"):
        open_bundle(path)


@pytest.mark.parametrize("field", ["golden", "classifier"])
@pytest.mark.parametrize("name", ["../golden.npz", "unlisted.npz"])
def test_a_file_whose_hash_is_not_listed_is_never_read(path, field, name):
    shutil.copy(path / "golden.npz", path / name)
    edit(path, lambda found: found.update({field: name}))
    with pytest.raises(Corrupt, match="hash"):
        open_bundle(path)


@pytest.mark.parametrize(("part", "field"), [("image", "file"), ("text", "file"), ("text", "tokenizer")])
def test_an_engine_whose_hash_is_not_listed_is_never_loaded(path, part, field):
    edit(path, lambda found: found[part].update({field: "../other.onnx"}))
    with pytest.raises(Corrupt, match="hash"):
        open_bundle(path)


def test_a_reranker_whose_hash_is_not_listed_is_never_loaded(path):
    edit(path, lambda found: found["rerankers"]["sage"].update(file="other.onnx"))
    with pytest.raises(Corrupt, match="hash"):
        open_bundle(path)


def test_other_weights_under_a_right_hash_are_found_by_the_golden_queries(path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path / "reranker_gcn.onnx")
    weight = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.5), weight.name))
    onnx.save(model, path / "reranker_gcn.onnx")
    with pytest.raises(Corrupt):
        open_bundle(path)
    rehash(path)
    with pytest.raises(Mismatch, match="reranker_gcn on onnxruntime-cpu"):
        open_bundle(path).warm_up()


@pytest.mark.parametrize(
    ("array", "what"),
    [
        ("image_vectors", "image_encoder"),
        ("report_vectors", "text_encoder"),
        ("scores/gat", "reranker_gat"),
        ("messages/sage", "messages_sage"),
    ],
)
@pytest.mark.parametrize("spoilt", [lambda a: a + np.float32(0.01), lambda a: a * np.nan, lambda a: a[:, :-1]])
def test_golden_answers_that_differ_are_found(path, array, what, spoilt):
    with np.load(path / "golden.npz") as stored:
        golden = dict(stored)
    golden[array] = spoilt(golden[array])
    np.savez(path / "golden.npz", allow_pickle=False, **golden)
    rehash(path)
    with pytest.raises(Mismatch, match=what):
        open_bundle(path).warm_up()


def test_the_encoders_identity_changes_with_its_files_and_with_nothing_else(path):
    before = read_manifest(path)[0].encoder_id
    for name in ("reranker_sage.onnx", "classifier.npz", "image_encoder.onnx", "text_encoder.onnx", "tokenizer.json"):
        (path / name).write_bytes((path / name).read_bytes() + b"\n")
        rehash(path)
        after = read_manifest(path)[0].encoder_id
        assert (after != before) is (name not in ("reranker_sage.onnx", "classifier.npz"))
        before = after
    edit(path, lambda found: found["text"].update(max_tokens=7))
    assert read_manifest(path)[0].encoder_id != before


def test_a_bundles_hash_is_that_of_its_manifest(path, bundle):
    assert open_bundle(path).sha256 == bundle.sha256
    edit(path, lambda found: found.update(name="renamed"))
    assert open_bundle(path).sha256 != bundle.sha256


def test_texts_get_their_own_vectors_whatever_they_stand_beside(bundle):
    texts = ["the lungs are clear", "opacity left " * 40, "", "heart is normal", "no effusion " * 6]
    together = bundle.encoder.encode_texts(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(bundle.encoder.encode_texts([text])[0], vector, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_no_image_and_no_text_give_no_vector(bundle):
    assert bundle.encoder.encode_images(np.empty((0, 16, 16), np.uint8)).shape == (0, bundle.manifest.layout.dimensions)
    assert bundle.encoder.encode_texts([]).shape == (0, bundle.manifest.layout.dimensions)


def test_the_classifier_reads_the_belief_in_normal_from_the_vector(bundle):
    vectors = bundle.encoder.encode_texts(["the lungs are clear", "large opacity"])
    normal = bundle.encoder.layout.beliefs(vectors)[:, 0]
    assert normal[0] > 0.5 > normal[1] >= 0.0
    for m in Modality:
        expected = 1.0 / (1.0 + np.exp(-5.0 * (0.5 - normal)))
        np.testing.assert_allclose(bundle.encoder.classify(vectors, m), expected, atol=1e-6)
