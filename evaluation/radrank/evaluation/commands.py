"""`radrank evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SplitName(StrEnum):
    TEST = "test"
    VALIDATION = "validation"
    ALL = "all"


class ViewsName(StrEnum):
    ALL = "all"
    PRIMARY = "primary"


def evaluate(
    context: typer.Context,
    bundle: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Made by `radrank export`; again for each seed of one recipe.")
    ],
    dataset: Annotated[str, typer.Option(help="openi, mimic-cxr, mimic-cxr-jpg, csv, dicom or demo.")],
    root: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data set's folder (csv: its file). demo needs none.")
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="What is judged. Default: test; with --transfer all.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where results go. Default: results/<bundle>-<split>.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A bundle whose embedding is a row to compare with.")
    ] = None,
    baseline_name: Annotated[str, typer.Option(metavar="NAME", help="Of that row.")] = "CLIP loss alone",
    archive: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A snapshot, or an archive's home, in place of the train split.")
    ] = None,
    transfer: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Root of the data set that the bundle was trained on.")
    ] = None,
    views: Annotated[ViewsName, typer.Option(help="All images of a study, or its primary frontal.")] = ViewsName.ALL,
    candidates: Annotated[int, typer.Option(help="Re-ranked per query.", min=10, max=1000)] = 100,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.", min=20)] = 1000,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.", min=1)] = None,
) -> None:
    """Judge a bundle: its embedding, training-free methods and every re-ranker, in four directions.

    Prints the table and writes report.json, report.md and plots. Nothing is tuned on what is judged: parameters come
    from validation, and the archive is the train split. Leak tests that fail exit with 1.

    [dim]Example: radrank evaluate --bundle bundles/openi --dataset openi --root data/openi --split test[/dim]

    Bundles of several seeds are averaged; --baseline adds the embedding of a bundle by the CLIP loss alone:

    [dim]Example: radrank evaluate --bundle b/s0 --bundle b/s1 --baseline b/clip --dataset openi --root data/openi[/dim]

    Another data set than the bundle was trained on, with the archive of either and of both:

    [dim]Example: radrank evaluate --bundle bundles/openi --dataset csv --root data/covid --transfer data/openi[/dim]

    A folder of studies never seen before, beside an archive that is in use:

    [dim]Example: radrank evaluate --bundle bundles/openi --dataset openi --root new --split all --archive archive[/dim]
    """
    from rich.console import Console

    from radrank.datasets.progress import bar
    from radrank.evaluation.assembly import Options, run
    from radrank.evaluation.figures import save_figures
    from radrank.evaluation.markdown import markdown, show
    from radrank.evaluation.serial import save

    chosen = split or (SplitName.ALL if transfer else SplitName.TEST)
    options = Options(
        bundles=bundle,
        dataset=dataset,
        root=root,
        split=chosen.value,
        baseline=baseline,
        baseline_name=baseline_name,
        archive=archive,
        transfer=transfer,
        views=views.value,
        candidates=candidates,
        draws=draws,
        threads=threads,
        command=said(context, "radrank", "evaluate"),
    )
    outcome = run(options, bar)
    out = out or Path("results") / f"{outcome.name}-{chosen}"
    out.mkdir(parents=True, exist_ok=True)
    save(outcome.report, out / "report.json")
    (out / "report.md").write_text(markdown(outcome.report), encoding="utf-8")
    plots = save_figures(outcome.parts, outcome.clouds, out)
    show(outcome.report, Console())
    typer.echo(f"wrote report.json, report.md and {len(plots)} plots into {out}")
    if not all(outcome.report.leaks.values()):
        raise typer.Exit(1)


def said(context: typer.Context, *command: str) -> str:
    """The command line, as far as it was given."""
    import shlex

    words = [*command]
    options = {param.name: max(param.opts, key=len) for param in context.command.params}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [options[name], *([] if one is True else [str(one)])]
    return shlex.join(words)
