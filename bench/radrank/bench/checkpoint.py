"""A made-up checkpoint in open_clip's layout: BiomedCLIP's files, keys and shapes, none of its knowledge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor

PATCH, GRID, POSITIONS, CONTEXT = 16, 14, 512, 256
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Where BERT's vocabularies begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """As BiomedCLIP has them: ViT-B/16 and BERT-base, a vocabulary of 30,522 words, embeddings of 512 numbers."""

    image_layers: int = 12
    text_layers: int = 12
    width: int = 768
    vocab: int = 30522
    embed_dim: int = 512


def write_checkpoint(directory: Path, sizes: Sizes, words: Sequence[str], *, seed: int = 0) -> None:
    """Writes weights, configuration and tokenizer. words: those that are one token each; see `tokenizer`."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(random_tensors(sizes, seed=seed), directory / "open_clip_pytorch_model.bin")
    (directory / "open_clip_config.json").write_text(json.dumps(config(sizes.embed_dim)), encoding="utf-8")
    made = tokenizer([*SPECIAL, *words])
    made.save(str(directory / "tokenizer.json"))


def config(embed_dim: int = 512) -> dict[str, Any]:
    """What stands in BiomedCLIP's open_clip_config.json."""
    model = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    return {
        "model_cfg": {
            "embed_dim": embed_dim,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": model,
                "hf_tokenizer_name": model,
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": CONTEXT,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }


def tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """BERT's uncased WordPiece over a vocabulary that begins with SPECIAL; it pads and truncates, as published ones
    do."""
    made = Tokenizer(WordPiece({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]"))  # noqa: S106
    made.normalizer = BertNormalizer(lowercase=True)
    made.pre_tokenizer = BertPreTokenizer()
    made.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_padding(length=CONTEXT)
    made.enable_truncation(CONTEXT)
    return made


def random_tensors(sizes: Sizes, *, seed: int) -> dict[str, Tensor]:
    """Embeddings of BERT's and timm's size (0.02), so that a wrong LayerNorm epsilon shows; other weights by fan-in."""
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {"logit_scale": torch.tensor(4.4454)}
    width, embed_dim = sizes.width, sizes.embed_dim

    def normal(key: str, *shape: int, std: float = 0.02, mean: float = 0.0) -> None:
        tensors[key] = torch.randn(*shape, generator=draw) * std + mean

    def linear(key: str, out: int, fan_in: int, *, bias: bool = True) -> None:
        normal(f"{key}.weight", out, fan_in, std=fan_in**-0.5)
        if bias:
            normal(f"{key}.bias", out, std=0.1)

    def norm(key: str) -> None:
        normal(f"{key}.weight", width, std=0.1, mean=1.0)
        normal(f"{key}.bias", width, std=0.1)

    trunk = "visual.trunk"
    normal(f"{trunk}.cls_token", 1, 1, width)
    normal(f"{trunk}.pos_embed", 1, GRID * GRID + 1, width)
    normal(f"{trunk}.patch_embed.proj.weight", width, 3, PATCH, PATCH, std=0.002)
    normal(f"{trunk}.patch_embed.proj.bias", width)
    for n in range(sizes.image_layers):
        block = f"{trunk}.blocks.{n}"
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", 4 * width, width)
        linear(f"{block}.mlp.fc2", width, 4 * width)
    norm(f"{trunk}.norm")
    linear("visual.head.proj", embed_dim, width, bias=False)

    bert = "text.transformer"
    normal(f"{bert}.embeddings.word_embeddings.weight", sizes.vocab, width)
    normal(f"{bert}.embeddings.position_embeddings.weight", POSITIONS, width)
    normal(f"{bert}.embeddings.token_type_embeddings.weight", 2, width)
    norm(f"{bert}.embeddings.LayerNorm")
    for n in range(sizes.text_layers):
        layer = f"{bert}.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", 4 * width, width)
        linear(f"{layer}.output.dense", width, 4 * width)
        norm(f"{layer}.output.LayerNorm")
    hidden = (width + embed_dim) // 2
    linear("text.proj.0", hidden, width, bias=False)
    linear("text.proj.2", embed_dim, hidden, bias=False)
    return tensors
