"""`radrank index`: builds, checks and describes an archive's snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from radrank.server._options import ArchiveHome, BundlePath, Config

if TYPE_CHECKING:
    from radrank.core.archive import Archive
    from radrank.core.errors import BadStudy
    from radrank.datasets import Reader
    from radrank.server.building import Step
    from radrank.server.library import Engines

index = typer.Typer(
    help="Build, check and describe an archive's snapshot: vectors, candidate indexes and graph tables.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

IndexName: TypeAlias = Annotated[
    str | None, typer.Option("--index", metavar="hnsw|exact", help="Default: as before, or hnsw.")
]
_LISTED = 100


@index.command()
def build(
    bundle: BundlePath = None,
    archive: ArchiveHome = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Import openi, mimic-cxr, mimic-cxr-jpg, csv, dicom or demo."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="PATH", help="Where the data set lies.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first broken file or row.")] = False,
    index_name: IndexName = None,
    config_file: Config = None,
) -> None:
    """Import a data set, if one is named, and build the archive's snapshot.

    Studies of the data set are added, or replace those with their ids; others stay. Where the archive's vectors come
    from another bundle, every stored study is encoded anew first. The server of this archive must be stopped.

    Example: radrank index build --bundle bundle --archive archive --dataset openi --root data/openi
    """
    from radrank.core.archive import Archive
    from radrank.core.snapshot import prune
    from radrank.datasets import open_dataset
    from radrank.engines.bundle import open_bundle
    from radrank.server.building import matching_factory
    from radrank.server.home import Home
    from radrank.server.library import build as build_snapshot
    from radrank.server.settings import load

    start = time.monotonic()
    settings = load(config_file, bundle=bundle, archive=archive, index=index_name)
    reader = None if dataset is None else open_dataset(dataset, root, strict=strict)
    engines = open_bundle(settings.bundle)
    with Home(settings.archive) as home:
        store = Archive(home.database)
        if store.encoder not in (None, engines.encoder_id):
            _reencode(store, engines)
        if reader is not None:
            _import(store, engines, reader, strict=strict)
        factory = matching_factory(home.snapshots, settings.index)
        with _bar("snapshot", 5, unit="steps") as step:
            path = build_snapshot(store, home.snapshots, engines, factory, progress=lambda _done, _total: step())
        prune(home.snapshots, keep=[path])
        store.forget_deletions(store.sequence)
        counts = store.counts()
        store.close()
    engines.close()
    typer.echo(
        f"{counts.studies:,} studies, {counts.images:,} images, {counts.reports:,} reports in {path}"
        f" · {factory.name} · {time.monotonic() - start:.1f} s"
    )


@index.command()
def verify(
    archive: ArchiveHome = None,
    at_least: Annotated[
        float, typer.Option("--at-least", min=0.0, max=1.0, help="Exit with 1 where any recall is below.")
    ] = 0.0,
    queries: Annotated[int, typer.Option("--queries", min=1, metavar="N", help="Of each modality.")] = 500,
    config_file: Config = None,
) -> None:
    """Check every hash of the snapshot, and how much of an exact scan's result its index finds as it is served.

    Queries are items of the archive; both results are compared in each of the four directions.

    Example: radrank index verify --archive archive --at-least 0.95
    """
    from rich.console import Console
    from rich.table import Table

    from radrank.core.snapshot import current, open_snapshot
    from radrank.server.building import matching_factory
    from radrank.server.home import snapshots_of
    from radrank.server.recall import KS, recalls
    from radrank.server.settings import load
    from radrank.server.tuning import tuned

    home = load(config_file, archive=archive).archive
    snapshots = snapshots_of(home)
    snapshot = open_snapshot(current(snapshots), factory=tuned(matching_factory(snapshots, None), home))
    typer.echo(f"{snapshot.path}: {len(snapshot.manifest['files'])} files are what the manifest says")
    table = Table("direction", "queries", *(f"recall@{k}" for k in KS), title=str(snapshot.manifest["index"]))
    lowest = 1.0
    for recall in recalls(snapshot, queries=queries):
        numbers = [f"{recall.at[k]:.4f}" for k in KS]
        table.add_row(f"{recall.source} → {recall.target}", f"{recall.queries:,}", *numbers)
        lowest = min(lowest, *recall.at.values())
    Console().print(table)
    if lowest < at_least:
        typer.secho(f"radrank: recall {lowest:.4f} is below {at_least}", fg="red", err=True)
        raise typer.Exit(1)


@index.command()
def tune(
    archive: ArchiveHome = None,
    bundle: BundlePath = None,
    recall: Annotated[
        float, typer.Option("--recall", min=0.01, max=1.0, help="Of the exact scan's k, found in every direction.")
    ] = 0.95,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, metavar="K", help="Candidates a search asks for.")] = 100,
    queries: Annotated[int, typer.Option("--queries", min=1, metavar="N", help="Of each modality.")] = 500,
    config_file: Config = None,
) -> None:
    """Find how far HNSW must look in each direction (its ef) for this recall, and keep that in the archive's home.

    Queries are items of the archive, so cross-modal directions are measured with what will really ask. `radrank serve`
    reads the result when it starts. A server of this archive may run meanwhile. --bundle: checks that the vectors are
    its encoders'.

    Example: radrank index tune --archive archive --recall 0.95
    """
    from rich.console import Console
    from rich.table import Table

    from radrank.core.snapshot import current, open_snapshot
    from radrank.server.building import matching_factory
    from radrank.server.home import snapshots_of
    from radrank.server.settings import load
    from radrank.server.tuning import save_tuning, tuned, tuning_steps
    from radrank.server.tuning import tune as tuned_directions

    settings = load(config_file, archive=archive)
    home, snapshots = settings.archive, snapshots_of(settings.archive)
    factory = tuned(matching_factory(snapshots, None), home)
    encoder = None if bundle is None else _encoder_of(bundle)
    snapshot = open_snapshot(current(snapshots), factory=factory, encoder=encoder)
    with _bar("tuning", tuning_steps(snapshot, k), unit="steps") as step:
        found = list(tuned_directions(snapshot, k=k, recall=recall, queries=queries, step=step))
    columns = ("direction", "rows", "queries", "ef before", f"recall@{k}", "µs", "ef", f"recall@{k}", "µs")
    table = Table(*columns, title=factory.name)
    for one in found:
        efforts = [
            number
            for effort in (one.found.before, one.found.after)
            for number in (f"{effort.ef:,}", f"{effort.recall:.4f}", f"{effort.p50:,.0f}")
        ]
        table.add_row(one.name, f"{one.rows:,}", f"{one.found.queries:,}", *efforts)
    Console().print(table)
    typer.echo(f"wrote {save_tuning(home, factory.name, found, k=k, recall=recall)}; a server reads it when it starts")
    missed = [one.name for one in found if not one.found.suffices]
    if missed:
        typer.secho(
            f"radrank: no ef gives recall {recall} for {', '.join(missed)}; the largest tried is kept",
            fg="red",
            err=True,
        )
        raise typer.Exit(1)


@index.command()
def info(archive: ArchiveHome = None, config_file: Config = None) -> None:
    """What the archive and its snapshot hold.

    Example: radrank index info --archive archive
    """
    import json

    from radrank.core.archive import Archive
    from radrank.core.errors import NotFound
    from radrank.core.layout import VectorLayout
    from radrank.core.snapshot import current
    from radrank.server.home import database_of, snapshots_of
    from radrank.server.settings import load

    home = load(config_file, archive=archive).archive
    if not database_of(home).is_file():
        raise NotFound(f"archive {home}", "make one with `radrank index build`")
    store = Archive(database_of(home))
    counts, sequence = store.counts(), store.sequence
    store.close()
    path = current(snapshots_of(home))
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    # One that another version laid out is described too; the server builds it anew.
    dimensions = VectorLayout.from_json(manifest["layout"]).dimensions if "layout" in manifest else "unknown"
    held = manifest["counts"]
    size = sum(file["bytes"] for file in manifest["files"].values())
    for name, value in (
        ("archive", f"{home} · {counts.studies:,} studies, {counts.images:,} images, {counts.reports:,} reports"),
        ("normal", f"{counts.normal:,} normal, {counts.abnormal:,} abnormal"),
        ("labels", ", ".join(f"{label} {n:,}" for label, n in counts.labels[:8]) or "none"),
        ("snapshot", f"{path} · {held['studies']:,} studies, {size / 2**20:.1f} MiB, built {manifest['created']}"),
        ("index", f"{manifest['index']} · {dimensions} dimensions"),
        ("encoder", manifest["encoder"][:12]),
        ("changes", f"{sequence - manifest['sequence']:,} since the snapshot (sequence {sequence:,})"),
    ):
        typer.echo(f"{name:<10}{value}")


def _encoder_of(bundle: Path) -> str:
    from radrank.engines.manifest import read_manifest

    return read_manifest(bundle)[0].encoder_id


def _reencode(store: Archive, engines: Engines) -> None:
    from radrank.server.building import reencode

    with _bar("re-encoding", store.counts().studies, unit="studies") as step:
        reencode(store, engines, step=step)


def _import(store: Archive, engines: Engines, reader: Reader, *, strict: bool) -> None:
    from radrank.server.building import import_studies

    skipped: list[BadStudy] = []

    def on_bad(bad: BadStudy) -> None:
        if strict:
            raise bad
        skipped.append(bad)

    with _bar("importing", len(reader), unit="studies") as step:
        done = import_studies(store, engines, reader, on_bad=on_bad, step=step)
    skipped = [*reader.skipped, *skipped]
    typer.echo(f"{done.added:,} studies added, {done.replaced:,} replaced, {len(skipped):,} skipped")
    _list(skipped)
    for reason, count in reader.left_out.items():
        typer.echo(f"  left out: {count:,} · {reason}")


def _list(skipped: Sequence[BadStudy]) -> None:
    for bad in skipped[:_LISTED]:
        typer.echo(f"  skipped: {bad}")
    if len(skipped) > _LISTED:
        typer.echo(f"  … and {len(skipped) - _LISTED:,} more")


@contextmanager
def _bar(name: str, total: int, *, unit: str) -> Iterator[Step]:
    """A progress bar on standard error; yields what to call for each step done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total)
        yield lambda: progress.advance(task)
