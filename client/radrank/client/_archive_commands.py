"""`radrank archive`: the archive of a running server, from the client's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radrank.client._options import (
    DEFAULT_SERVER,
    READABLE,
    Authority,
    Json,
    Server,
    Timeout,
    TokenFile,
    connect,
    day,
    several,
)

archive = typer.Typer(
    help="Look at and change the archive of a running server.\n\nExample: radrank archive stats",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@archive.command()
def stats(
    json: Json = False,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
    timeout: Timeout = 10.0,
) -> None:
    """What the archive holds, and what serves it.

    Example: radrank archive stats --server pacs-index:50051
    """
    from radrank.client import tables

    with connect(server, token_file, ca, timeout) as client:
        found = client.stats()
    (tables.print_json if json else tables.print_stats)(found)


@archive.command()
def show(
    study_id: Annotated[str, typer.Argument(metavar="ID")],
    json: Json = False,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
    timeout: Timeout = 10.0,
) -> None:
    """One study: its report, labels and images.

    Example: radrank archive show CXR1042
    """
    from radrank.client import tables

    with connect(server, token_file, ca, timeout) as client:
        found = client.get_study(study_id)
    (tables.print_json if json else tables.print_study)(found)


@archive.command()
def delete(
    study_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    json: Json = False,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
    timeout: Timeout = 30.0,
) -> None:
    """Remove studies; searches no longer find them when this returns.

    Example: radrank archive delete CXR1042 CXR1043
    """
    from radrank.client import tables

    with connect(server, token_file, ca, timeout) as client:
        done = client.delete(study_ids)
    if json:
        tables.print_json(done)
    else:
        typer.echo(f"deleted {done.deleted}, unknown {done.unknown} (archive sequence {done.sequence})")


@archive.command()
def upsert(
    study_id: Annotated[str, typer.Option("--study-id", metavar="ID", help="A pseudonym.")],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", metavar="FILE", help="JPEG, PNG or DICOM; may repeat.", **READABLE),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="VIEW", help="pa, ap, frontal or lateral; one for each --image, in order."),
    ] = None,
    findings: Annotated[str, typer.Option("--findings", metavar="TEXT", help="Of the report.")] = "",
    impression: Annotated[str, typer.Option("--impression", metavar="TEXT", help="Of the report.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="A finding label; may repeat.")
    ] = None,
    normal: Annotated[bool | None, typer.Option("--normal/--abnormal", help="Default: unknown.")] = None,
    patient: Annotated[str, typer.Option("--patient", metavar="ID", help="A pseudonym.")] = "",
    date: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="Of the study.")] = None,
    json: Json = False,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
    timeout: Timeout = 30.0,
) -> None:
    """Add a study, or replace the one with its id; searches find it when this returns.

    Example: radrank archive upsert --study-id CXR9001 --image pa.png --view pa --impression "No finding." --normal
    """
    from radrank.client import tables
    from radrank.client.requests import NewImage, NewStudy

    images, views = image or [], several(view)
    if views and len(views) != len(images):
        raise typer.BadParameter("give one --view for each --image, or none", param_hint="'--view'")
    study = NewStudy(
        study_id=study_id,
        patient_id=patient,
        images=[
            NewImage(content=path, view=name) for path, name in zip(images, views or [""] * len(images), strict=True)
        ],
        findings=findings,
        impression=impression,
        labels=several(label),
        normal=normal,
        date=day(date, "--date"),
    )
    with connect(server, token_file, ca, timeout) as client:
        done = client.upsert([study])
    if json:
        tables.print_json(done)
    else:
        typer.echo(f"added {done.added}, replaced {done.replaced} (archive sequence {done.sequence})")
