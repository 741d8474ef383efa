"""A model of the bundle on ONNX Runtime in the backend's process: for Tritons that have no backend for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radrank.core.errors import Corrupt, Mismatch
from radrank.core.files import sha256_of
from radrank.core.timing import Deadline
from radrank.engines.engine import Engine, Model
from radrank.engines.kserve.axes import check_rows
from radrank.engines.kserve.config import dims, type_name
from radrank.engines.kserve.exported import ONNX
from radrank.engines.kserve.tensors import Tensor, declared
from radrank.engines.onnxruntime import CpuEngine
from radrank.server.triton.answering import Feed, responses


class TritonPythonModel:
    """What the python backend makes of an encoder or a re-ranker, one for each instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Raises Corrupt where the ONNX file is not the one that was exported, Mismatch where the configuration isn't.

        args: the backend's: paths, and the model's configuration as JSON
        """
        import triton_python_backend_utils as backend

        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / ONNX
        self._backend = backend
        self._vocabulary = int(parameters.get("vocabulary", "0"))
        self._engine = opened(path, config["name"], parameters)
        check_config(config, self._engine)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return responses(self._backend, requests, self._answer)

    def finalize(self) -> None:
        self._engine.close()

    def _answer(self, feed: Feed, _deadline: Deadline) -> Feed:
        check_rows(feed, vocabulary=self._vocabulary)
        return self._engine.run(feed)


def opened(path: Path, name: str, parameters: Mapping[str, str]) -> CpuEngine:
    """The engine of an exported model, on its `threads`, 0 for all cores. Raises Corrupt."""
    found = sha256_of(path)
    if found != parameters["sha256"]:
        raise Corrupt(str(path), f"sha256 {parameters['sha256'][:12]}…", f"sha256 {found[:12]}…")
    model = Model(name=name, path=path, sha256=found, precision=parameters["precision"])
    return CpuEngine(model, threads=int(parameters["threads"]) or len(os.sched_getaffinity(0)))


def check_config(config: Mapping[str, Any], engine: Engine) -> None:
    """Raises Mismatch where the configuration (as JSON) has other tensors than the engine."""
    batch = int(config["max_batch_size"])
    for kind, specs in (("input", engine.inputs), ("output", engine.outputs)):
        said = {one["name"]: f"{one['data_type']} {[int(size) for size in one['dims']]}" for one in config[kind]}
        wanted = {tensor.name: _said(tensor, batch) for tensor in map(declared, specs)}
        if said != wanted:
            name = next(name for name in {**wanted, **said} if said.get(name) != wanted.get(name))
            what = f"config.pbtxt of {config['name']}: {kind} {name}"
            raise Mismatch(what, wanted.get(name, "no such tensor"), said.get(name, "no such tensor"))


def _said(tensor: Tensor, batch: int) -> str:
    return f"{type_name(tensor)} {list(dims(tensor, batch))}"
