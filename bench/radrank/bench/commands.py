"""`radrank bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radrank.bench import _gpu_commands, _load_commands, _peers_commands, _scale_commands
from radrank.training.commands import Backbone, Dataset, Root, Weights

bench = typer.Typer(
    help="Measurements that take long: their tables stand in docs/.", no_args_is_help=True, rich_markup_mode="rich"
)


@bench.callback()
def _bench() -> None:
    """Measurements that take long: their tables stand in docs/."""


@bench.command(epilog="Example: radrank bench quality --dataset openi --root data/openi --out results/quality")
def quality(
    context: typer.Context,
    dataset: Dataset,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Runs and results; what is there already is used.")],
    root: Root = None,
    seeds: Annotated[int, typer.Option(help="Of every learned row.", min=1)] = 5,
    backbone: Backbone = "compact",
    weights: Weights = None,
    tower_epochs: Annotated[int, typer.Option(help="Of the image tower's last stages; 0 leaves it.", min=0)] = 6,
    transfer: Annotated[str, typer.Option(help="Another data set, judged whole with this one's encoders.")] = "",
    transfer_root: Annotated[Path | None, typer.Option(metavar="PATH", help="Its folder (csv: its file).")] = None,
    candidates: Annotated[int, typer.Option(help="Re-ranked per query.", min=10, max=1000)] = 100,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.", min=20)] = 1000,
    workers: Annotated[int, typer.Option(help="Queries judged at a time.", min=1)] = 1,
) -> None:
    """Train every seed, recipe, re-ranker and control, and judge them on the test split.

    Writes heads.md (losses and inputs compared), report.md (all rows of the protocol, with intervals), transfer.md, the
    same as JSON, and plots. Open-i with five seeds takes some hours on 2 cores; an interrupted command goes on where it
    stopped.
    """
    from rich.console import Console

    from radrank.bench.quality import Options
    from radrank.bench.quality import quality as judged
    from radrank.evaluation.commands import said
    from radrank.evaluation.figures import save_figures
    from radrank.evaluation.markdown import markdown, show
    from radrank.evaluation.serial import save
    from radrank.training.progress import RichReporter

    options = Options(
        dataset=dataset,
        root=root,
        out=out,
        seeds=seeds,
        backbone=backbone,
        weights=weights,
        tower_epochs=tower_epochs,
        transfer=(transfer, transfer_root) if transfer else None,
        candidates=candidates,
        draws=draws,
        workers=workers,
        command=said(context, "radrank", "bench", "quality"),
    )
    found = judged(options, reporter=RichReporter())
    reports = {"heads": found.heads, "report": found.findings.report} | {
        f"transfer-{part}": findings.report for part, findings in found.transfers.items()
    }
    for name, report in reports.items():
        save(report, out / f"{name}.json")
        (out / f"{name}.md").write_text(markdown(report), encoding="utf-8")
    plots = save_figures({"": found.findings}, found.clouds, out)
    console = Console()
    show(found.heads, console)
    show(found.findings.report, console)
    for name, (graph, rerank) in found.costs.items():
        typer.echo(
            f"{name:<16} graph {graph:.2f} ms, re-rank {rerank:.2f} ms a query, {candidates} candidates, one thread"
        )
    typer.echo(f"wrote {', '.join(f'{name}.md' for name in reports)} and {len(plots)} plots into {out}")
    if not all(found.findings.report.leaks.values()):
        raise typer.Exit(1)


bench.command(epilog=_load_commands.EXAMPLE)(_load_commands.load)
bench.command(epilog="Example: radrank bench scale --out results/scale")(_scale_commands.scale)
bench.command(epilog="Example: radrank bench footprint --bundle bundles/openi --out results/footprint")(
    _scale_commands.footprint
)
bench.command(epilog=_peers_commands.BUNDLE_EXAMPLE)(_peers_commands.bundle)
bench.command(epilog=_peers_commands.PEERS_EXAMPLE)(_peers_commands.peers)
bench.command(epilog=_peers_commands.STAGES_EXAMPLE)(_peers_commands.stages)
bench.command(epilog=_gpu_commands.EXAMPLE)(_gpu_commands.gpu)
