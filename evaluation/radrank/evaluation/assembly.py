"""From a command's options to findings: opens bundles, reads data sets, cuts them, and has them judged."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from radrank.core.errors import Corrupt, InvalidQuery
from radrank.core.snapshot import Snapshot, located, open_snapshot
from radrank.core.studies import Split
from radrank.datasets import open_dataset
from radrank.datasets.progress import Task
from radrank.engines.bundle import Bundle, open_bundle
from radrank.engines.index import ExactFactory
from radrank.engines.runtimes import PLAIN, EngineSettings
from radrank.evaluation import describing
from radrank.evaluation.collection import Collection, Views, collect, from_snapshot
from radrank.evaluation.evaluate import BASELINE, Baseline, Findings, evaluate
from radrank.evaluation.figures import cloud
from radrank.evaluation.maps import Cloud
from radrank.evaluation.results import Report
from radrank.evaluation.scoring import Scorer, Seed
from radrank.evaluation.subject import Blocks, of_split, transferred, unseen

ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is asked for. split: "test", "validation" or ALL; transfer: root of the data set that was trained on."""

    bundles: Sequence[Path]
    dataset: str
    root: Path | None
    split: str
    baseline: Path | None = None
    baseline_name: str = BASELINE
    archive: Path | None = None
    transfer: Path | None = None
    views: Views = "all"
    candidates: int = 100
    draws: int = 1_000
    threads: int | None = None
    command: str = ""

    @property
    def wanted(self) -> Split | None:
        """None for all studies."""
        return None if self.split == ALL else Split(self.split)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """name: of the first bundle; parts: findings by the archive that was used in a transfer, else one of no name."""

    name: str
    report: Report
    parts: Mapping[str, Findings]
    clouds: tuple[Cloud, ...]


def run(options: Options, task: Task) -> Outcome:
    """Judges the bundles. Raises RadrankError."""
    _check(options)
    threads = options.threads or len(os.sched_getaffinity(0))
    with ExitStack() as stack, threadpool_limits(limits=1, user_api="blas"):

        def opened(path: Path) -> Bundle:
            # Not "auto": what a bundle is worth must not depend on the machine that judges it.
            bundle = stack.enter_context(closing(open_bundle(path, EngineSettings(runtime=PLAIN, threads=threads))))
            bundle.warm_up()
            return bundle

        bundles = [opened(path) for path in options.bundles]
        if len({bundle.sha256 for bundle in bundles}) < len(bundles):
            raise InvalidQuery("bundle", "one is given twice: seeds of a recipe are bundles of their own")
        other = opened(options.baseline) if options.baseline else None
        first = bundles[0]
        cutting = _Cutting(options, _trained_on(bundles), threads=threads, task=task)
        cut = {bundle.encoder_id: cutting.parts(bundle) for bundle in bundles}
        before = cutting.parts(other) if other else {}
        notes = [*describing.notes(options, bundles, cutting.read, cutting.overlap)]
        scorer = Scorer(candidates=options.candidates, workers=threads)

        def judged(part: str, blocks: Blocks) -> Findings:
            seeds = [
                Seed(
                    name=bundle.manifest.name,
                    encoder=bundle.encoder_id,
                    rerankers=bundle.rerankers,
                    blocks=cut[bundle.encoder_id][part],
                )
                for bundle in bundles
            ]
            return evaluate(
                seeds,
                scorer,
                title=describing.title(options, bundles),
                task=task,
                notes=[*notes, *describing.counted(part, blocks)],
                baselines=[Baseline(name=options.baseline_name, blocks=[before[part]])] if other else [],
                default=first.default_reranker,
                draws=options.draws,
            )

        parts = {part: judged(part, blocks) for part, blocks in cut[first.encoder_id].items()}
        clouds = [cloud(options.baseline_name, next(iter(before.values())))] if other else []
        clouds.append(cloud(first.manifest.name, next(iter(cut[first.encoder_id].values()))))
    return Outcome(name=first.manifest.name, report=_merged(parts), parts=parts, clouds=tuple(clouds))


class _Cutting:
    """Data sets under each encoder, read once, and cut into what is judged.

    read: what was read, by the name of the data set, with what was left out; overlap: judged studies that the snapshot
    held
    """

    def __init__(self, options: Options, trained_on: str, *, threads: int, task: Task) -> None:
        self.read: dict[str, describing.Read] = {}
        self.overlap = 0
        self._options = options
        self._trained_on = trained_on
        self._threads = threads
        self._task = task
        self._parts: dict[str, Mapping[str, Blocks]] = {}

    def parts(self, bundle: Bundle) -> Mapping[str, Blocks]:
        """Blocks by part; the same for bundles of one encoder."""
        if bundle.encoder_id not in self._parts:
            self._parts[bundle.encoder_id] = self._cut(bundle)
        return self._parts[bundle.encoder_id]

    def _cut(self, bundle: Bundle) -> Mapping[str, Blocks]:
        options = self._options
        # Opened before the data set is encoded: what is wrong with a snapshot is told at once.
        snapshot = opened_snapshot(options.archive, bundle.encoder_id) if options.archive else None
        collection = self._collection(bundle, options.dataset, options.root, options.dataset)
        if snapshot is not None:
            held = from_snapshot(snapshot, bundle.encoder)
            blocks, self.overlap = unseen(collection, held, options.wanted)
            return {"": blocks}
        if options.transfer is not None:
            source = self._collection(bundle, self._trained_on, options.transfer, f"{self._trained_on} (source)")
            return {archive.value: found for archive, found in transferred(collection, source, options.wanted).items()}
        assert options.wanted is not None
        return {"": of_split(collection, options.wanted)}

    def _collection(self, bundle: Bundle, dataset: str, root: Path | None, name: str) -> Collection:
        reader = open_dataset(dataset, root)
        broken: list[str] = []
        collection = collect(
            reader,
            bundle.encoder,
            views=self._options.views,
            workers=self._threads,
            on_bad=lambda bad: broken.append(bad.reason),
            task=self._task,
        )
        self.read[name] = describing.Read(
            studies=len(collection), skipped=len(reader.skipped), left_out=reader.left_out, broken=broken
        )
        return collection


class _AnyIndex(ExactFactory):
    """Opens a snapshot whatever its index is: galleries are scanned, and archives are too."""

    def __init__(self, name: str) -> None:
        self.name = name


def opened_snapshot(path: Path, encoder: str) -> Snapshot:
    """The snapshot at this path: its own directory, one that holds snapshots, or an archive's home.

    Raises NotFound, Corrupt, or Mismatch where its vectors are of another encoder.
    """
    path = located(path)
    try:
        name = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["index"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(str(path / "manifest.json"), "a snapshot's manifest", type(error).__name__) from error
    return open_snapshot(path, factory=_AnyIndex(name), encoder=encoder)


def _check(options: Options) -> None:
    if options.archive and options.transfer:
        raise InvalidQuery("transfer", "brings its own archives: leave out --archive")
    if options.archive and options.views != "all":
        raise InvalidQuery("views", "must be all beside --archive, which holds one vector of all views a study")
    if options.archive and options.baseline:
        raise InvalidQuery("baseline", "has another encoder than the vectors of --archive: leave one of them out")
    if options.split == ALL and not options.archive and not options.transfer:
        raise InvalidQuery("split", "all leaves nothing for the archive: give --archive or --transfer, or a split")


def _trained_on(bundles: Sequence[Bundle]) -> str:
    names = {str(bundle.manifest.training.get("dataset", {}).get("name")) for bundle in bundles}
    if len(names) > 1:
        raise InvalidQuery("bundle", f"they were trained on different data sets: {', '.join(sorted(names))}")
    return names.pop()


def _merged(parts: Mapping[str, Findings]) -> Report:
    """One report, in which tables, screening and leak tests of named parts say which part they are of."""
    if list(parts) == [""]:
        return parts[""].report

    def named(name: str, part: str) -> str:
        return f"{name}, archive: {part}"

    reports = {part: findings.report for part, findings in parts.items()}
    return replace(
        next(iter(reports.values())),
        notes=tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)),
        tables=tuple(
            replace(table, direction=named(table.direction, part))
            for part, report in reports.items()
            for table in report.tables
        ),
        screening={
            named(name, part): found for part, report in reports.items() for name, found in report.screening.items()
        },
        leaks={named(name, part): held for part, report in reports.items() for name, held in report.leaks.items()},
    )
