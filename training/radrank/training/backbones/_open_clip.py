"""An open_clip checkpoint on disk: its files, its configuration, and its keys under transformers' names.

Layout: a timm ViT under `visual.trunk`, a linear `visual.head.proj`, a Hugging Face BERT under `text.transformer`, and
an MLP `text.proj` (open_clip's TimmModel and HFTextEncoder).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from radrank.core.errors import Mismatch, NotFound

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
# logit_scale is the temperature of BiomedCLIP's own training, not a part of either tower: the heads learn their own.
# position_ids is a buffer that older versions of transformers wrote out.
IGNORED = frozenset({"logit_scale", "text.transformer.embeddings.position_ids"})

Tensors = Mapping[str, Tensor]
Table = dict[str, tuple[str, ...]]
"""From a checkpoint's key to the module's: one of them, or several when the checkpoint keeps them fused on axis 0."""


@dataclass(frozen=True, kw_only=True)
class OpenClipConfig:
    """What of open_clip_config.json the towers need. mean and std are per channel, of pixels scaled to [0, 1]."""

    embed_dim: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# A field is named by its path; older files spell the last two without `hf_`, and the text model PubMedBERT.
_EXPECTED: Mapping[tuple[str, tuple[str, ...]], tuple[str, ...]] = {
    ("vision_cfg", ("timm_model_name",)): ("vit_base_patch16_224",),
    ("vision_cfg", ("timm_pool",)): ("",),
    ("vision_cfg", ("timm_proj",)): ("linear",),
    ("text_cfg", ("hf_model_name",)): (
        "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
    ),
    ("text_cfg", ("hf_proj_type", "proj")): ("mlp",),
    ("text_cfg", ("hf_pooler_type", "pooler_type")): ("cls_last_hidden_state_pooler",),
}


def read_config(directory: Path) -> OpenClipConfig:
    """The checkpoint's configuration. Raises NotFound without the file, Mismatch for another kind of model."""
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise NotFound("weights", f"{directory} has no {CONFIG_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model, preprocess = content["model_cfg"], content["preprocess_cfg"]
        for (section, spellings), accepted in _EXPECTED.items():
            found = next((model[section][name] for name in spellings if name in model[section]), None)
            if found not in accepted:
                raise Mismatch(
                    f"{CONFIG_FILE}: {section}.{spellings[0]}", " or ".join(map(repr, accepted)), repr(found)
                )
        return OpenClipConfig(
            embed_dim=int(model["embed_dim"]),
            context_length=int(model["text_cfg"]["context_length"]),
            mean=_channels(preprocess["mean"]),
            std=_channels(preprocess["std"]),
        )
    except KeyError as error:
        raise Mismatch(CONFIG_FILE, f"the field {error.args[0]}", "none") from error
    except (TypeError, ValueError) as error:
        raise Mismatch(CONFIG_FILE, "open_clip's configuration, in JSON", "something else") from error


def weight_file(directory: Path) -> Path:
    """The checkpoint's weights; safetensors when both are there. Raises NotFound when neither is."""
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise NotFound("weights", f"{directory} has neither {' nor '.join(WEIGHT_FILES)}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file but the ignored ones, as float32. A pickle is read with weights_only.

    Raises Mismatch when the file is damaged or holds anything else.
    """
    try:
        loaded: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise Mismatch(path.name, "a state dict of tensors, and nothing else", "a file that is not one") from error
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise Mismatch(path.name, "a state dict of tensors, and nothing else", "other objects")
    return {key: tensor.float() for key, tensor in loaded.items() if key not in IGNORED}


def shape_of(tensors: Tensors, key: str, dims: int) -> tuple[int, ...]:
    """Shape of a tensor that sizes are read from. Raises Mismatch when it is missing or has other than `dims` axes."""
    if key not in tensors:
        raise Mismatch("checkpoint", f"the key {key}", "none")
    shape = tuple(tensors[key].shape)
    if len(shape) != dims:
        raise Mismatch(f"checkpoint: {key}", f"{dims} axes", f"shape {list(shape)}")
    return shape


def count_layers(tensors: Tensors, prefix: str) -> int:
    """How many layers `prefix`N. there are, by the highest N."""
    numbers = (key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix))
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def image_table(layers: int) -> Table:
    """timm's VisionTransformer, which fuses query, key and value, to transformers' ViTModel (5.x)."""
    table: Table = {
        "visual.trunk.cls_token": ("trunk.embeddings.cls_token",),
        "visual.trunk.pos_embed": ("trunk.embeddings.position_embeddings",),
        "visual.head.proj.weight": ("projection.weight",),
    }
    modules: Table = {
        "patch_embed.proj": ("embeddings.patch_embeddings.projection",),
        "norm": ("layernorm",),
    }
    for n in range(layers):
        modules |= {
            f"blocks.{n}.norm1": (f"layers.{n}.layernorm_before",),
            f"blocks.{n}.attn.qkv": tuple(f"layers.{n}.attention.{part}_proj" for part in "qkv"),
            f"blocks.{n}.attn.proj": (f"layers.{n}.attention.o_proj",),
            f"blocks.{n}.norm2": (f"layers.{n}.layernorm_after",),
            f"blocks.{n}.mlp.fc1": (f"layers.{n}.mlp.fc1",),
            f"blocks.{n}.mlp.fc2": (f"layers.{n}.mlp.fc2",),
        }
    for timm_name, names in modules.items():
        for part in ("weight", "bias"):
            table[f"visual.trunk.{timm_name}.{part}"] = tuple(f"trunk.{name}.{part}" for name in names)
    return table


def text_table(tower: nn.Module) -> Table:
    """open_clip's HFTextEncoder keeps Hugging Face's names: only the prefixes differ."""
    return {
        f"text.{key}" if key.startswith("transformer.") else f"text.{key.replace('projection', 'proj')}": (key,)
        for key in tower.state_dict()
    }


def fill(tower: nn.Module, tensors: Tensors, table: Table) -> None:
    """Give the tower the checkpoint's tensors, every one of them and no other; they are shared, not copied.

    Raises Mismatch, in the checkpoint's own names, for a missing or unexpected key and for a wrong shape.
    """
    if missing := sorted(table.keys() - tensors.keys()):
        raise Mismatch("checkpoint", f"the key {missing[0]}{_and_more(missing)}", "none")
    if unexpected := sorted(tensors.keys() - table.keys()):
        raise Mismatch("checkpoint", "no other keys", f"{unexpected[0]}{_and_more(unexpected)}")
    own = tower.state_dict()
    state: dict[str, Tensor] = {}
    for key, names in table.items():
        rows, *rest = own[names[0]].shape
        if list(tensors[key].shape) != [rows * len(names), *rest]:
            raise Mismatch(f"checkpoint: {key}", f"shape {[rows * len(names), *rest]}", f"{list(tensors[key].shape)}")
        state |= dict(zip(names, tensors[key].chunk(len(names)), strict=True))
    tower.load_state_dict(state, assign=True)


def _and_more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
