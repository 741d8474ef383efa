"""`radrank config`: the server's settings as they would be used."""

from __future__ import annotations

import typer

from radrank.server._options import ArchiveHome, BundlePath, Config

config = typer.Typer(
    help="Show and check the server's settings.\n\nExample: radrank config show --config radrank.toml",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@config.command()
def show(config_file: Config = None, bundle: BundlePath = None, archive: ArchiveHome = None) -> None:
    """Print the settings in force as TOML, ready to be saved and changed. Of secrets it shows the files' names only.

    Example: radrank config show > radrank.toml
    """
    from radrank.server.settings import lines, load

    for line in lines(load(config_file, bundle=bundle, archive=archive)):
        typer.echo(line)


@config.command()
def check(config_file: Config = None, bundle: BundlePath = None, archive: ArchiveHome = None) -> None:
    """Check the settings, and that the files that they name are there and can be read.

    Example: radrank config check --config radrank.toml
    """
    from radrank.core.errors import NotFound
    from radrank.server.settings import load

    settings = load(config_file, bundle=bundle, archive=archive)
    settings.token()
    settings.certificates()
    settings.engines.check()
    if not (settings.bundle / "bundle.json").is_file():
        raise NotFound(f"bundle {settings.bundle}", "make one with `radrank export`, or try `radrank demo`")
    typer.echo("ok")
    if settings.is_exposed:
        typer.echo(f"warning: {settings.listen} can be reached from other machines without a token and TLS")
