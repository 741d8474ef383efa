"""The graphics card of this machine, as its driver tells."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from radrank.core.errors import Unavailable

_ASKED = "name,memory.total,driver_version,compute_cap"
_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """cuda: the newest that the driver knows, such as "13.0", or "" where it doesn't tell"""

    name: str
    memory: str
    driver: str
    compute_capability: str
    cuda: str

    def __str__(self) -> str:
        cuda = f", CUDA {self.cuda}" if self.cuda else ""
        return f"{self.name}, {self.memory}, compute capability {self.compute_capability}, driver {self.driver}{cuda}"


def find_card() -> Card:
    """The first card. Raises Unavailable, with the reason, where there is none."""
    told = _nvidia_smi(f"--query-gpu={_ASKED}", "--format=csv,noheader").splitlines()
    parts = [part.strip() for part in told[0].split(",")] if told else []
    if len(parts) != len(_ASKED.split(",")):
        raise Unavailable("no GPU here: nvidia-smi names none")
    name, memory, driver, capability = parts
    newest = re.search(r"CUDA Version:\s*([\d.]+)", _nvidia_smi())
    return Card(
        name=name, memory=memory, driver=driver, compute_capability=capability, cuda=newest[1] if newest else ""
    )


def _nvidia_smi(*arguments: str) -> str:
    try:
        ran = subprocess.run(  # noqa: S603 - a fixed program with fixed arguments
            ["nvidia-smi", *arguments],  # noqa: S607 - wherever the driver has put it
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise Unavailable("no GPU here: there is no nvidia-smi, which comes with NVIDIA's driver") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"no GPU here: nvidia-smi did not answer within {_SECONDS:g} s") from error
    if ran.returncode:
        said = (ran.stdout + ran.stderr).strip().splitlines()
        raise Unavailable(f"no GPU here: nvidia-smi says: {said[0] if said else f'exit code {ran.returncode}'}")
    return ran.stdout
