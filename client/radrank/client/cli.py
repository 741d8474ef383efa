"""The `radrank` command: one table from command to the module that holds it, loaded when it is called.

The module has an attribute named after the command: a function (one command) or a `typer.Typer` (a group).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import FunctionType
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from radrank.client.errors import ClientError


class Entry(NamedTuple):
    """A command's module, the extra that installs what it needs ("": the base install), and a line of help."""

    module: str
    extra: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "search": Entry("radrank.client.commands", "", "Find studies by an image, by words or by a study."),
    "archive": Entry("radrank.client.commands", "", "Look at and change the archive of a running server."),
    "serve": Entry("radrank.server.commands", "server", "Answer searches over gRPC."),
    "index": Entry("radrank.server.commands", "server", "Build an archive's snapshot: vectors, HNSW and graph."),
    "config": Entry("radrank.server.commands", "server", "Show and check the server's settings."),
    "train": Entry("radrank.training.commands", "train", "Fine-tune the dual encoder and the graph re-ranker."),
    "export": Entry("radrank.export.commands", "export", "Turn trained weights into a bundle for serving."),
    "evaluate": Entry("radrank.evaluation.commands", "evaluate", "Judge a bundle: tables and plots, with intervals."),
    "bench": Entry("radrank.bench.commands", "bench", "Measure: quality, speed beside others', load, scale."),
    "demo": Entry("radrank.export.commands", "export", "Make a bundle and an archive to try radrank with."),
}


_SMALLER: Mapping[str, str] = {"onnx": "convert"}
"""Modules that some of a command needs, and the extra that brings these without the rest of the command's."""


class LazyCommand(TyperCommand):
    """A name and a line of help; the command itself is imported when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help, rich_markup_mode=None)
        self.entry = entry

    # The context belongs to the loaded command, so parsing, help and completion are its own.
    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """The command, from its module. ModuleNotFoundError where a package is not installed."""
        assert self.name is not None
        found = getattr(import_module(self.entry.module), self.name)
        if isinstance(found, FunctionType):
            app = typer.Typer(add_completion=False, rich_markup_mode="rich")
            app.command(self.name, no_args_is_help=False)(found)
            return typer.main.get_command(app)
        group = typer.main.get_group(found)
        group.name = self.name
        return group


def app() -> TyperGroup:
    """The root command."""
    root = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,  # drawn without rich, whose import takes longer than all else here
        help="Chest-radiograph retrieval with graph re-ranking.",
        epilog="`radrank COMMAND --help` shows a command's options and examples.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_root)
    group = typer.main.get_group(root)
    for name, entry in COMMANDS.items():
        group.add_command(LazyCommand(name, entry))
    return group


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda asked: _version(asked), help="Show the version.")
    ] = False,
) -> None:
    pass


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"radrank {version('radrank')}")
        except PackageNotFoundError:  # a checkout on PYTHONPATH
            typer.echo("radrank (not installed)")
        raise typer.Exit


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    0: done. 1: an error said on purpose, in one line. 2: the command line is wrong, or a component is not installed.
    130: interrupted. Anything else is a bug and keeps its traceback.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        app().main(args=words, prog_name="radrank")
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        message = _missing(words, error)
        if message is None:
            raise
        _fail(message, code=2)
    except Exception as error:
        message = _on_purpose(error)
        if message is None:
            raise
        _fail(message, code=1)


def _missing(words: Sequence[str], error: ModuleNotFoundError) -> str | None:
    name = next((word for word in words if word in COMMANDS), None)
    if name is None or error.name is None:
        return None
    extra = _SMALLER.get(error.name, COMMANDS[name].extra)
    package = f'"radrank[{extra}]"' if extra else "radrank"
    return (
        f"radrank {name} needs packages that are not installed; run: pip install {package}"
        f"  (missing module: {error.name})"
    )


def _on_purpose(error: Exception) -> str | None:
    """The line that says what is wrong, None for a bug."""
    if isinstance(error, ClientError):
        return f"error: {error}"
    # By what is loaded: an error of a module that nobody imported can't have been raised.
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(error, grpc.RpcError):
        from radrank.client._status import from_rpc

        return f"error: {from_rpc(error, 'the server')}"
    core = sys.modules.get("radrank.core.errors")
    if core is not None and isinstance(error, core.RadrankError):
        return f"error: {error}"
    return None


def _fail(message: str, *, code: int) -> None:
    typer.secho(" ".join(message.splitlines()), fg="red", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
