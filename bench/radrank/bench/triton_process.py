"""NVIDIA Triton as a process of its own, on a free port of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from radrank.bench.perf_analyzer import program
from radrank.core.errors import Unavailable
from radrank.engines.triton_link import protocol

REPOSITORY = "{repository}"
"""In the command that starts Triton, stands for the model repository's path; else it is given as an option."""
_START_SECONDS, _STOP_SECONDS = 300.0, 30.0


@contextmanager
def triton_serving(command: str, repository: Path, model: str, log: Path) -> Iterator[str]:
    """host:port of its gRPC, once it is ready to run the model; ended with the context.

    command: what starts it; log: file for what it says. Raises NotFound, MissingExtra, Unavailable.
    """
    protocol()
    words = [word.replace(REPOSITORY, str(repository)) for word in program(command, "--tritonserver")]
    if REPOSITORY not in command:
        words.append(f"--model-repository={repository}")
    port = _free_port()
    shared = f"radrank-peers-{os.getpid()}-{port}"
    options = ["--grpc-address=127.0.0.1", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RADRANK_")}
    # The python backend's environment is Triton's own: it must not find packages of this one.
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as said:
        # A session of its own: the processes of its Python models end with it.
        process = subprocess.Popen(  # noqa: S603 - the program that the caller named
            [*words, *options, f"--backend-config=python,shm-region-prefix-name={shared}"],
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    try:
        _wait(process, f"127.0.0.1:{port}", model, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for region in Path("/dev/shm").glob(f"{shared}*"):  # noqa: S108 - the backend's, which it leaves when it is killed
            region.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], address: str, model: str, log: Path) -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    end = time.monotonic() + _START_SECONDS
    with InferenceServerClient(address) as client:
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Unavailable(f"Triton ended with {process.returncode} before it was ready; what it said: {log}")
            with suppress(InferenceServerException):  # not yet listening
                if client.is_model_ready(model):
                    return
            time.sleep(0.2)
    raise Unavailable(f"Triton was not ready within {_START_SECONDS:.0f} s; what it said: {log}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
    return port
