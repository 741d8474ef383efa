"""A run's encoders as torch modules that are fast: what users of torch would call."""

from __future__ import annotations

from typing import Any

from radrank.core.studies import Modality
from radrank.export.onnx import ImageEncoder, TextEncoder
from radrank.training.backbones import Backbone
from radrank.training.runs import Run


def encoders(run: Run, backbone: Backbone) -> dict[Modality, ImageEncoder | TextEncoder]:
    """Both towers with their heads, on the run's backbone, with torch's fused attention."""
    heads, inputs = run.heads(), run.inputs(backbone)
    found: dict[Modality, ImageEncoder | TextEncoder] = {
        Modality.IMAGE: ImageEncoder(backbone, inputs, heads).eval(),
        Modality.REPORT: TextEncoder(backbone, inputs, heads).eval(),
    }
    for module in (part for encoder in found.values() for part in encoder.modules()):
        config: Any = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = "sdpa"  # training keeps "eager" attention, for the export
    return found
