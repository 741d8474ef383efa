"""`radrank bench scale` and `radrank bench footprint`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Seed: TypeAlias = Annotated[int, typer.Option(help="Of the made-up vectors.", min=0)]
Threads: TypeAlias = Annotated[
    int, typer.Option(help="Of index builds; 0: one a core. Only builds with 1 are the same every time.", min=0)
]


def scale(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Vectors, indexes and results; what is there is used.")],
    rows: Annotated[str, typer.Option(metavar="N,N,…", help="Sizes of the gallery.")] = "10000,100000,1000000",
    dimensions: Annotated[int, typer.Option(help="Of a vector.", min=3)] = 512,
    recall: Annotated[
        float, typer.Option(help="Of the exact scan's k that ef is tuned for.", min=0.01, max=1.0)
    ] = 0.95,
    k: Annotated[int, typer.Option(help="Candidates a search asks for.", min=1, max=1000)] = 100,
    queries: Annotated[int, typer.Option(help="Of each direction.", min=1)] = 500,
    m: Annotated[int, typer.Option(help="HNSW's links a node.", min=2, max=128)] = 32,
    ef_construction: Annotated[int, typer.Option(help="Nodes that a build keeps in view.", min=8)] = 200,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Measure candidate search over ten thousand, a hundred thousand and a million made-up vectors.

    Latency at recall@100 ≥ 0.95 against the exact scan in both kinds of direction (ef tuned for each), memory, and the
    time of a build. Writes scale.json, scale.md and scale.png. A million rows of 512 take about 5 GB of disk and memory
    each, and most of an hour on 2 cores; an interrupted command goes on with the next vectors or index.
    """
    from dataclasses import asdict

    from radrank.bench._scale_report import growth, reached, scale_markdown, scale_plot
    from radrank.bench.scale import Options, measure
    from radrank.core.files import write_json
    from radrank.evaluation.commands import said

    options = Options(
        rows=_numbers(rows),
        dimensions=dimensions,
        queries=queries,
        k=k,
        recall=recall,
        m=m,
        ef_construction=ef_construction,
        threads=threads or _cores(),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    command = said(context, "radrank", "bench", "scale")
    sizes = []
    for size in measure(options, out, _bar):
        sizes.append(size)
        write_json(out / "scale.json", {"command": command, "sizes": [asdict(one) for one in sizes]})
        (out / "scale.md").write_text(scale_markdown(sizes, command), encoding="utf-8")
        for by in size.searched:
            typer.echo(
                f"{size.rows:>9,} rows · {by.source} → {by.target} · ef {by.ef} · recall@{k} {by.recall:.4f}"
                f" · p50 {by.p50 / 1e3:.3f} ms · exact {by.exact_p50 / 1e3:.2f} ms"
            )
    scale_plot(sizes, out / "scale.png")
    for line in growth(sizes):
        typer.echo(line)
    typer.echo(f"wrote scale.json, scale.md and scale.png into {out}")
    if not reached(sizes):
        typer.secho(f"radrank: no ef gives recall {recall} in every direction", fg="red", err=True)
        raise typer.Exit(1)


def footprint(
    context: typer.Context,
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="Serves; its space is that of the vectors.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The archive and the results; what is there is used.")],
    studies: Annotated[int, typer.Option(help="Each with one image and a report: two vectors.", min=1)] = 302_000,
    searches: Annotated[int, typer.Option(help="Re-ranked, by embedding, one after the other.", min=1)] = 1_000,
    threads: Threads = 0,
    seed: Seed = 0,
) -> None:
    """Serve made-up studies, and measure the start and the memory of the server's process.

    302,000 studies are as many vectors (604,000) as MIMIC-CXR has images and reports. The start is measured from disk
    and from the page cache, memory after it and after the searches. Writes footprint-<studies>.json and .md.
    """
    from dataclasses import asdict

    from radrank.bench._scale_report import footprint_markdown
    from radrank.bench.footprint import footprint as measured
    from radrank.bench.footprint import make_home
    from radrank.core.files import write_json
    from radrank.evaluation.commands import said

    home = out / f"home-{studies}"
    make_home(home, bundle, studies, threads=threads or _cores(), bar=_bar, seed=seed)
    found = measured(home, bundle, searches=searches, bar=_bar, seed=seed)
    command = said(context, "radrank", "bench", "footprint")
    write_json(out / f"footprint-{studies}.json", {"command": command} | asdict(found))
    told = footprint_markdown(found, command)
    (out / f"footprint-{studies}.md").write_text(told, encoding="utf-8")
    typer.echo(told)
    typer.echo(f"wrote footprint-{studies}.json and footprint-{studies}.md into {out}")


def _numbers(words: str) -> tuple[int, ...]:
    from radrank.core.errors import InvalidQuery

    try:
        return tuple(int(word.replace("_", "")) for word in words.split(","))
    except ValueError:
        raise InvalidQuery("rows", "must be whole numbers with commas between, such as 10000,100000") from None


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; what it yields is told how much is done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)
