"""A model as OpenVINO's own files (IR), beside the bundle: opened sooner than ONNX, and with weights that are mapped.

OpenVINO holds what it reads from an ONNX file for as long as the model is open, beside the weights that it has packed
for its kernels. Mapped ones go back to the page cache once they are packed.

PLANS/<model>.openvino-<precision>.<key>/
    model.xml, model.bin    graph and weights, these in fp16 where arithmetic is in half precision too
    manifest.json           what they were made from and how, sha256 of both
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from radrank.core.errors import RadrankError
from radrank.core.files import check_files, file_table, publish, write_json
from radrank.engines.conversions import FP32, stem
from radrank.engines.engine import Model

GRAPH, WEIGHTS = "model.xml", "model.bin"
_MANIFEST = "manifest.json"
_BEGUN = 3_600.0  # seconds after which nobody is still making it

_log = logging.getLogger(__name__)


def kept(package: Any, model: Model, precision: str, directory: Path) -> Path | None:
    """The directory of a model in this precision, made first where it is not there or is not what was made.

    package: openvino. Returns None where it can't be made.
    """
    recipe = f"openvino {package.__version__}"
    final = directory / stem(model, f"openvino-{precision}", recipe)
    if _is_whole(final):
        return final
    told = {"model": model.name, "onnx": model.sha256, "precision": precision, "recipe": recipe}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{final.name}.", dir=directory) as made:
            building = Path(made) / final.name
            building.mkdir()
            read = package.Core().read_model(str(model.path))
            package.save_model(read, str(building / GRAPH), compress_to_fp16=precision != FP32)
            write_json(building / _MANIFEST, {**told, "files": file_table(building)})
            if _is_whole(final):  # another process was sooner
                return final
            shutil.rmtree(final, ignore_errors=True)
            publish(building, final)
        _sweep(directory, final.name)
    except (OSError, RuntimeError) as error:  # RuntimeError: OpenVINO's own
        _log.info("%s: its OpenVINO files can't be kept in %s: %s", model.name, directory, type(error).__name__)
        return None
    return final


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"])
    except FileNotFoundError:
        return False
    except (RadrankError, OSError, ValueError, KeyError, TypeError, AttributeError):
        _log.warning("%s is not what was made", folder)
        return False
    return True


def _sweep(directory: Path, name: str) -> None:
    """Removes what processes that were killed had begun to make."""
    for begun in directory.glob(f"{name}.*"):
        if begun.stat().st_mtime < time.time() - _BEGUN:
            shutil.rmtree(begun, ignore_errors=True)
