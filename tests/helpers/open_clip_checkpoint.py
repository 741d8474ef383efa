"""A made-up checkpoint in open_clip's layout, spelt and stored in the ways that loading has to understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from radrank.bench import checkpoint
from radrank.bench.checkpoint import SPECIAL, Sizes, random_tensors, tokenizer

_TEXT = """
. , / - the is are of in no and with right left upper lower lobe heart size normal
lungs clear pleural effusion pneumothorax opacity small large chest tube seen ##s ##al ##ar a e i o u n t r
"""
WORDS = (*SPECIAL, *_TEXT.split())


def write_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    old_spelling: bool = False,
    safetensors: bool = False,
    **sizes: int,
) -> dict[str, Tensor]:
    """Write a checkpoint directory and return its state dict.

    old_spelling: the configuration as early releases wrote it. safetensors: weights in that format, not a pickle.
    sizes: fields of `Sizes`
    """
    shape = Sizes(**sizes)
    tensors = random_tensors(shape, seed=seed)
    directory.mkdir(parents=True, exist_ok=True)
    if safetensors:
        save_file(tensors, directory / "open_clip_pytorch_model.safetensors")
    else:
        torch.save(tensors, directory / "open_clip_pytorch_model.bin")
    (directory / "open_clip_config.json").write_text(json.dumps(config(shape.embed_dim, old_spelling=old_spelling)))
    (directory / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer(WORDS).save(str(directory / "tokenizer.json"))
    return tensors


def config(embed_dim: int = 512, *, old_spelling: bool = False) -> dict[str, Any]:
    made = checkpoint.config(embed_dim)
    if old_spelling:
        text = made["model_cfg"]["text_cfg"]
        text["hf_model_name"] = text["hf_tokenizer_name"] = text["hf_model_name"].replace("BiomedBERT", "PubMedBERT")
        text["proj"], text["pooler_type"] = text.pop("hf_proj_type"), text.pop("hf_pooler_type")
    return made
