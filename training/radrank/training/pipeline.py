"""The two trainings, from a data set to a run directory: what `radrank train` and `radrank demo` call."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import InvalidQuery
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality, Split
from radrank.core.vectors import Matrix
from radrank.datasets import open_dataset
from radrank.training.backbones import Backbone, load_backbone
from radrank.training.episodes import Episodes, cross_fitted, episodes, make_world
from radrank.training.features import FeatureSet, extract
from radrank.training.heads import Batches, Epoch, HeadSettings, retrieval_score, train_heads
from radrank.training.inputs import fit_inputs
from radrank.training.listwise import RerankerSettings, evaluate, train_reranker
from radrank.training.reranker import VARIANTS, GraphReranker
from radrank.training.runs import FEATURES, FOLDS, Fold, Run, save_heads, save_reranker
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
    like: Run | None = None,
) -> Run:
    """Extracts frozen features, tunes the image tower, trains the heads, and writes a new run directory.

    Features of an earlier run in the same place, over the same data set and backbone, are used again. like: a run over
    the same data set and backbone whose features are taken, such as another seed's
    """
    out.mkdir(parents=True, exist_ok=True)
    source = {"name": dataset, "root": str(root.resolve()) if root else None}
    towers = {"name": backbone, "weights": str(weights) if weights else None}
    loaded = load_backbone(backbone, weights=str(weights) if weights else None)
    if like is not None:
        features = like.lend_features(out)
    else:
        features = _features(out, loaded, source=source, towers=towers, strict=strict, reporter=reporter)
    train, validation = features.of_split(Split.TRAIN), features.of_split(Split.VALIDATION)
    paired = [len(Batches(features, studies).pool) for studies in (train, validation)]
    if paired[0] < 10 or paired[1] < 2:
        raise InvalidQuery(
            "dataset", f"has {paired[0]} training and {paired[1]} validation studies with image and report, too few"
        )
    with reporter.task("tower", tower.passes) as advance:
        inputs = fit_inputs(features, loaded.image_tower.tail, tower, train=train, on_epoch=advance)
    read = inputs.of(features)
    log: list[Epoch] = []
    with reporter.task("heads", settings.epochs) as advance:

        def on_epoch(epoch: Epoch) -> None:
            log.append(epoch)
            advance()

        heads = train_heads(features, read, settings, train=train, validation=validation, on_epoch=on_epoch)
    quality = retrieval_score(heads.vectors(read), features, validation)
    # What stood on the heads that were.
    shutil.rmtree(out / "rerankers", ignore_errors=True)
    (out / FOLDS).unlink(missing_ok=True)
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
    run: Run, names: Sequence[str], *, settings: RerankerSettings, graph: GraphSettings, reporter: Reporter
) -> list[Path]:
    """Trains re-rankers on cross-fitted episodes of a run, one after the other. Returns their directories."""
    for name in names:
        if name not in VARIANTS:
            raise InvalidQuery("name", f"must be one of: {', '.join(VARIANTS)}")
    made: dict[GraphSettings, tuple[list[Episodes], Episodes]] = {}
    material = Material.of(run, folds=settings.folds, reporter=reporter)
    folders = []
    for name in names:
        shown = replace(graph, shuffled=VARIANTS[name].shuffled)
        if shown not in made:
            made = {shown: material.episodes(settings, shown)}  # one at a time: they fill memory
        training, judged = made[shown]
        log: list[Epoch] = []
        with reporter.task(name, settings.epochs) as advance:

            def on_epoch(epoch: Epoch, log: list[Epoch] = log, advance: Callable[[], None] = advance) -> None:
                log.append(epoch)
                if epoch.epoch:
                    advance()

            model, best, quality = train_reranker(
                name,
                settings,
                prior=material.prior,
                train=training,
                validation=judged,
                on_epoch=on_epoch,
            )
        before = evaluate(GraphReranker(model.shape), judged)
        folders.append(
            save_reranker(
                run,
                model,
                settings=asdict(settings),
                graph=graph,
                epoch=best,
                log=log,
                quality=quality,
                before=before,
            )
        )
        reporter.say(f"{name}: best epoch {best}, validation nDCG@10 {before['score']:.3f} → {quality['score']:.3f}")
    return folders


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What re-rankers of a run train on, before it becomes graphs. prior: float32 [1 + groups], of the train studies"""

    features: FeatureSet
    layout: VectorLayout
    vectors: Mapping[Modality, Matrix]
    folds: Sequence[Fold]
    prior: NDArray[np.float32]

    @classmethod
    def of(cls, run: Run, *, folds: int, reporter: Reporter) -> Material:
        """The vectors of a run's own encoder and of its cross-fitted ones."""
        features, backbone, heads = run.features, run.backbone(), run.heads()
        vectors = heads.vectors(run.inputs(backbone).of(features))
        labels = features.labels[features.of_split(Split.TRAIN)]
        return cls(
            features=features,
            layout=heads.layout,
            vectors=vectors,
            folds=cross_fitted_of(run, backbone, vectors, count=folds, reporter=reporter),
            prior=labels[labels.any(axis=1)].mean(axis=0, dtype=np.float32),
        )

    def episodes(self, settings: RerankerSettings, graph: GraphSettings) -> tuple[list[Episodes], Episodes]:
        """Those to train on, by fold, and those of validation."""
        train, validation = self.features.of_split(Split.TRAIN), self.features.of_split(Split.VALIDATION)

        def of(vectors: Mapping[Modality, Matrix], gallery: NDArray[np.int32], archive: NDArray[np.int32]) -> Episodes:
            world = make_world(
                self.features, vectors, gallery=gallery, archive=archive, layout=self.layout, settings=graph
            )
            return episodes(world, candidates=settings.candidates, most=settings.most, seed=settings.seed)

        training = [of(seen, fold, np.setdiff1d(train, fold).astype(np.int32)) for fold, seen in self.folds]
        return training, of(self.vectors, validation, train)


def cross_fitted_of(
    run: Run, backbone: Backbone, reference: Mapping[Modality, Matrix], *, count: int, reporter: Reporter
) -> list[Fold]:
    """The folds of a run, made where they are not there yet. reference: the vectors of its own encoder."""
    kept = run.folds(count)
    if kept is not None:
        reporter.say("folds: those of an earlier training in this run")
        return kept
    features, tower = run.features, run.tower_settings
    with reporter.task("folds", count * tower.passes) as advance:
        folds: list[Fold] = list(
            cross_fitted(
                features,
                reference,
                backbone.image_tower.tail,
                heads=run.head_settings,
                tower=tower,
                train=features.of_split(Split.TRAIN),
                folds=count,
                on_epoch=advance,
            )
        )
    run.save_folds(folds)
    return folds


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
    if (out / "run.json").is_file() and (out / FEATURES).is_file():
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
    features.save(out / FEATURES)
    for bad in reader.skipped:
        reporter.say(f"skipped: {bad}")
    for reason, count in {**reader.left_out, **{why: broken.count(why) for why in broken}}.items():
        reporter.say(f"left out: {count} × {reason}")
    return features
