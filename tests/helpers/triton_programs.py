"""Programs in the place of NVIDIA's: a perf_analyzer that measures what it is told to, a Triton with one answer."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = "Concurrency,Inferences/Second,Client Send,Server Queue,p50 latency,p90 latency,p95 latency,p99 latency"

_PERF_ANALYZER = """
import json, sys
from pathlib import Path
folder = Path(__file__).parent
if "--version" in sys.argv:
    sys.exit("Perf Analyzer Version 2.60.0")
asked = folder / "asked.jsonl"
number = len(asked.read_text().splitlines()) if asked.exists() else 0
with asked.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
script = json.loads((folder / "script.json").read_text())
turn = script[min(number, len(script) - 1)]
if turn["csv"] is not None:
    Path(sys.argv[sys.argv.index("-f") + 1]).write_text(turn["csv"])
print(turn["error"], file=sys.stderr)
sys.exit(turn["status"])
"""

_TRITON = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
print(" ".join(sys.argv[1:]), flush=True)
if "--fail" in sys.argv:
    sys.exit(3)
class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name == "found")
port = next(word.partition("=")[2] for word in sys.argv if word.startswith("--grpc-port="))
server = grpc.server(ThreadPoolExecutor(2))
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
server.wait_for_termination()
"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a run of the perf_analyzer ends with. csv: None for no file"""

    csv: str | None = None
    status: int = 0
    error: str = ""


UNSTABLE = Turn(status=2, error="Failed to obtain stable measurement.")


def measured(throughput: float, p50: float, p99: float) -> Turn:
    """Figures as perf_analyzer writes them: answers a second, microseconds."""
    return Turn(csv=f"{COLUMNS}\n4,{throughput},7,30,{p50},{p50},{p99},{p99}\n")


@dataclass(frozen=True, kw_only=True)
class ScriptedAnalyzer:
    """command: starts it"""

    folder: Path
    command: str

    def options(self) -> list[list[str]]:
        """Of every run."""
        return [json.loads(line) for line in (self.folder / "asked.jsonl").read_text().splitlines()]


def scripted_analyzer(folder: Path, turns: Sequence[Turn]) -> ScriptedAnalyzer:
    """Ends its runs in turn as told; the last one goes on for ever."""
    (folder / "perf_analyzer.py").write_text(_PERF_ANALYZER)
    (folder / "script.json").write_text(json.dumps([vars(turn) for turn in turns]))
    return ScriptedAnalyzer(folder=folder, command=shlex.join([sys.executable, str(folder / "perf_analyzer.py")]))


def scripted_triton(folder: Path, *options: str) -> str:
    """A command that starts a Triton whose model `found` is ready; with `--fail` it ends at once."""
    (folder / "triton.py").write_text(_TRITON)
    return shlex.join([sys.executable, str(folder / "triton.py"), *options])
