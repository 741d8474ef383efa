"""A helper's process that can't start says why, in the server's own style, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.made_up import tiny_bundle

HELPER = ("-m", "radrank.server.helpers.helper")
TELLING = """
from helpers.blas import blas_threads, two_blas_threads
from radrank.core.errors import Unavailable
from radrank.server.helpers import helper

def open_rerankers(bundle):
    raise Unavailable(f"BLAS threads: {blas_threads()}")

helper.open_rerankers = open_rerankers
with two_blas_threads():
    helper.main()
"""
"""A helper that tells how many threads BLAS has when it opens its models, and ends."""


def ended(bundle: Path, style: str, *program: str) -> tuple[int, list[str]]:
    """Exit status, and the lines on standard error, of a helper whose server says nothing."""
    command = [sys.executable, "-P", *(program or HELPER), str(bundle), style]
    nothing, path = subprocess.DEVNULL, {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command,
        stdin=nothing,
        stdout=nothing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        env=os.environ | path,
    )
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


def test_it_computes_with_one_blas_thread(tmp_path):
    _, (line,) = ended(tmp_path, "plain", "-c", TELLING)
    assert "BLAS threads: {1}" in line
