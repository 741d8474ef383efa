"""`radrank serve`, `radrank index` and `radrank config`. Heavy imports wait inside the functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from radrank.server._config_commands import config
from radrank.server._index_commands import index
from radrank.server._options import ArchiveHome, BundlePath, Config

if TYPE_CHECKING:
    from radrank.server.library import Library
    from radrank.server.settings import Settings

__all__ = ["config", "index", "serve"]

Listen: TypeAlias = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one. [127.0.0.1:50051]")
]


def serve(
    bundle: BundlePath = None,
    archive: ArchiveHome = None,
    listen: Listen = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Callers must send the token that it holds.")
    ] = None,
    index_name: Annotated[
        str | None, typer.Option("--index", metavar="hnsw|exact", help="Default: as the snapshot was built.")
    ] = None,
    config_file: Config = None,
) -> None:
    """Answer searches over gRPC until Ctrl-C or SIGTERM.

    Settings come from the command line, RADRANK_… in the environment, the TOML file of --config, and defaults.

    Example: radrank serve --bundle bundle --archive archive
    """
    from radrank.server import settings as tree

    settings = tree.load(
        config_file, bundle=bundle, archive=archive, listen=listen, token_file=token_file, index=index_name
    )
    from threadpoolctl import threadpool_limits

    from radrank.server import app, logs
    from radrank.server.loading import Opened

    logs.set_up(settings.logs.format, settings.logs.level)
    with Opened(settings) as opened:
        # Calls run side by side: more BLAS threads would only make them wait for one another.
        threadpool_limits(limits=1, user_api="blas")
        app.run(
            settings, opened.library, lambda address, library: _announce(settings, address, library), opened.reselect
        )


def _announce(settings: Settings, address: str, library: Library) -> None:
    counts = library.archive.counts()
    typer.echo(
        f"SERVING on {address} · {counts.studies:,} studies, {counts.images:,} images, {counts.reports:,} reports"
    )
    typer.echo(f'Try: {program()} search --text "right pleural effusion" -k 5{_connection(settings, address)}')


def program() -> str:
    """What a person types to call radrank: its path where the environment it is in is not activated."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "radrank" and shutil.which("radrank") is None else "radrank"


def _connection(settings: Settings, address: str) -> str:
    """The options with which the client reaches this server, where its defaults don't."""
    from radrank.server.settings import DEFAULT_LISTEN

    reached = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    said = "" if reached == DEFAULT_LISTEN else f" --server {reached}"
    if settings.token_file is not None:
        said += f" --token-file {settings.token_file}"
    if settings.tls.certificate is not None:
        said += f" --ca {settings.tls.certificate}"
    return said
