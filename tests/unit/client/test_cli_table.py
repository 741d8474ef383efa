"""The `radrank` command's table: light, lazy, and helpful where a component is absent."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import types
from typing import Annotated

import grpc
import pytest
import typer

from radrank.client import cli
from radrank.client.errors import NotFound


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "radrank.client.cli", *words], capture_output=True, text=True, check=False
    )


def leave(words):
    """The exit status of the command line, in this process."""
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return left.value.code


@pytest.fixture
def component(monkeypatch):
    """A made-up component with a command `echo` and a group `tools`."""
    module = types.ModuleType("made_up_component")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries = {name: cli.Entry(module.__name__, "made", f"Does {name}.") for name in ("echo", "tools")}
    monkeypatch.setattr(cli, "COMMANDS", entries)
    return module


def test_help_names_every_command_fast():
    took = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help")
        took.append(time.perf_counter() - start)
    assert done.returncode == 0
    for name, entry in cli.COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(entry.help)}$", done.stdout, re.M)
    assert min(took) < 1.0  # 0.1 s on a quiet machine; the promise is 0.3 s


@pytest.mark.parametrize("words", [["--help"], ["search", "--help"], ["archive", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom radrank.client import cli\n"
        f"try:\n    cli.main({words!r})\nexcept SystemExit as left:\n    assert not left.code\n"
        "heavy = {'grpc', 'numpy', 'torch', 'PIL', 'google.protobuf', 'radrank.core'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: radrank" in done.stdout


def every_command(words, command):
    """Its words, and the command itself; those of a group too."""
    yield words, command
    for name, one in getattr(command, "commands", {}).items():
        yield from every_command([*words, name], one)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_every_word_that_was_written(name, monkeypatch, capsys):
    """Rich takes words in brackets for styles: other than [dim] they must be escaped, or are swallowed."""
    monkeypatch.setenv("COLUMNS", "400")
    for words, command in every_command([name], cli.LazyCommand(name, cli.COMMANDS[name]).load()):
        assert leave([*words, "--help"]) == 0
        shown = capsys.readouterr().out.split()
        texts = [command.help, command.epilog, *(getattr(given, "help", None) for given in command.params)]
        written = re.sub(r"\[/?dim\]", "", " ".join(text for text in texts if text)).replace("\\[", "[").split()
        assert [word for word in written if word not in shown] == [], " ".join(words)


def test_version():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("radrank ")


def test_a_typing_slip_gets_a_suggestion():
    done = run("serch")
    assert done.returncode == 2
    assert "Did you mean 'search'" in done.stderr


def test_functions_and_groups_are_found_by_name(component, capsys):
    def echo(word: str, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Says it."""
        typer.echo(word.upper() if loud else word)

    component.echo = echo
    component.tools = typer.Typer()

    @component.tools.command()
    def only() -> None:
        typer.echo("the group's only command")

    assert leave(["echo", "hello", "--loud"]) == 0
    assert leave(["tools", "only"]) == 0
    assert capsys.readouterr().out == "HELLO\nthe group's only command\n"
    assert leave(["echo", "--help"]) == 0
    assert "Usage: radrank echo" in capsys.readouterr().out
    assert leave(["tools", "--help"]) == 0
    assert "Usage: radrank tools" in capsys.readouterr().out


def test_a_component_that_is_not_installed_names_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", {"train": cli.Entry("absent_component.commands", "train", "Trains.")})
    assert leave(["train", "--epochs", "3"]) == 2
    said = capsys.readouterr().err
    assert said == (
        'radrank train needs packages that are not installed; run: pip install "radrank[train]"'
        "  (missing module: absent_component)\n"
    )


def test_so_does_a_package_that_is_missed_only_when_the_command_runs(component, capsys):
    def echo() -> None:
        import absent_package  # noqa: F401

    component.echo = echo
    assert leave(["echo"]) == 2
    assert "missing module: absent_package" in capsys.readouterr().err


def test_converting_asks_for_less_than_exporting(component, monkeypatch, capsys):
    def echo() -> None:
        import onnx  # noqa: F401

    component.echo = echo
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert leave(["echo"]) == 2
    assert 'pip install "radrank[convert]"' in capsys.readouterr().err


class RadrankError(Exception):
    """Stands in for radrank.core.errors.RadrankError, which the client may not import."""


class Call(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.NOT_FOUND

    def details(self):
        return "no such\nstudy"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFound("no such study"), "error: no such study\n"),
        (Call(), "error: no such study\n"),
        (RadrankError("bundle.json is not\nwhat it was"), "error: bundle.json is not what it was\n"),
    ],
)
def test_errors_said_on_purpose_are_one_line(component, monkeypatch, capsys, error, line):
    monkeypatch.setitem(sys.modules, "radrank.core.errors", types.SimpleNamespace(RadrankError=RadrankError))

    def echo() -> None:
        raise error

    component.echo = echo
    assert leave(["echo"]) == 1
    assert capsys.readouterr().err == line


def test_bugs_keep_their_traceback(component):
    def echo() -> None:
        raise ZeroDivisionError

    component.echo = echo
    with pytest.raises(ZeroDivisionError):
        cli.main(["echo"])


def test_an_interrupt_leaves_with_130(component):
    def echo() -> None:
        raise KeyboardInterrupt

    component.echo = echo
    assert leave(["echo"]) == 130
