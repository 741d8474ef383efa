"""BiomedCLIP (Zhang et al., NEJM AI 2025): ViT-B/16 and BiomedBERT, aligned on 15 million figures of PubMed Central.

The towers end in its own projections: their outputs are CLIP embeddings, before normalisation. Sizes are read from the
checkpoint's shapes, so a checkpoint of the same layout with other widths or depths loads too.
"""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor, nn, zeros_like
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from radrank.core.errors import Mismatch, NotFound
from radrank.training.backbones._base import (
    Backbone,
    GrayToRgb,
    Preprocessing,
    StagedTower,
    additive_mask,
    buckets_up_to,
    freeze,
    plain_tokenizer,
    provenance_of,
)
from radrank.training.backbones._open_clip import (
    CONFIG_FILE,
    WEIGHT_FILES,
    OpenClipConfig,
    Tensors,
    count_layers,
    fill,
    image_table,
    read_config,
    read_tensors,
    shape_of,
    text_table,
    weight_file,
)

HUB_ID = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
TAIL = 2  # blocks in the tail, or as many as there are: a sixth of ViT-B's weights and of its work
PAD_ID = 0
HEAD_WIDTH = 64  # of ViT-B and of BERT-base


class ImageStem(nn.Module):
    """timm's `vit_base_patch16_224` on the modules of transformers' ViTModel, up to the last TAIL blocks.

    No attention mask, here or in the tail: ViTModel makes none either when every patch is seen.
    """

    def __init__(self, trunk: ViTModel, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.rgb = GrayToRgb(preprocessing)
        self.embeddings = trunk.embeddings
        self.blocks = nn.Sequential(*_split(trunk)[0])

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S] → float32 [B, P, width]: the class token, then the patches."""
        states: Tensor = self.blocks(self.embeddings(self.rgb(pixels)))
        return states


class ImageTail(nn.Module):
    """The last blocks, and the class token after the last norm, projected: what the tower tuning trains."""

    def __init__(self, trunk: ViTModel, projection: nn.Linear) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_split(trunk)[1])
        self.norm = trunk.layernorm
        self.projection = projection

    def forward(self, states: Tensor) -> Tensor:
        """float32 [B, P, width] → float32 [B, embed_dim]."""
        projected: Tensor = self.projection(self.norm(self.blocks(states)[:, 0]))
        return projected


class TextTower(nn.Module):
    """BiomedBERT's last hidden state at [CLS], through open_clip's two-layer projection."""

    def __init__(self, config: BertConfig, hidden: int, embed_dim: int) -> None:
        super().__init__()
        self.transformer = BertModel(config, add_pooling_layer=False)
        self.transformer.set_attn_implementation("eager")
        self.projection = nn.Sequential(
            nn.Linear(config.hidden_size, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T] → float32 [B, embed_dim]."""
        mask = additive_mask(ids != PAD_ID)
        output = self.transformer(input_ids=ids, token_type_ids=zeros_like(ids), attention_mask=mask)
        projected: Tensor = self.projection(output.last_hidden_state[:, 0])
        return projected


def load(weights: str | Path | None = None) -> Backbone:
    """The backbone from a directory or a hub id with open_clip's files; None is Microsoft's own on the hub.

    Raises NotFound when they can't be had, Mismatch when they are not a checkpoint of this layout.
    """
    directory, source = _locate(HUB_ID if weights is None else weights)
    config = read_config(directory)
    path = weight_file(directory)
    tensors = read_tensors(path)
    image = {key: tensor for key, tensor in tensors.items() if key.startswith("visual.")}
    text = {key: tensor for key, tensor in tensors.items() if not key.startswith("visual.")}
    preprocessing = Preprocessing(image_size=_image_size(image), mean=config.mean, std=config.std)
    text_tower = _text_tower(text, config)
    return Backbone(
        name="biomedclip",
        provenance=provenance_of(source, [path]),
        image_tower=freeze(_image_tower(image, config, preprocessing)),
        text_tower=freeze(text_tower),
        image_width=config.embed_dim,
        text_width=config.embed_dim,
        preprocessing=preprocessing,
        tokenizer_json=plain_tokenizer(_tokenizer(directory, shape_of(text, _WORDS, 2)[0])),
        pad_id=PAD_ID,
        max_tokens=config.context_length,
        text_buckets=buckets_up_to(config.context_length),
    )


def _locate(weights: str | Path) -> tuple[Path, str]:
    """Directory with the checkpoint's files, and the name of their source."""
    if Path(weights).is_dir():
        return Path(weights), f"directory {Path(weights).name}"
    if isinstance(weights, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights):
        raise NotFound("weights", f"{weights} is neither a directory nor a Hugging Face hub id")
    small = [CONFIG_FILE, "tokenizer.json", "vocab.txt"]
    try:
        for name in WEIGHT_FILES:  # one, not both: they hold the same 784 MB
            directory = Path(snapshot_download(weights, allow_patterns=[*small, name]))
            if (directory / name).is_file():
                break
    except (OSError, HFValidationError) as error:
        raise NotFound(
            "weights",
            f"{weights} is not in the local cache and could not be fetched from the Hugging Face hub; where there is a "
            f'network, run "hf download {weights} --local-dir DIR", bring DIR here and pass --weights DIR',
        ) from error
    return directory, f"{weights} at revision {directory.name}"


_POSITIONS = "visual.trunk.pos_embed"
_PATCHES = "visual.trunk.patch_embed.proj.weight"
_WORDS = "text.transformer.embeddings.word_embeddings.weight"


def _image_size(tensors: Tensors) -> int:
    """Side in pixels: a square grid of patches, and one position more for the class token."""
    positions = shape_of(tensors, _POSITIONS, 3)[1] - 1
    grid = isqrt(max(positions, 0))
    if grid < 1 or grid * grid != positions:
        raise Mismatch(f"checkpoint: {_POSITIONS}", "a square number of patches and one", f"{positions + 1} positions")
    return grid * shape_of(tensors, _PATCHES, 4)[2]


def _image_tower(tensors: Tensors, config: OpenClipConfig, preprocessing: Preprocessing) -> StagedTower:
    width, channels, patch, _ = shape_of(tensors, _PATCHES, 4)
    layers = count_layers(tensors, "visual.trunk.blocks.")
    vit = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=_heads(width, _PATCHES),
        intermediate_size=shape_of(tensors, "visual.trunk.blocks.0.mlp.fc1.weight", 2)[0],
        layer_norm_eps=1e-6,  # timm's; transformers' default is 1e-12
        image_size=preprocessing.image_size,
        patch_size=patch,
        num_channels=channels,
    )
    trunk = ViTModel(vit, add_pooling_layer=False)
    trunk.set_attn_implementation("eager")  # exports as MatMul, Softmax, MatMul
    projection = nn.Linear(width, config.embed_dim, bias=False)
    fill(nn.ModuleDict({"trunk": trunk, "projection": projection}), tensors, image_table(layers))
    return StagedTower(ImageStem(trunk, preprocessing), ImageTail(trunk, projection))


def _split(trunk: ViTModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """The stem's blocks, which may be none, and the tail's."""
    blocks = list(trunk.layers)
    first = max(len(blocks) - TAIL, 0)
    return blocks[:first], blocks[first:]


def _text_tower(tensors: Tensors, config: OpenClipConfig) -> TextTower:
    words, width = shape_of(tensors, _WORDS, 2)
    positions = shape_of(tensors, "text.transformer.embeddings.position_embeddings.weight", 2)[0]
    if positions < config.context_length:
        raise Mismatch("checkpoint", f"a position for each of {config.context_length} tokens", f"{positions} positions")
    bert = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=count_layers(tensors, "text.transformer.encoder.layer."),
        num_attention_heads=_heads(width, _WORDS),
        intermediate_size=shape_of(tensors, "text.transformer.encoder.layer.0.intermediate.dense.weight", 2)[0],
        max_position_embeddings=positions,
        type_vocab_size=shape_of(tensors, "text.transformer.embeddings.token_type_embeddings.weight", 2)[0],
        layer_norm_eps=1e-12,
        pad_token_id=PAD_ID,
    )
    tower = TextTower(bert, shape_of(tensors, "text.proj.0.weight", 2)[0], config.embed_dim)
    fill(tower, tensors, text_table(tower))
    return tower


def _heads(width: int, key: str) -> int:
    if width % HEAD_WIDTH:
        raise Mismatch(f"checkpoint: {key}", f"a width that is a multiple of {HEAD_WIDTH}", str(width))
    return width // HEAD_WIDTH


def _tokenizer(directory: Path, words: int) -> Tokenizer:
    """tokenizer.json, or BERT's uncased WordPiece over vocab.txt. Raises Mismatch when it is not this checkpoint's."""
    if (directory / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    elif (directory / "vocab.txt").is_file():
        word_piece = BertWordPieceTokenizer(str(directory / "vocab.txt"), lowercase=True)
        tokenizer = Tokenizer.from_str(word_piece.to_str())
    else:
        raise NotFound("tokenizer", f"{directory} has neither tokenizer.json nor vocab.txt")
    if tokenizer.get_vocab_size() > words:
        raise Mismatch("tokenizer", f"at most the checkpoint's {words} words", str(tokenizer.get_vocab_size()))
    if tokenizer.token_to_id("[PAD]") != PAD_ID:
        raise Mismatch("tokenizer", f"[PAD] to be token {PAD_ID}", str(tokenizer.token_to_id("[PAD]")))
    return tokenizer
