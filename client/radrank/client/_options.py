"""Options that the client's commands share, and how their words are read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from radrank.client.client import Client

DEFAULT_SERVER = "127.0.0.1:50051"
READABLE: Any = {"exists": True, "dir_okay": False, "readable": True}

_SERVER = "Server"

Server: TypeAlias = Annotated[
    str,
    typer.Option("--server", envvar="RADRANK_SERVER", metavar="HOST:PORT", help="Who to ask.", rich_help_panel=_SERVER),
]
TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="RADRANK_TOKEN_FILE",
        metavar="FILE",
        help="Holds the access token.",
        rich_help_panel=_SERVER,
        **READABLE,
    ),
]
Authority: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="RADRANK_CA",
        metavar="FILE",
        help="PEM file of the authority behind the server's certificate; turns TLS on.",
        rich_help_panel=_SERVER,
        **READABLE,
    ),
]
Timeout: TypeAlias = Annotated[
    float,
    typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long to wait.", rich_help_panel=_SERVER),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON, for programs.")]


def connect(server: str, token_file: Path | None, ca: Path | None, timeout: float) -> Client:
    """The client that the shared options describe."""
    from radrank.client.client import Client

    return Client(server, token=token_in(token_file), ca=ca, timeout=timeout)


def token_in(token_file: Path | None) -> str | None:
    """The token that the file holds, None without a file."""
    if token_file is None:
        return None
    token = token_file.read_text("utf-8").strip()
    if not token or len(token.split()) > 1:
        raise typer.BadParameter("must hold one token on one line", param_hint="'--token-file'")
    return token


def day(text: str | None, option: str) -> date | None:
    """From YYYY-MM-DD."""
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter("must be a day such as 2024-06-30", param_hint=f"'{option}'") from None


def several(words: Iterable[str] | None) -> list[str]:
    """The words of a repeated option, which may also be joined by commas."""
    return [part.strip() for word in words or () for part in word.split(",") if part.strip()]
