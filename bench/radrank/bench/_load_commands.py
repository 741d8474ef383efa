"""`radrank bench load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radrank.client._options import DEFAULT_SERVER, READABLE, Authority, Server, TokenFile

EXAMPLE = "Example: radrank bench load --rate auto,0.8x,2x --objective-ms 100 --seconds 30 --out results/load"

_LOAD, _ASKED = "Load", "What is asked"


def load(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For load.json, load.md, *.hgrm and latency.png.")],
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATES",
            help="Requests per second, such as 50,100,200. auto: searches for the highest rate within the objective; "
            "then 0.8x and 2x are multiples of it. Default: auto.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Instead of rates: a closed loop of N clients, each waiting for its answers.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    objective_ms: Annotated[float, typer.Option(min=0.1, help="For p99.", rich_help_panel=_LOAD)] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.5, help="That a run is measured.", rich_help_panel=_LOAD)] = 30.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds before that.", rich_help_panel=_LOAD)] = 3.0,
    deadline_ms: Annotated[
        float, typer.Option(min=1.0, max=50_000.0, help="Of each request.", rich_help_panel=_LOAD)
    ] = 10_000.0,
    in_flight: Annotated[
        int, typer.Option(min=1, help="While so many are unanswered, sends are skipped.", rich_help_panel=_LOAD)
    ] = 1000,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Connections.", rich_help_panel=_LOAD)] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrival times.", rich_help_panel=_LOAD)] = 0,
    kind: Annotated[
        str, typer.Option(metavar="text|image|embedding|study", help="Of the queries.", rich_help_panel=_ASKED)
    ] = "text",
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A sentence a line. Default: those of made-up reports.",
            rich_help_panel=_ASKED,
            **READABLE,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="image|report", help="What to rank.", rich_help_panel=_ASKED)
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="NAME|off", help="Default: the bundle's.", rich_help_panel=_ASKED)
    ] = None,
    k: Annotated[
        int, typer.Option("-k", "--k", min=1, max=1000, metavar="N", help="Hits wanted.", rich_help_panel=_ASKED)
    ] = 10,
    candidates: Annotated[
        int,
        typer.Option(min=0, max=1000, metavar="N", help="To re-rank. 0: the server's default.", rich_help_panel=_ASKED),
    ] = 0,
    allow_degraded: Annotated[
        bool,
        typer.Option(
            "--allow-degraded",
            help="Rather the encoder's own order than none; the share is reported.",
            rich_help_panel=_ASKED,
        ),
    ] = False,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """Load a running server and tell what its callers feel.

    An open loop: requests are due at random times (Poisson), whatever became of those before, and latency counts from
    when a request was due, so that a server that stalls can't hide it. A rate meets the objective when 99 in 100 of all
    planned requests were answered OK within it: errors and skipped sends count as misses. A run whose own sending is
    later than 1 ms at p99 is void, and the command then ends with 1.

    On the server's own machine, run it as root: its threads then get real-time scheduling and send on time.
    """
    from rich.console import Console

    from radrank.bench.load.plot import plot
    from radrank.bench.load.progress import Lines
    from radrank.bench.load.report import JSON_FILE, MARKDOWN_FILE, PLOT_FILE, show
    from radrank.bench.load.session import Options
    from radrank.bench.load.session import load as loaded
    from radrank.bench.load.sweep import words_of
    from radrank.client._options import token_in
    from radrank.evaluation.commands import said

    options = Options(
        server=server,
        token=token_in(token_file),
        ca=ca,
        rates=() if clients is not None and rate is None else tuple(words_of("auto" if rate is None else rate)),
        clients=clients,
        kind=kind,
        queries=queries,
        target=target,
        reranker=reranker,
        k=k,
        candidates=candidates,
        allow_degraded=allow_degraded,
        seconds=seconds,
        warm_up=warm_up,
        deadline=deadline_ms / 1e3,
        objective_ms=objective_ms,
        in_flight=in_flight,
        channels=channels,
        seed=seed,
        out=out,
        command=said(context, "radrank", "bench", "load"),
    )
    report = loaded(options, Lines())
    plot(report, out / PLOT_FILE)
    show(report, Console())
    typer.echo(f"wrote {JSON_FILE}, {MARKDOWN_FILE}, {PLOT_FILE} and the histograms into {out}")
    if report.void:
        raise typer.Exit(1)
