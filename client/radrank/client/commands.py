"""`radrank search` and `radrank archive`: what a person at a terminal asks a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radrank.client._archive_commands import archive
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

if TYPE_CHECKING:
    from radrank.client.client import Client
    from radrank.client.requests import SearchOptions

__all__ = ["archive", "search"]

_FILTERS = "Filters"


def search(
    image: Annotated[
        Path | None,
        typer.Option("--image", "-i", metavar="FILE", help="Ask by a JPEG, PNG or DICOM.", **READABLE),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", metavar="WORDS", help="Ask by words.")] = None,
    study: Annotated[
        str | None, typer.Option("--study", "-s", metavar="ID", help="Ask by a study of the archive.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="image|report", help="What to rank. Default: reports for an image, images for words."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, metavar="N", help="Hits wanted.")] = 10,
    candidates: Annotated[
        int,
        typer.Option("--candidates", min=0, max=1000, metavar="N", help="Studies to re-rank. 0: the server's default."),
    ] = 0,
    reranker: Annotated[
        str | None,
        typer.Option("--reranker", metavar="NAME|off", help="Default: the bundle's. off: the encoder's own order."),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="VIEW", help="pa, ap, frontal, lateral; may repeat.", rich_help_panel=_FILTERS),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="LABEL",
            help="At least one of these findings; may repeat.",
            rich_help_panel=_FILTERS,
        ),
    ] = None,
    all_labels: Annotated[
        list[str] | None,
        typer.Option("--all-labels", metavar="LABEL", help="Every one of these; may repeat.", rich_help_panel=_FILTERS),
    ] = None,
    normal: Annotated[
        bool | None,
        typer.Option("--normal/--abnormal", help="Only normal, or only abnormal studies.", rich_help_panel=_FILTERS),
    ] = None,
    date_from: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help="On this day or later.", rich_help_panel=_FILTERS),
    ] = None,
    date_to: Annotated[
        str | None,
        typer.Option("--to", metavar="YYYY-MM-DD", help="On this day or earlier.", rich_help_panel=_FILTERS),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="ID", help="Leave this study out; may repeat.", rich_help_panel=_FILTERS),
    ] = None,
    one_per_patient: Annotated[
        bool,
        typer.Option("--one-per-patient", help="The best hit of each patient only.", rich_help_panel=_FILTERS),
    ] = False,
    allow_degraded: Annotated[
        bool,
        typer.Option("--allow-degraded", help="The encoder's own order where there is no time to re-rank."),
    ] = False,
    json: Json = False,
    save_sheet: Annotated[
        Path | None,
        typer.Option("--save-sheet", metavar="FILE.png", dir_okay=False, help="Draw the query and the hits' images."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    token_file: TokenFile = None,
    ca: Authority = None,
    timeout: Timeout = 10.0,
) -> None:
    """Find studies by an image, by words, or by a study of the archive.

    The table shows each hit's rank now, the encoder's own rank before, and how far re-ranking moved it.

    Example: radrank search --image chest.png -k 5 --view pa --save-sheet hits.png

    Example: radrank search --text "left pleural effusion" --from 2023-01-01 --json
    """
    if (image is not None) + (text is not None) + (study is not None) != 1:
        raise typer.BadParameter("give exactly one of --image, --text and --study")
    _must_be_writable(save_sheet)
    query: SearchOptions = {
        "image": image,
        "text": text,
        "study": study,
        "target": target,  # type: ignore[typeddict-item] # the client checks it
        "k": k,
        "candidates": candidates,
        "reranker": reranker,
        "views": several(view),
        "labels_any": several(label),
        "labels_all": several(all_labels),
        "normal": normal,
        "date_from": day(date_from, "--from"),
        "date_to": day(date_to, "--to"),
        "exclude": exclude or [],
        "one_per_patient": one_per_patient,
        "allow_degraded": allow_degraded,
        "include_report": True,
        "include_labels": True,
        "include_preview": save_sheet is not None,
    }
    from radrank.client import tables

    with connect(server, token_file, ca, timeout) as client:
        result = client.search(**query)
        if save_sheet is not None:
            from radrank.client import sheet

            asked = sheet.Asked(image=_asked_image(client, image, study), text=text or "", name=study or _name(image))
            sheet.save(save_sheet, asked, result)
    if json:
        tables.print_json(result)
    else:
        tables.print_hits(result)
        if save_sheet is not None:
            tables.note(f"sheet: {save_sheet}")


def _name(image: Path | None) -> str:
    return image.name if image is not None else ""


def _asked_image(client: Client, image: Path | None, study: str | None) -> bytes:
    if image is not None:
        return image.read_bytes()
    if study is not None:
        previews = [found.preview for found in client.get_study(study, previews=True).images]
        return next(filter(None, previews), b"")
    return b""


def _must_be_writable(sheet: Path | None) -> None:
    if sheet is None:
        return
    if sheet.suffix.lower() != ".png":
        raise typer.BadParameter("must end in .png", param_hint="'--save-sheet'")
    if not sheet.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {sheet.parent}", param_hint="'--save-sheet'")
