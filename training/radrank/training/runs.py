"""A run directory: everything one training left, and all that a re-ranker or an export needs.

RUN/run.json                 data set, backbone, heads' settings, counts, versions, quality
    features.npz             frozen features (made from the data set: under its licence, not to be passed on)
    maps.f16                 the image tower's maps, which tuning reads (of the data set, likewise)
    inputs.safetensors       the tuned image tower, the lexicon, and what scales their outputs
    heads.safetensors        heads_log.jsonl  heads_curves.png
    folds.npz                vectors of the data set by cross-fitted encoders, which re-rankers train on (likewise)
    rerankers/<name>/settings.json  reranker.safetensors  log.jsonl  curves.png
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from radrank.core.errors import NotFound
from radrank.core.files import write_json
from radrank.core.graph import GraphSettings
from radrank.core.studies import Modality
from radrank.core.vectors import Matrix
from radrank.training.backbones import Backbone, load_backbone
from radrank.training.features import MAPS, FeatureSet
from radrank.training.heads import Epoch, Heads, HeadSettings, LossWeights
from radrank.training.inputs import HeadInputs, empty_inputs
from radrank.training.reranker import GraphReranker, RerankerShape
from radrank.training.tower import TowerSettings

Fold = tuple[NDArray[np.int32], Mapping[Modality, Matrix]]
"""Training studies, and the vectors of every item by an encoder that has not seen them."""

FEATURES, FOLDS = "features.npz", "folds.npz"
_VERSIONS = ("torch", "transformers", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run directory that holds trained heads."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        source = self.path / "run.json"
        if not source.is_file():
            raise NotFound(f"run {self.path}", "train one: radrank train heads --help")
        found: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        return found

    @property
    def head_settings(self) -> HeadSettings:
        stored = self.record["heads"]["settings"]
        return HeadSettings(**{**stored, "losses": LossWeights(**stored["losses"])})

    @property
    def tower_settings(self) -> TowerSettings:
        return TowerSettings(**self.record["inputs"]["tower"])

    def backbone(self) -> Backbone:
        """The backbone that the run stands on, loaded."""
        found = self.record["backbone"]
        return load_backbone(found["name"], weights=found["weights"])

    @property
    def features(self) -> FeatureSet:
        return FeatureSet.load(self.path / FEATURES)

    def lend_features(self, to: Path) -> FeatureSet:
        """The features, standing in the directory of another run too."""
        for name in (FEATURES, MAPS):
            (to / name).unlink(missing_ok=True)
            try:
                os.link(self.path / name, to / name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(self.path / name, to / name)
        return FeatureSet.load(to / FEATURES)

    def inputs(self, backbone: Backbone) -> HeadInputs:
        """What stands between this backbone's towers and the heads."""
        stored = load_file(self.path / "inputs.safetensors")
        inputs = empty_inputs(
            backbone.image_tower.tail,
            image_width=backbone.image_width,
            text_width=backbone.text_width,
            groups=len(self.record["heads"]["groups"]),
            words=len(stored["report.labeller.lexicon.vocabulary"]),
            settings=self.tower_settings,
        )
        inputs.load_state_dict(stored)
        return inputs

    def heads(self) -> Heads:
        found = self.record["heads"]
        widths = {Modality(name): width for name, width in found["widths"].items()}
        heads = Heads(widths, found["groups"], self.head_settings)
        heads.load_state_dict(load_file(self.path / "heads.safetensors"))
        return heads.eval()

    def folds(self, count: int) -> list[Fold] | None:
        """The folds of cross-fitting kept here, None where there are not `count` of them."""
        source = self.path / FOLDS
        if not source.is_file():
            return None
        with np.load(source) as stored:
            if f"{count - 1}/studies" not in stored or f"{count}/studies" in stored:
                return None
            return [(stored[f"{k}/studies"], {m: stored[f"{k}/{m}"] for m in Modality}) for k in range(count)]

    def save_folds(self, folds: Sequence[Fold]) -> None:
        arrays: dict[str, NDArray[Any]] = {f"{k}/studies": studies for k, (studies, _) in enumerate(folds)}
        arrays |= {f"{k}/{m}": vectors[m] for k, (_, vectors) in enumerate(folds) for m in Modality}
        np.savez(self.path / FOLDS, allow_pickle=False, **arrays)

    def rerankers(self) -> dict[str, Path]:
        """Directories of the re-rankers trained so far, by name."""
        return {path.parent.name: path.parent for path in sorted(self.path.glob("rerankers/*/settings.json"))}

    def reranker(self, kind: str) -> tuple[GraphReranker, dict[str, Any]]:
        """A trained re-ranker and its record."""
        folder = self.path / "rerankers" / kind
        if not (folder / "settings.json").is_file():
            raise NotFound(
                f"re-ranker {kind} in {self.path}", f"train it: radrank train reranker {kind} --run {self.path}"
            )
        record: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        model = GraphReranker(RerankerShape(**record["shape"]))
        model.load_state_dict(load_file(folder / "reranker.safetensors"))
        return model.eval(), record


def save_heads(
    path: Path,
    heads: Heads,
    inputs: HeadInputs,
    *,
    tower: TowerSettings,
    log: Sequence[Epoch],
    quality: Mapping[str, float],
    dataset: Mapping[str, Any],
    backbone: Mapping[str, str | None],
) -> Run:
    save_file(heads.state_dict(), path / "heads.safetensors")
    save_file({name: value.contiguous() for name, value in inputs.state_dict().items()}, path / "inputs.safetensors")
    _save_log(path / "heads_log.jsonl", log)
    plot_curves(path / "heads_curves.png", log, "projector heads")
    write_json(
        path / "run.json",
        {
            "dataset": dict(dataset),
            "backbone": dict(backbone),
            "heads": {
                "settings": asdict(heads.settings),
                "widths": {m.value: heads.widths[m] for m in Modality},
                "groups": list(heads.layout.groups),
                "validation": dict(quality),
            },
            "inputs": {"tower": asdict(tower)},
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS},
        },
    )
    return Run(path=path)


def save_reranker(
    run: Run,
    model: GraphReranker,
    *,
    settings: Mapping[str, Any],
    graph: GraphSettings,
    epoch: int,
    log: Sequence[Epoch],
    quality: Mapping[str, float],
    before: Mapping[str, float],
) -> Path:
    name = model.shape.name
    folder = run.path / "rerankers" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "reranker.safetensors")
    _save_log(folder / "log.jsonl", log)
    plot_curves(folder / "curves.png", log, f"re-ranker {name}")
    write_json(
        folder / "settings.json",
        {
            "shape": asdict(model.shape),
            "settings": dict(settings),
            "graph": asdict(graph),
            "best_epoch": epoch,
            "validation": dict(quality),
            "validation_before": dict(before),
        },
    )
    return folder


def plot_curves(path: Path, log: Sequence[Epoch], title: str) -> None:
    """Loss and validation score by epoch, the best epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    left.plot([e.epoch for e in log], [e.loss for e in log], color="tab:blue", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color="tab:blue")
    right = left.twinx()
    right.plot([e.epoch for e in log], [e.score for e in log], color="tab:orange")
    right.set_ylabel("validation nDCG@10, normal and abnormal alike", color="tab:orange")
    best = [e for e in log if e.best]
    if best:
        right.plot(best[-1].epoch, best[-1].score, "o", color="tab:red")
        right.annotate(
            f"best {best[-1].score:.3f}", (best[-1].epoch, best[-1].score), xytext=(6, -12), textcoords="offset points"
        )
    left.set_title(title)
    figure.savefig(path, dpi=120)


def _save_log(path: Path, log: Sequence[Epoch]) -> None:
    lines = [json.dumps({k: None if v != v else v for k, v in asdict(e).items()}) for e in log]  # NaN is no JSON
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
