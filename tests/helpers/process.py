"""The real server process, started as a user starts it, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120
PLAIN = {"RADRANK_ENGINES__RUNTIME": "onnxruntime-cpu"}
"""The runtime that opens soonest; "auto" may find a better one."""


@dataclass
class Process:
    """`radrank serve`, and what it has printed."""

    popen: subprocess.Popen[str]
    address: str
    printed: list[str]

    def end(self, number: int) -> int:
        """Sends a signal and returns the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(60)


@contextmanager
def started(
    bundle: Path, home: Path, settings: Mapping[str, str] | None = None, *, log: Path | None = None
) -> Iterator[Process]:
    """Serves until the context ends; ready when it is entered.

    settings: as environment variables; log: file for what it logs, None for where this process does
    """
    command = [sys.executable, "-m", "radrank.client.cli", "serve", "--listen", "127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RADRANK_")}
    with nullcontext() if log is None else log.open("w") as stderr:
        popen = subprocess.Popen(
            [*command, "--bundle", str(bundle), "--archive", str(home)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment | PLAIN | {"PYTHONPATH": os.pathsep.join(sys.path)} | (settings or {}),
        )
    assert popen.stdout is not None
    watchdog = threading.Timer(START_SECONDS, popen.kill)
    watchdog.start()
    try:
        printed = [popen.stdout.readline(), popen.stdout.readline()]
        watchdog.cancel()
        serving = re.match(r"SERVING on (\S+)", printed[0])
        assert serving, f"the server did not start: {printed}"
        with popen.stdout:
            yield Process(popen, serving[1], printed)
    finally:
        watchdog.cancel()
        popen.kill()
        popen.wait(30)
