"""`radrank bench bundle`, `radrank bench peers` and `radrank bench stages`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

BUNDLE_EXAMPLE = "Example: radrank bench bundle --to bench/biomedclip"
PEERS_EXAMPLE = (
    "Example: radrank bench peers --run bench/biomedclip/run --bundle bench/biomedclip/bundle"
    " --archive bench/biomedclip/archive --out results/peers"
)
STAGES_EXAMPLE = (
    "Example: radrank bench stages --bundle bench/biomedclip/bundle --archive bench/biomedclip/archive"
    " --out results/stages"
)

Bundle: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Made by `radrank export` or `bench bundle`.")]
Archive: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Its archive's home; nothing may serve it now.")]
Out: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Where results go.")]
Queries: TypeAlias = Annotated[str, typer.Option(help="Whose studies ask: openi, mimic-cxr, csv, … or demo.")]
Root: TypeAlias = Annotated[Path | None, typer.Option(metavar="PATH", help="Its folder (csv: its file).")]
Count: TypeAlias = Annotated[int, typer.Option(help="Studies that ask, each with an image and a report.", min=1)]
Candidates: TypeAlias = Annotated[int, typer.Option(help="Re-ranked per query.", min=10, max=1000)]


def bundle(
    to: Annotated[Path, typer.Option(metavar="DIR", help="For checkpoint, run, bundle and archive: 2 GB.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="BiomedCLIP's open_clip checkpoint, in place of random weights.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Made-up studies in the archive.", min=200)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of all that is random.", min=0)] = 0,
) -> None:
    """Make a bundle of BiomedCLIP's shape and an archive for it, to time: it is not trained and knows nothing.

    ViT-B/16 at 224 pixels, BERT-base with a context of 256 tokens, 30,522 words; random heads and re-rankers, exported
    as any others. Takes some minutes and 6 GB of memory.
    """
    from radrank.bench.shaped import Shape, make
    from radrank.training.progress import RichReporter

    reporter = RichReporter()
    make(to, Shape(rows=rows, seed=seed), weights=weights, task=reporter.task, say=reporter.say)
    typer.echo(
        f"wrote {to / 'bundle'} and {to / 'archive'}, which know nothing; next: radrank bench peers --run {to / 'run'}"
        f" --bundle {to / 'bundle'} --archive {to / 'archive'} --out results/peers"
    )


def peers(
    context: typer.Context,
    run: Annotated[Path, typer.Option(metavar="DIR", help="The run that the bundle was exported from, with sage.")],
    bundle: Bundle,
    archive: Archive,
    out: Out,
    dataset: Queries = "demo",
    root: Root = None,
    queries: Count = 8,
    rounds: Annotated[int, typer.Option(help="Turns of each query on each side, three calls each.", min=1)] = 5,
    candidates: Candidates = 100,
) -> None:
    """Compare, in one run with the same weights: torch + hnswlib + PyG, our pipeline in process, and our server.

    All three answer every query in turn. Writes peers.json, peers.md and peers.png; exits with 1 where the re-ranked
    scores differ by more than 1e-4, or the server's hits from the pipeline's.
    """
    from radrank.bench._peers_report import peers_markdown, peers_plot
    from radrank.bench.peers import Options
    from radrank.bench.peers import peers as measured
    from radrank.datasets.progress import bar
    from radrank.evaluation.commands import said

    options = Options(
        run=run,
        bundle=bundle,
        archive=archive,
        dataset=dataset,
        root=root,
        queries=queries,
        rounds=rounds,
        candidates=candidates,
        command=said(context, "radrank", "bench", "peers"),
    )
    found = measured(options, task=bar)
    _write(out, "peers", peers_markdown(found), found.to_json(), partial(peers_plot, found))
    if not found.agrees:
        typer.secho("radrank: both sides must give the same answers before their times mean anything", err=True)
        raise typer.Exit(1)


def stages(
    context: typer.Context,
    bundle: Bundle,
    archive: Archive,
    out: Out,
    dataset: Queries = "demo",
    root: Root = None,
    queries: Count = 8,
    rounds: Annotated[int, typer.Option(help="Turns of each query and each floor, three calls each.", min=1)] = 10,
    candidates: Candidates = 100,
    reranker: Annotated[str | None, typer.Option(help="By name; default: the bundle's.")] = None,
) -> None:
    """Show where a search spends its time, stage by stage, beside the floor of each: its engine in a bare loop.

    Starts the server, and asks it by embedding, by text and by image over loopback, one query at a time, the floors in
    turn with them. Writes stages.json, stages.md and stages.png.
    """
    from radrank.bench._stages_report import stages_markdown, stages_plot
    from radrank.bench.stages import Options
    from radrank.bench.stages import stages as measured
    from radrank.datasets.progress import bar
    from radrank.evaluation.commands import said

    options = Options(
        bundle=bundle,
        archive=archive,
        dataset=dataset,
        root=root,
        queries=queries,
        rounds=rounds,
        candidates=candidates,
        reranker=reranker,
        command=said(context, "radrank", "bench", "stages"),
    )
    found = measured(options, task=bar)
    _write(out, "stages", stages_markdown(found), found.to_json(), partial(stages_plot, found))


def _write(out: Path, name: str, told: str, found: Any, plot: Callable[[Path], None]) -> None:
    from radrank.core.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(told, encoding="utf-8")
    write_json(out / f"{name}.json", found)
    plot(out / f"{name}.png")
    typer.echo(told)
    typer.echo(f"wrote {name}.json, {name}.md and {name}.png into {out}")
