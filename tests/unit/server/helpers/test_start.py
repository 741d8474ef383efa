"""A helper's process that can't start says why, in the server's own style, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers.made_up import tiny_bundle


def ended(bundle: Path, style: str) -> tuple[int, list[str]]:
    """Exit status, and the lines on standard error, of a helper whose server says nothing."""
    command = [sys.executable, "-P", "-m", "radrank.server.helpers.helper", str(bundle), style]
    nothing = subprocess.DEVNULL
    done = subprocess.run(command, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, timeout=60, check=False)
    return done.returncode, done.stderr.decode().splitlines()


def test_what_keeps_it_from_starting_is_a_line_of_the_log(tmp_path):
    code, lines = ended(tmp_path / "nothing", "plain")
    assert code == 1
    (line,) = lines
    assert "no such bundle" in line
    code, lines = ended(tmp_path / "nothing", "json")
    assert code == 1
    (entry,) = map(json.loads, lines)
    assert (entry["level"], entry["logger"]) == ("error", "radrank.server.helpers.helper")
    assert "no such bundle" in entry["message"]


def test_without_a_server_it_ends_in_silence():
    assert ended(tiny_bundle(), "json") == (0, [])
