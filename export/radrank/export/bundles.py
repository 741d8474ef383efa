"""Writes a bundle from a run: exported, checked against torch, checked once more as it will be served."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from radrank.core.errors import InvalidQuery
from radrank.core.files import file_table, publish, write_json
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.ranking import OFF
from radrank.core.studies import Modality
from radrank.engines.bundle import open_bundle
from radrank.engines.manifest import (
    MANIFEST,
    BundleManifest,
    ImageEncoderEntry,
    MessagesEntry,
    RerankerEntry,
    TextEncoderEntry,
)
from radrank.engines.models import MESSAGES_OF, RERANKER
from radrank.engines.plans import plans_of
from radrank.engines.runtimes import EngineSettings
from radrank.export.golden import golden_queries, random_batch
from radrank.export.onnx import ImageEncoder, TextEncoder, export_image_encoder, export_reranker, export_text_encoder
from radrank.training.backbones import Backbone
from radrank.training.heads import Heads
from radrank.training.inputs import HeadInputs
from radrank.training.reranker import SERVED, GraphReranker
from radrank.training.runs import Run

Step = Callable[[str], None]
"""Told the name of each step as it begins."""


def write_bundle(run: Run, to: Path, *, name: str = "", default: str | None = None, step: Step | None = None) -> Path:
    """Exports all of a run into the new directory `to`, which appears only when everything in it has been checked.

    default: the re-ranker that serves where a request names none; None for the best on validation, or "off" where none
    beats the encoder's own order. Raises Mismatch where ONNX and torch disagree; InvalidQuery where `to` exists.
    """
    tell = step or (lambda _: None)
    if to.exists():
        raise InvalidQuery("to", f"{to} exists already; bundles are never changed, choose another directory")
    record = run.record
    trained = {kind: run.reranker(kind) for kind in run.rerankers()}
    best = _best({kind: found for kind, (_, found) in trained.items()})
    if default not in (None, OFF, *trained):
        raise InvalidQuery("default", f"must be one of: {', '.join([*trained, OFF])}")
    tell("loading the backbone")
    backbone, heads = run.backbone(), run.heads()
    inputs = run.inputs(backbone)
    models = {kind: model for kind, (model, _) in trained.items()}
    graph = _graph_settings(trained)
    to.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=to.parent))
    try:
        rerankers = _write_files(building, backbone, inputs, heads, models, graph, tell)
        manifest = BundleManifest(
            name=name or to.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            layout=heads.layout,
            precision="fp32",
            image=ImageEncoderEntry(file="image_encoder.onnx", size=backbone.preprocessing.image_size),
            text=TextEncoderEntry(
                file="text_encoder.onnx",
                tokenizer="tokenizer.json",
                pad_id=backbone.pad_id,
                max_tokens=backbone.max_tokens,
                buckets=backbone.text_buckets,
            ),
            classifier="classifier.npz",
            rerankers=rerankers,
            default_reranker=default or best,
            graph=graph,
            golden="golden.npz",
            training={key: record[key] for key in ("dataset", "backbone", "versions")}
            | {"heads": record["heads"]["settings"], "inputs": record["inputs"]}
            | {
                kind: {"settings": found["settings"], "best_epoch": found["best_epoch"]}
                for kind, (_, found) in trained.items()
            },
            quality={"heads": record["heads"]["validation"]}
            | {
                kind: {"before": found["validation_before"], "after": found["validation"]}
                for kind, (_, found) in trained.items()
            },
            files=file_table(building),
        )
        write_json(building / MANIFEST, manifest.to_json())
        tell("golden queries")
        bundle = open_bundle(building, EngineSettings(plans=plans_of(to)))  # what engines keep is there to be served
        bundle.warm_up()
        bundle.close()
        publish(building, to)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return to


def _write_files(
    building: Path,
    backbone: Backbone,
    inputs: HeadInputs,
    heads: Heads,
    models: dict[str, GraphReranker],
    graph: GraphSettings,
    tell: Step,
) -> dict[str, RerankerEntry]:
    image, text = ImageEncoder(backbone, inputs, heads), TextEncoder(backbone, inputs, heads)
    tell("image encoder")
    export_image_encoder(image, backbone.preprocessing.image_size, building / "image_encoder.onnx")
    tell("text encoder")
    export_text_encoder(text, backbone, building / "text_encoder.onnx")
    (building / "tokenizer.json").write_text(backbone.tokenizer_json, encoding="utf-8")
    np.savez(building / "classifier.npz", allow_pickle=False, **heads.classifier_arrays())
    rerankers = {}
    for kind, model in models.items():
        tell(f"re-ranker {kind}")
        rerankers[kind] = _write_reranker(building, kind, model, heads.layout, graph)
    golden = golden_queries(backbone, {Modality.IMAGE: image, Modality.REPORT: text}, heads.layout, models, graph)
    np.savez(building / "golden.npz", allow_pickle=False, **golden)
    return rerankers


def _write_reranker(
    building: Path, kind: str, model: GraphReranker, layout: VectorLayout, graph: GraphSettings
) -> RerankerEntry:
    rng = np.random.default_rng(0)
    examples = [
        random_batch(rng, layout, graph, graphs=graphs, candidates=candidates)
        for graphs, candidates in ((2, 40), (1, 100), (5, 25))
    ]
    file, apart = f"{RERANKER}{kind}.onnx", f"{MESSAGES_OF}{kind}.onnx"
    width = export_reranker(model, examples, building / file, building / apart)
    return RerankerEntry(
        file=file,
        inputs=tuple(model.input_names),
        shuffled=model.shape.variant.shuffled,
        messages=MessagesEntry(file=apart, inputs=tuple(model.message_names), width=width) if width else None,
    )


def _best(trained: dict[str, dict[str, Any]]) -> str:
    gains = {
        kind: found["validation"]["score"] - found["validation_before"]["score"]
        for kind, found in trained.items()
        if kind in SERVED
    }
    best = max(gains, key=lambda kind: gains[kind], default=OFF)
    return best if gains.get(best, 0.0) > 0.0 else OFF


def _graph_settings(trained: dict[str, tuple[GraphReranker, dict[str, Any]]]) -> GraphSettings:
    """The settings that all re-rankers were trained with."""
    found = [record["graph"] for _, record in trained.values()]
    if any(other != found[0] for other in found):
        raise InvalidQuery(
            "run", "its re-rankers were trained with different graph settings; train them again together"
        )
    return GraphSettings.from_json(found[0]) if found else GraphSettings()
