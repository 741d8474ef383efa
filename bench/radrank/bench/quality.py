"""Retrieval quality from one command: seeds, recipes of heads, re-rankers and their controls, transfer, leak tests.

OUT/seed-<k>/      a run directory for each seed: what is there already is not trained again
    target/        features of the data set that is transferred to
    heads.md  report.md  transfer-<archive>.md, the same as .json, and plots
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from radrank.bench.recipes import BELIEFS, CLIP_ALONE, FROZEN, LEXICON, WORK, Recipes, Space
from radrank.bench.spaces import About, TorchReranker, collection
from radrank.core.errors import InvalidQuery
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.studies import Modality, Split
from radrank.datasets import open_dataset
from radrank.datasets.progress import Task
from radrank.engines.bundle import EngineMessages, EngineReranker
from radrank.engines.engine import Model
from radrank.engines.onnxruntime import CpuEngine
from radrank.evaluation.collection import Collection
from radrank.evaluation.evaluate import Baseline, Findings, evaluate
from radrank.evaluation.figures import cloud
from radrank.evaluation.judge import Judged, judge
from radrank.evaluation.maps import Cloud
from radrank.evaluation.matching import find_offset, with_offset
from radrank.evaluation.metrics import Scores, normals_share
from radrank.evaluation.results import Family, Report, Table
from radrank.evaluation.scoring import Block, Direction, Scorer, Seed
from radrank.evaluation.subject import Blocks, of_split, transferred
from radrank.evaluation.worlds import World
from radrank.export.onnx import export_reranker
from radrank.training.features import FeatureSet, extract
from radrank.training.heads import HeadSettings
from radrank.training.listwise import RerankerSettings
from radrank.training.pipeline import Reporter, run_heads, run_rerankers
from radrank.training.reranker import SERVED
from radrank.training.runs import FEATURES, Run
from radrank.training.tower import TowerSettings

MISSION: tuple[Direction, ...] = ((Modality.IMAGE, Modality.REPORT), (Modality.REPORT, Modality.IMAGE))
RERANKERS = ("sage", "gcn", "gat", "mlp", "mlp_bare", "sage_shuffled", "sage_alone")
PROJECTION = "projection alone"
_TIMED = 200  # queries that a re-ranker is timed on


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """transfer: data set and root of another collection, judged whole; command: that the report tells"""

    dataset: str
    root: Path | None
    out: Path
    seeds: int = 5
    backbone: str = "compact"
    weights: Path | None = None
    tower_epochs: int = 6
    split: Split = Split.TEST
    rerankers: Sequence[str] = RERANKERS
    transfer: tuple[str, Path | None] | None = None
    candidates: int = 100
    draws: int = 1_000
    workers: int = 1
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """heads: recipes compared; findings: the served recipe's; transfers: by the archive that was used
    costs: of each re-ranker, milliseconds a query of the graph, with the scans for its neighbours, and of its ONNX file
    clouds: the first seed's space before (the CLIP loss alone) and after
    """

    heads: Report
    findings: Findings
    transfers: Mapping[str, Findings]
    costs: Mapping[str, tuple[float, float]]
    clouds: tuple[Cloud, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """One seed. spaces: of every recipe of heads, by name"""

    name: str
    run: Run
    layout: VectorLayout
    spaces: Mapping[str, Space]
    rerankers: Mapping[str, TorchReranker]

    def collection(self, recipe: str, about: About) -> Collection:
        """The data set by one recipe; p(normal) is always that of the served one, which tells it best."""
        space, served = self.spaces[recipe], self.spaces[BELIEFS].vectors
        beliefs = {**served, Modality.IMAGE: served[Modality.IMAGE][space.images]}
        return collection(space.features, space.vectors, about, layout=self.layout, beliefs=beliefs)


Cut = Mapping[str, Sequence[Blocks]]
"""What is judged, by recipe, for every seed."""


def quality(options: Options, *, reporter: Reporter) -> Quality:
    """Trains what is missing and judges it. Raises RadrankError."""
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [_trained(options, seed, reporter) for seed in range(options.seeds)]
    about = About.of(open_dataset(options.dataset, options.root))
    with threadpool_limits(limits=1, user_api="blas"):
        cut: Cut = {
            recipe: [of_split(seed.collection(recipe, about), options.split) for seed in seeds]
            for recipe in seeds[0].spaces
        }
        heads = Report(
            title=f"Heads on {options.dataset}, {options.split}, {options.seeds} seeds",
            notes=(f"`{options.command}`", "Changes are against the first row of each table's recipes."),
            tables=tuple(
                _recipes(cut, direction, reference, draws=options.draws)
                for reference in (CLIP_ALONE, FROZEN)
                for direction in MISSION
            ),
        )
        findings = _judged(seeds, cut, options, reporter.task)
        transfers = _transferred(seeds, about, options, reporter) if options.transfer else {}
        served = cut[BELIEFS][0][0].judged
        costs = {name: _cost(seeds[0], name, served, candidates=options.candidates) for name in options.rerankers}
        clouds = tuple(cloud(recipe, cut[recipe][0]) for recipe in (CLIP_ALONE, BELIEFS))
    return Quality(heads=heads, findings=findings, transfers=transfers, costs=costs, clouds=clouds)


def _cost(seed: _Trained, name: str, world: World, *, candidates: int) -> tuple[float, float]:
    """Medians of one re-ranker, on one thread."""
    model, settings = seed.run.reranker(name)[0], seed.rerankers[name].settings
    times = []
    with TemporaryDirectory() as folder, threadpool_limits(limits=1):
        trials = [world.trial(*direction) for direction in MISSION]
        examples = [world.graph(trial, 0, settings, candidates=candidates)[1] for trial in trials]
        path = Path(folder) / "reranker.onnx"
        apart = Path(folder) / "messages.onnx"
        files = [path, apart] if export_reranker(model, examples, path, apart) else [path]
        engines = [_opened(file) for file in files]
        engine = EngineReranker(engines[0], settings)
        messages = [EngineMessages(each, "", settings) for each in engines[1:]]
        for trial in trials:
            for row in range(min(_TIMED, len(trial.queries))):
                start = time.perf_counter()
                _, batch = world.graph(trial, row, settings, candidates=candidates)
                graph = time.perf_counter() - start
                for make in messages:  # a server looks them up
                    batch = batch.told_by(make)
                start = time.perf_counter()
                engine.score(batch)
                times.append((graph, time.perf_counter() - start))
        for each in engines:
            each.close()
    built, scored = np.median(times, axis=0) * 1e3
    return float(built), float(scored)


def _opened(path: Path) -> CpuEngine:
    return CpuEngine(Model(name=path.stem, path=path, sha256="", precision="fp32"), threads=1)


def _trained(options: Options, seed: int, reporter: Reporter) -> _Trained:
    """A seed with everything trained; what an earlier, interrupted command left is used."""
    run = Run(path=options.out / f"seed-{seed}")
    if not (run.path / "heads.safetensors").is_file():
        run_heads(
            run.path,
            dataset=options.dataset,
            root=options.root,
            backbone=options.backbone,
            weights=options.weights,
            settings=HeadSettings(seed=seed),
            tower=TowerSettings(epochs=options.tower_epochs, seed=seed),
            reporter=reporter,
            like=Run(path=options.out / "seed-0") if seed else None,
        )
    missing = [name for name in options.rerankers if name not in run.rerankers()]
    if missing:
        settings = RerankerSettings(candidates=options.candidates, seed=seed)
        run_rerankers(run, missing, settings=settings, graph=GraphSettings(), reporter=reporter)
    features, heads = run.features, run.heads()
    inputs = run.inputs(run.backbone()).of(features)
    recipes = Recipes(features=features, inputs=inputs, settings=run.head_settings)
    with reporter.task(f"recipes, {run.path.name}", WORK) as step:
        spaces = recipes.spaces(heads, step)
    rerankers = {}
    for name in options.rerankers:
        model, record = run.reranker(name)
        settings_of = replace(GraphSettings.from_json(record["graph"]), shuffled=model.shape.variant.shuffled)
        rerankers[name] = TorchReranker(model, settings_of)
    return _Trained(name=run.path.name, run=run, layout=heads.layout, spaces=spaces, rerankers=rerankers)


def _recipes(cut: Cut, direction: Direction, reference: str, *, draws: int) -> Table:
    """Every recipe of heads in one direction. Matched rows have the reference's share of normals, by one p(normal)."""
    names = [reference, *(name for name in cut if name != reference)]
    trials = [blocks[0].judged.trial(*direction) for blocks in cut[reference]]
    tunings = [_tuning(blocks[0]).trial(*direction) for blocks in cut[reference]]
    shares = [float(normals_share(tuning, tuning.cosines).mean()) for tuning in tunings]
    plain: dict[str, list[Scores]] = {name: [] for name in names}
    matched: dict[str, list[Scores]] = {name: [] for name in names}
    for name in names:
        for blocks, trial, tuning, share in zip(cut[name], trials, tunings, shares, strict=True):
            scores = blocks[0].judged.trial(*direction).cosines
            offset = find_offset(tuning, _tuning(blocks[0]).trial(*direction).cosines, share)
            plain[name].append(scores)
            matched[name].append(with_offset(trial, scores, offset))
    rows = [
        Judged(name=name, family=Family.EMBEDDING, matched=is_matched, scores=tuple(found[name]))
        for is_matched, found in ((False, plain), (True, matched))
        for name in names
    ]
    return judge(trials[0], rows, reference=reference, draws=draws)


def _tuning(block: Block) -> World:
    if block.tuning is None:
        raise InvalidQuery("split", "validation is too small to match normals on")
    return block.tuning


def _judged(seeds: Sequence[_Trained], cut: Cut, options: Options, task: Task) -> Findings:
    """The served recipe with all rows of the protocol, beside the CLIP loss alone and its own projection."""
    return evaluate(
        [_seed(seed, blocks) for seed, blocks in zip(seeds, cut[BELIEFS], strict=True)],
        Scorer(candidates=options.candidates, workers=options.workers),
        title=f"Re-rankers on {options.dataset}, {options.split}, {options.seeds} seeds",
        task=task,
        notes=(f"`{options.command}`",),
        baselines=[
            Baseline(name=CLIP_ALONE, blocks=cut[CLIP_ALONE]),
            Baseline(name=PROJECTION, blocks=cut[LEXICON]),
        ],
        default=_best(seeds),
        draws=options.draws,
    )


def _seed(seed: _Trained, blocks: Blocks, names: Sequence[str] | None = None) -> Seed:
    rerankers = {name: found for name, found in seed.rerankers.items() if names is None or name in names}
    return Seed(name=seed.name, encoder=seed.name, rerankers=rerankers, blocks=blocks)


def _best(seeds: Sequence[_Trained]) -> str:
    """The re-ranker that gained most on validation, over all seeds."""
    records = {name: [seed.run.reranker(name)[1] for seed in seeds] for name in seeds[0].rerankers if name in SERVED}
    return max(
        records,
        key=lambda name: sum(r["validation"]["score"] - r["validation_before"]["score"] for r in records[name]),
    )


def _transferred(seeds: Sequence[_Trained], about: About, options: Options, reporter: Reporter) -> dict[str, Findings]:
    """The other data set, whole, in the archive of either and of both: embedding and served re-rankers."""
    assert options.transfer is not None
    name, root = options.transfer
    folder = options.out / "target"
    features = _target(folder, name, root, seeds[0].run, reporter)
    there = About.of(open_dataset(name, root))
    cut: list[Mapping[str, Blocks]] = []
    for seed in seeds:
        vectors = seed.run.heads().vectors(seed.run.inputs(seed.run.backbone()).of(features))
        target = collection(features, vectors, there, layout=seed.layout, beliefs=vectors)
        parts = transferred(target, seed.collection(BELIEFS, about), None)
        cut.append({archive.value: blocks for archive, blocks in parts.items()})
    scorer = Scorer(candidates=options.candidates, workers=options.workers)
    served = [name for name in options.rerankers if name in SERVED]
    judged = [[_seed(seed, parts[part], served) for seed, parts in zip(seeds, cut, strict=True)] for part in cut[0]]
    return {
        part: evaluate(
            found,
            scorer,
            title=f"{options.dataset} to {name}, {options.seeds} seeds",
            task=reporter.task,
            notes=(f"`{options.command}`", f"Archive: {part}."),
            default=_best(seeds),
            draws=options.draws,
            directions=MISSION,
        )
        for part, found in zip(cut[0], judged, strict=True)
    }


def _target(folder: Path, name: str, root: Path | None, run: Run, reporter: Reporter) -> FeatureSet:
    """The features of the data set that is transferred to, made once."""
    kept = folder / FEATURES
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        reader = open_dataset(name, root)
        found = extract(
            reader, run.backbone(), folder, expected=len(reader), on_bad=lambda _, __: None, task=reporter.task
        )
        found.save(kept)
    return FeatureSet.load(kept)
