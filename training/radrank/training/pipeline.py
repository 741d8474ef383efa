"""The two trainings, from a data set to a run directory: what `radrank train` and `radrank demo` call."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from radrank.core.errors import InvalidQuery
from radrank.core.graph import GraphSettings
from radrank.core.studies import Split
from radrank.datasets import open_dataset
from radrank.training.backbones import Backbone, load_backbone
from radrank.training.episodes import Episode, cross_fitted, episodes, make_world
from radrank.training.features import FeatureSet, extract
from radrank.training.heads import Batches, Epoch, HeadSettings, retrieval_score, train_heads
from radrank.training.inputs import fit_inputs
from radrank.training.layers import KINDS
from radrank.training.listwise import RerankerSettings, evaluate, train_reranker
from radrank.training.reranker import GraphReranker
from radrank.training.runs import Run, save_heads, save_reranker
from radrank.training.tower import TowerSettings


class Reporter(Protocol):
    """Shows a person how far a training is."""

    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """A bar of `total` steps; what it yields advances it by one."""
        ...

    def say(self, text: str) -> None: ...


def run_heads(
    out: Path,
    *,
    dataset: str,
    root: Path | None,
    backbone: str,
    weights: Path | None,
    settings: HeadSettings,
    tower: TowerSettings,
    reporter: Reporter,
    strict: bool = False,
) -> Run:
    """Extracts frozen features, tunes the image tower, trains the heads, and writes a new run directory.

    Features of an earlier run in the same place, over the same data set and backbone, are used again.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = {"name": dataset, "root": str(root.resolve()) if root else None}
    towers = {"name": backbone, "weights": str(weights) if weights else None}
    loaded = load_backbone(backbone, weights=str(weights) if weights else None)
    features = _features(out, loaded, source=source, towers=towers, strict=strict, reporter=reporter)
    train, validation = features.of_split(Split.TRAIN), features.of_split(Split.VALIDATION)
    paired = [len(Batches(features, studies).pool) for studies in (train, validation)]
    if paired[0] < 10 or paired[1] < 2:
        raise InvalidQuery(
            "dataset", f"has {paired[0]} training and {paired[1]} validation studies with image and report, too few"
        )
    with reporter.task("tower", max(1, tower.epochs)) as advance:
        inputs = fit_inputs(features, loaded.image_tower.tail, tower, train=train, on_epoch=advance)
    read = inputs.of(features)
    log: list[Epoch] = []
    with reporter.task("heads", settings.epochs) as advance:

        def on_epoch(epoch: Epoch) -> None:
            log.append(epoch)
            advance()

        heads = train_heads(features, read, settings, train=train, validation=validation, on_epoch=on_epoch)
    quality = retrieval_score(heads.vectors(read), features, validation)
    shutil.rmtree(out / "rerankers", ignore_errors=True)  # they belong to the heads that were
    counts = {split.value: len(features.of_split(split)) for split in Split}
    run = save_heads(
        out,
        heads,
        inputs,
        tower=tower,
        log=log,
        quality=quality,
        dataset=source | {"studies": counts},
        backbone=towers | {"provenance": loaded.provenance},
    )
    reporter.say(f"heads: validation nDCG@10 {quality['score']:.3f}")
    return run


def run_rerankers(
    run: Run, kinds: Sequence[str], *, settings: RerankerSettings, graph: GraphSettings, reporter: Reporter
) -> list[Path]:
    """Trains re-rankers on cross-fitted episodes of a run, one after the other. Returns their directories."""
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidQuery("kind", f"must be one of: {', '.join(KINDS)}")
    features, backbone = run.features, run.backbone()
    heads, inputs = run.heads(), run.inputs(backbone)
    vectors = heads.vectors(inputs.of(features))
    train, validation = features.of_split(Split.TRAIN), features.of_split(Split.VALIDATION)
    training: list[Episode] = []
    tower = run.tower_settings
    with reporter.task("folds", settings.folds * max(1, tower.epochs)) as advance:
        fitted = cross_fitted(
            features,
            vectors,
            backbone.image_tower.tail,
            heads=heads.settings,
            tower=tower,
            train=train,
            folds=settings.folds,
            on_epoch=advance,
        )
        for fold, seen in fitted:
            rest = np.setdiff1d(train, fold).astype(np.int32)
            world = make_world(features, seen, gallery=fold, archive=rest, settings=graph)
            training += episodes(world, candidates=settings.candidates)
    world = make_world(features, vectors, gallery=validation, archive=train, settings=graph)
    judged = list(episodes(world, candidates=settings.candidates))
    folders = []
    for kind in kinds:
        log: list[Epoch] = []
        with reporter.task(kind, settings.epochs) as advance:

            def on_epoch(epoch: Epoch, log: list[Epoch] = log, advance: Callable[[], None] = advance) -> None:
                log.append(epoch)
                if epoch.epoch:
                    advance()

            model, best, quality = train_reranker(
                kind,
                settings,
                dimensions=heads.dimensions,
                train=training,
                validation=judged,
                on_epoch=on_epoch,
            )
        before = evaluate(GraphReranker(model.shape), judged)
        folders.append(
            save_reranker(
                run,
                kind,
                model,
                settings=asdict(settings),
                graph=graph,
                epoch=best,
                log=log,
                quality=quality,
                before=before,
            )
        )
        reporter.say(f"{kind}: best epoch {best}, validation nDCG@10 {before['score']:.3f} → {quality['score']:.3f}")
    return folders


def _features(
    out: Path,
    backbone: Backbone,
    *,
    source: dict[str, str | None],
    towers: dict[str, str | None],
    strict: bool,
    reporter: Reporter,
) -> FeatureSet:
    kept = Run(path=out)
    if (out / "run.json").is_file() and (out / "features.npz").is_file():
        record = kept.record
        same = "inputs" in record and all(record["dataset"].get(key) == value for key, value in source.items())
        if same and all(record["backbone"].get(key) == value for key, value in towers.items()):
            reporter.say("features: those of the earlier run in this directory")
            return kept.features
    assert source["name"] is not None
    root = Path(source["root"]) if source["root"] else None
    reader = open_dataset(source["name"], root, strict=strict)
    broken: list[str] = []
    features = extract(
        reader,
        backbone,
        out,
        expected=len(reader),
        on_bad=lambda _, reason: broken.append(reason),
        task=reporter.task,
    )
    features.save(out / "features.npz")
    for bad in reader.skipped:
        reporter.say(f"skipped: {bad}")
    for reason, count in {**reader.left_out, **{why: broken.count(why) for why in broken}}.items():
        reporter.say(f"left out: {count} × {reason}")
    return features
