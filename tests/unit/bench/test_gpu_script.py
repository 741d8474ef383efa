"""deploy/loadtest/gpu.sh, with a driver and a Python that are not there: what it calls, what it keeps, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from radrank.bench.gpu_cells import BATCHES
from radrank.engines.flavours import FLAVOURS
from radrank.engines.runtimes import EngineSettings

SCRIPT = Path(__file__).parents[3] / "deploy" / "loadtest" / "gpu.sh"
PYTHON = f"""#!/bin/bash
[[ $1 == -m && $2 == radrank.client.cli ]] || exec {sys.executable} "$@"
shift 2
echo "$@" >> "$CALLS"
echo "$LD_LIBRARY_PATH" > "$CALLS.libraries"
if [[ $1 $2 == "bench bundle" ]]; then mkdir -p "$4/bundle"; fi
if [[ $1 $2 == "export tensorrt" && $4 == "$REFUSED" ]]; then
  echo "error: compute-capability: TensorRT-RTX builds for: 8.6" >&2; exit 1
fi
if [[ $1 $2 == "bench gpu" ]]; then
  mkdir -p "$WORK/results"; echo "a table" > "$WORK/results/gpu.md"; exit "${{ENDS:-0}}"
fi
"""


class Machine:
    """Programs in the place of nvidia-smi and Python, and where the script puts things."""

    def __init__(self, path: Path, *, cards: str) -> None:
        self.path, self.out, self.work = path, path / "out", path / "work"
        self._write("nvidia-smi", f"#!/bin/bash\nprintf '%s' '{cards}'\n")
        self._write("python", PYTHON.replace("$1 $2 ==", '"$1 $2" =='))

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}", "CALLS": str(self.path / "calls")}
        where = ["--out", str(self.out), "--work", str(self.work), "--python", str(self.path / "bin" / "python")]
        return subprocess.run(
            [str(SCRIPT), *where, *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | given | {"WORK": str(self.work)} | environment,
        )

    @property
    def calls(self) -> list[str]:
        file = self.path / "calls"
        return file.read_text().splitlines() if file.is_file() else []

    def _write(self, name: str, content: str) -> None:
        file = self.path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path, cards="GPU 0: NVIDIA H200")


def test_without_a_gpu_it_says_so_and_ends_well(tmp_path):
    machine = Machine(tmp_path, cards="")
    ran = machine.run()
    assert (ran.returncode, ran.stdout.strip()) == (0, "no GPU here: nvidia-smi names none")
    assert machine.calls == []


def test_it_makes_the_bundle_once_converts_it_and_measures_with_the_time_that_is_left(machine):
    assert machine.run("--minutes", "3", "--", "--only", "sage").returncode == 0
    ran = machine.run("--minutes", "3")
    assert ran.returncode == 0, ran.stdout
    made, converted, first, second = machine.calls
    assert made == f"bench bundle --to {machine.work} --rows 10000"
    assert converted == f"export precision --bundle {machine.work}/bundle --precision fp16"
    assert first.startswith(f"bench gpu --bundle {machine.work}/bundle --run {machine.work}/run")
    assert first.endswith("--only sage")
    minutes = float(second.split("--minutes ")[1].split()[0])
    assert 2.0 < minutes < 3.0
    assert (machine.out / "gpu.md").read_text() == "a table\n"
    assert "measuring" in (machine.out / "gpu.log").read_text()


def test_what_was_measured_is_kept_when_the_run_breaks_and_the_script_says_that_it_did(machine):
    ran = machine.run(ENDS="7")
    assert ran.returncode == 7
    assert (machine.out / "gpu.md").read_text() == "a table\n"


@pytest.mark.parametrize("refused", ["", *FLAVOURS])
def test_plans_are_of_every_flavour_and_one_that_is_refused_is_named_and_left_out(machine, refused):
    ran = machine.run("--plans", REFUSED=refused)
    assert ran.returncode == 0, ran.stdout
    asked = [call.split() for call in machine.calls if call.startswith("export tensorrt")]
    assert {words[words.index("--flavour") + 1] for words in asked} == set(FLAVOURS)
    assert len(asked) == len(FLAVOURS)
    for words in asked:
        built = set(map(int, words[words.index("--batch") + 1].split(",")))
        assert {*BATCHES, EngineSettings().batch} <= built, "what is measured, and what the server asks for"
    assert machine.calls[-1].startswith("bench gpu"), "measured all the same"
    said = [line for line in ran.stdout.splitlines() if line.startswith("no plans of")]
    assert [line.split(",")[0] for line in said] == ([f"no plans of {refused}"] if refused else [])
    assert ("TensorRT-RTX builds for: 8.6" in (machine.out / "gpu.log").read_text()) is bool(refused)


def test_packages_of_an_offline_machine_come_before_the_interpreter_s(machine, tmp_path):
    packages, content = tmp_path / "packages", tmp_path / "carried.py"
    packages.mkdir()
    content.write_text("told = 'carried'\n")
    with tarfile.open(tmp_path / "site.tar.xz", "w:xz") as archive:
        archive.add(content, "carried.py")
        archive.add(content, "nvidia/cu13/lib/libcudart.so")
    whole = (tmp_path / "site.tar.xz").read_bytes()
    for number, part in enumerate((whole[:100], whole[100:])):
        (packages / f"site.tar.xz.{number:02}").write_bytes(part)
    ran = machine.run("--packages", str(packages))
    assert ran.returncode == 0, ran.stdout
    assert (machine.work / "site" / "carried.py").read_text() == "told = 'carried'\n"
    libraries = (tmp_path / "calls.libraries").read_text()
    assert f"{machine.work}/site/nvidia/cu13/lib" in libraries, "CUDA's libraries are found without torch"


def test_it_explains_itself_with_an_example(machine):
    ran = machine.run("--help")
    assert ran.returncode == 0
    assert "Example: deploy/loadtest/gpu.sh --minutes 8 --out results/gpu" in ran.stdout
    assert machine.run("--cards", "2").returncode == 2
