"""Options that the server's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

BundlePath: TypeAlias = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="DIR", help="Made by `radrank export`. [RADRANK_BUNDLE, else ./bundle]"),
]
ArchiveHome: TypeAlias = Annotated[
    Path | None,
    typer.Option("--archive", metavar="DIR", help="The archive's home. [RADRANK_ARCHIVE, else ./archive]"),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="RADRANK_CONFIG", metavar="FILE.toml", help="Settings; `radrank config show` prints one."
    ),
]
