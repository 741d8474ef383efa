"""A real Triton Inference Server on free ports, with this checkout's radrank in the Python of its python backend.

The launcher is `tritonserver.sh WORK_DIR REPOSITORY [options]`: RADRANK_TRITON names it, else it is looked for beside
the checkout. WORK_DIR holds a virtual environment of some 500 MB and is kept for the next session: RADRANK_TRITON_WORK
names it, else it lies in the folder for temporary files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(os.environ.get("RADRANK_TRITON") or ROOT.parent / "shared" / "tools" / "tritonserver.sh")
START_SECONDS = 120
INSTALL_SECONDS = 600
EXTRAS = ("server", "cpu")
"""What the models of an exported repository need of radrank."""

needs_triton = pytest.mark.skipif(
    not LAUNCHER.is_file(), reason=f"there is no Triton: {LAUNCHER.name} is not beside the checkout"
)

_STAND_IN = """
#include <stdint.h>
typedef struct Error Error; typedef struct Request Request; typedef struct Response Response;
extern Error* TRITONBACKEND_ResponseNew(Response**, Request*);
extern Error* TRITONBACKEND_ResponseSend(Response*, uint32_t flags, Error*);
extern Error* TRITONBACKEND_RequestRelease(Request*, uint32_t flags);
Error* TRITONBACKEND_ModelInstanceExecute(void* instance, Request** requests, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    Response* response;
    TRITONBACKEND_ResponseNew(&response, requests[i]);
    TRITONBACKEND_ResponseSend(response, 1, 0);
    TRITONBACKEND_RequestRelease(requests[i], 1);
  }
  return 0;
}
"""


@dataclass
class Triton:
    """A running Triton. address: host:port of its gRPC, http and metrics likewise; log: what it has printed so far."""

    popen: subprocess.Popen[bytes]
    ports: tuple[int, int, int]
    _log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def metrics(self) -> str:
        return f"127.0.0.1:{self.ports[2]}"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def is_ready(self) -> bool:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://{self.http}/v2/health/ready"):
            return True
        return False

    def kill(self) -> None:
        """At once, with the processes of its Python models."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(30)

    def stop(self) -> int:
        """As an operator does, with SIGTERM; returns the exit code."""
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(30)
        self.kill()
        return self.popen.returncode


@contextmanager
def triton(
    repository: Path, *options: str, ports: tuple[int, int, int] | None = None, ready: bool = True
) -> Iterator[Triton]:
    """Serves a model repository until the context ends; ready when it is entered.

    options: of tritonserver; ports: HTTP, gRPC and metrics, such as those of one that was killed; None for free ones
    ready: False where models are meant to fail: entered as soon as it answers, or has ended
    """
    http, grpc, metrics = ports = ports or free_ports()
    shared = f"radrank-triton-{os.getpid()}-{grpc}"
    with tempfile.TemporaryDirectory(prefix="radrank-triton-log-") as folder:
        log = Path(folder) / "triton.log"
        command = [
            *("bash", str(LAUNCHER), str(installed()), str(repository)),
            *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
            f"--backend-config=python,shm-region-prefix-name={shared}",
            *options,
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RADRANK_")}
        with log.open("wb") as out:
            # A session of its own: the processes of its Python models end with it.
            popen = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
        running = Triton(popen=popen, ports=ports, _log=log)
        try:
            _wait(running, ready)
            yield running
        finally:
            running.stop()
            for region in Path("/dev/shm").glob(f"{shared}*"):
                region.unlink(missing_ok=True)


def stand_ins(folder: Path) -> Path:
    """Backends for ONNX files and plans that answer nothing: Triton checks configurations before it asks them."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for Triton's stand-in backends")
    source = folder / "stand_in.c"
    source.write_text(_STAND_IN)
    for name in ("onnxruntime", "tensorrt"):
        (folder / name).mkdir()
        _run(compiler, "-shared", "-fPIC", str(source), "-o", str(folder / name / f"libtriton_{name}.so"), check=True)
    return folder


def free_ports() -> tuple[int, int, int]:
    """Three that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    first, second, third = (held.getsockname()[1] for held in sockets)
    for held in sockets:
        held.close()
    return first, second, third


@cache
def installed() -> Path:
    """The launcher's WORK_DIR, its environment made where it is not there, with what radrank needs and radrank."""
    work = Path(os.environ.get("RADRANK_TRITON_WORK") or Path(tempfile.gettempdir()) / f"radrank-triton-{os.getuid()}")
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # sessions that begin together make it once
        python = work / "venv" / "bin" / "python"
        if not python.exists():
            # The launcher makes the environment before it looks at anything else; a repository it has none.
            _run("bash", str(LAUNCHER), str(work), str(work / "none"))
        _install(work, python)
        _link(python)
    return work


def _install(work: Path, python: Path) -> None:
    needed, constraints = requirements()
    stamp, made = work / "radrank.txt", hashlib.sha256("\n".join([*needed, *constraints]).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == made:
        return
    kept = work / "constraints.txt"
    kept.write_text("\n".join(constraints) + "\n")
    _run(str(python), "-m", "pip", "install", "--quiet", "-c", str(kept), *needed, check=True)
    stamp.write_text(made)


def requirements() -> tuple[list[str], list[str]]:
    """(what radrank and its extras need, the versions they were tested with), without numpy: Triton's own is older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = [line for line in lines if line and not line.startswith(("#", "numpy=="))]
    return [one for one in needed if not one.startswith("numpy")], [*constraints, "numpy<2"]


def _link(python: Path) -> None:
    """radrank's components as this checkout has them, where Triton's Python looks."""
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    (site / "radrank").mkdir(exist_ok=True)
    for component in ROOT.glob("*/radrank/*"):
        if (component / "__init__.py").is_file():
            place = site / "radrank" / component.name
            if not (place.is_symlink() and place.readlink() == component):
                place.unlink(missing_ok=True)
                place.symlink_to(component)


def _run(*command: str, check: bool = False) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2_000:]}")


def _wait(running: Triton, ready: bool) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        ended = running.popen.poll() is not None
        if running.is_ready() or (ended and not ready):
            return
        if ended:
            raise RuntimeError(f"Triton ended with {running.popen.returncode}:\n{running.log[-4_000:]}")
        time.sleep(0.2)
    raise RuntimeError(f"Triton was not ready within {START_SECONDS} s:\n{running.log[-4_000:]}")
