"""`radrank bench bundle`, `radrank bench peers` and `radrank bench stages`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from radrank.bench.triton_peers import Options as TritonOptions

BUNDLE_EXAMPLE = "Example: radrank bench bundle --to bench/biomedclip"
PEERS_EXAMPLE = (
    "Example: radrank bench peers --run bench/biomedclip/run --bundle bench/biomedclip/bundle"
    " --archive bench/biomedclip/archive --out results/peers\n\nBeside Triton: radrank bench peers --with triton"
    " --bundle .demo/bundle --archive .demo/archive --out results/triton"
)
STAGES_EXAMPLE = (
    "Example: radrank bench stages --bundle bench/biomedclip/bundle --archive bench/biomedclip/archive"
    " --out results/stages"
)

_WITH_TRITON = "With Triton"


class Peer(StrEnum):
    """Whom our server is measured beside."""

    TRITON = "triton"


class Asked(StrEnum):
    """Kinds of queries."""

    EMBEDDING = "embedding"
    TEXT = "text"
    IMAGE = "image"


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
    bundle: Bundle,
    archive: Archive,
    out: Out,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run that the bundle was exported from, with sage; not with Triton."),
    ] = None,
    dataset: Queries = "demo",
    root: Root = None,
    queries: Count = 8,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Turns of each query on each side, three calls each; default 5. Of each load; default 3.", min=1
        ),
    ] = None,
    candidates: Candidates = 100,
    seconds: Annotated[
        float | None,
        typer.Option(help="Of a turn in which throughput is compared; default 4, with Triton 3.", min=0.2),
    ] = None,
    beside: Annotated[
        Peer | None,
        typer.Option("--with", help="Compare our server with NVIDIA Triton instead.", rich_help_panel=_WITH_TRITON),
    ] = None,
    kind: Annotated[
        list[Asked] | None,
        typer.Option(help="Of the queries; again for more. Default: embedding, text.", rich_help_panel=_WITH_TRITON),
    ] = None,
    tritonserver: Annotated[
        str,
        typer.Option(
            metavar="CMD",
            help="Starts Triton. {repository} in it stands for the model repository, else it is given as an option.",
            rich_help_panel=_WITH_TRITON,
        ),
    ] = "tritonserver",
    perf_analyzer: Annotated[
        str, typer.Option(metavar="CMD", help="Starts NVIDIA's load generator.", rich_help_panel=_WITH_TRITON)
    ] = "perf_analyzer",
) -> None:
    """Compare, in one run with the same weights: torch + hnswlib + PyG, our pipeline in process, and our server.

    All three answer every query in turn. Writes peers.json, peers.md and peers.png; exits with 1 where the re-ranked
    scores differ by more than 1e-4, or the server's hits from the pipeline's.

    --with triton: our server and a real Triton serve the same bundle and archive with ONNX Runtime on the CPU, and
    perf_analyzer asks them in turn, 1, 4 and 16 at once and at random. Writes peers-triton.json, .md and .png; exits
    with 1 where their answers differ. Triton's Python needs "radrank\\[server,cpu]".
    """
    from radrank.evaluation.commands import said

    command = said(context, "radrank", "bench", "peers")
    if beside is not None:
        from radrank.bench import triton_peers as triton

        _beside_triton(
            triton.Options(
                bundle=bundle,
                archive=archive,
                out=out,
                tritonserver=tritonserver,
                perf_analyzer=perf_analyzer,
                kinds=tuple(kind or triton.KINDS),
                dataset=dataset,
                root=root,
                queries=queries,
                rounds=rounds or 3,
                candidates=candidates,
                seconds=seconds or 3.0,
                command=command,
            )
        )
        return
    if run is None:
        raise typer.BadParameter("Missing option '--run'; or compare with Triton: --with triton", context)
    from radrank.bench._peers_report import peers_markdown, peers_plot
    from radrank.bench.peers import Options
    from radrank.bench.peers import peers as measured
    from radrank.datasets.progress import bar

    options = Options(
        run=run,
        bundle=bundle,
        archive=archive,
        dataset=dataset,
        root=root,
        queries=queries,
        rounds=rounds or 5,
        candidates=candidates,
        seconds=seconds or 4.0,
        command=command,
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


def _beside_triton(options: TritonOptions) -> None:
    from radrank.bench._triton_report import triton_markdown, triton_plot
    from radrank.bench.triton_peers import triton_peers
    from radrank.datasets.progress import bar

    found = triton_peers(options, task=bar)
    _write(options.out, "peers-triton", triton_markdown(found), found.to_json(), partial(triton_plot, found))


def _write(out: Path, name: str, told: str, found: Any, plot: Callable[[Path], None]) -> None:
    from radrank.core.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(told, encoding="utf-8")
    write_json(out / f"{name}.json", found)
    plot(out / f"{name}.png")
    typer.echo(told)
    typer.echo(f"wrote {name}.json, {name}.md and {name}.png into {out}")
