"""`radrank export` and `radrank demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Option(help="A run directory of `radrank train`.")],
    to: Annotated[Path, typer.Option(help="The bundle directory to write; it must not exist.")],
    name: Annotated[str, typer.Option(help="The bundle's name; its directory's if not given.")] = "",
    default: Annotated[
        str | None, typer.Option(help="Re-ranker for requests that name none; the best on validation if not given.")
    ] = None,
) -> None:
    """Write a bundle: encoders and re-rankers as ONNX, each checked against torch to 1e-4 before the bundle appears.

    [dim]Example: radrank export --run runs/openi --to bundles/openi[/dim]
    """
    from rich.console import Console

    from radrank.export.bundles import write_bundle
    from radrank.training.runs import Run

    with Console(stderr=True).status("exporting") as status:
        path = write_bundle(
            Run(path=run), to, name=name, default=default, step=lambda label: status.update(f"exporting: {label}")
        )
    typer.echo(
        f"wrote {path}; next: radrank index build --bundle {path} --archive archives/{path.name} --dataset … --root …"
    )


demo = typer.Typer(help="A made-up archive to try radrank with.", no_args_is_help=True, rich_markup_mode="rich")


@demo.callback()
def _demo() -> None:
    """A made-up archive to try radrank with: procedural phantoms and reports, no patient anywhere."""


@demo.command(epilog="Example: radrank demo build --to .demo")
def build(to: Annotated[Path, typer.Option(help="Directory for the run and the bundle.")] = Path(".demo")) -> None:
    """Train and export a bundle on the demo archive: the whole way, small, in a few minutes."""
    from rich.console import Console

    from radrank.core.graph import GraphSettings
    from radrank.export.bundles import write_bundle
    from radrank.training.heads import HeadSettings
    from radrank.training.listwise import RerankerSettings
    from radrank.training.pipeline import run_heads, run_rerankers
    from radrank.training.progress import RichReporter
    from radrank.training.reranker import SERVED
    from radrank.training.tower import TowerSettings

    reporter = RichReporter()
    run = run_heads(
        to / "run",
        dataset="demo",
        root=None,
        backbone="compact",
        weights=None,
        settings=HeadSettings(projection=96, hidden=256),
        tower=TowerSettings(epochs=0),  # phantoms need no tuning, and it would take longer than all the rest
        reporter=reporter,
    )
    settings = RerankerSettings(candidates=50)
    run_rerankers(run, SERVED, settings=settings, graph=GraphSettings(), reporter=reporter)
    with Console(stderr=True).status("exporting") as status:
        bundle = write_bundle(run, to / "bundle", name="demo", step=lambda label: status.update(f"exporting: {label}"))
    typer.echo(f"wrote {bundle}; next: radrank index build --bundle {bundle} --archive {to / 'archive'} --dataset demo")
