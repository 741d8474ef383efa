"""Triton repositories in tests: a snapshot that fits the tiny bundle, and Triton's python backend in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from helpers.doubles import study
from radrank.core.ports import messages_of
from radrank.core.records import Record
from radrank.core.snapshot import build_snapshot
from radrank.engines.bundle import open_rerankers
from radrank.engines.index import index_factory
from radrank.engines.manifest import read_manifest
from radrank.export.triton import Written, write_repository
from radrank.export.triton_models import TritonSettings

STUDIES = 24


def snapshot_for(bundle: Path, home: Path) -> Path:
    """A snapshot of made-up vectors in the bundle's space, in this archive's home."""
    manifest, _ = read_manifest(bundle)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, STUDIES, manifest.layout.dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    records = [
        Record(study=study(n), image_vectors=vectors[0, n : n + 1], report_vector=vectors[1, n]) for n in range(STUDIES)
    ]
    return build_snapshot(
        home / "snapshots",
        records,
        sequence=1,
        encoder=manifest.encoder_id,
        layout=manifest.layout,
        graph=manifest.graph,
        factory=index_factory("exact"),
        messages=messages_of(open_rerankers(bundle)[0]),
    )


def exported(bundle: Path, snapshot: Path, to: Path, *, plans: Path | None = None, **settings: Any) -> Written:
    """What `radrank export triton` writes."""
    return write_repository(bundle, snapshot, to, TritonSettings(**settings), plans=plans, step=lambda _: None)


def config_of(repository: Path, model: str) -> Any:
    """A model's configuration, as Triton reads it."""
    text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def arguments(repository: Path, model: str) -> dict[str, str]:
    """What the python backend hands to `initialize`."""
    config = json_format.MessageToDict(
        config_of(repository, model), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {
        "model_config": json.dumps(config),
        "model_repository": str(repository / model),
        "model_version": "1",
    }


class TritonError(Exception):
    INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE = "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self._code = code

    def message(self) -> str:
        return str(self)

    def code(self) -> str:
        return self._code


@dataclass
class Tensor:
    name_: str
    array: NDArray[Any]

    def name(self) -> str:
        return self.name_

    def as_numpy(self) -> NDArray[Any]:
        return self.array


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None

    def has_error(self) -> bool:
        return self.error is not None

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        assert self.error is None, self.error
        return {tensor.name(): tensor.as_numpy() for tensor in self.output_tensors}


class _BlsResponse(Response):
    def error(self) -> TritonError | None:  # a method there, a field here
        return self._failed

    def __init__(self, response: Response) -> None:
        self.output_tensors, self._failed = response.output_tensors, response.error

    def has_error(self) -> bool:
        return self._failed is not None


class Backend(SimpleNamespace):
    """triton_python_backend_utils, as much of it as the models use. models: TritonPythonModels by name."""

    TritonError = TritonError
    Tensor = Tensor
    InferenceResponse = Response
    TRITONSERVER_MEMORY_CPU = 0

    def __init__(self) -> None:
        super().__init__(models={})
        self.asked: list[str] = []

    def PreferredMemory(self, kind: int, device: int) -> tuple[int, int]:  # noqa: N802 - the backend's name
        return kind, device

    def get_output_tensor_by_name(self, response: Response, name: str) -> Tensor:
        return next(tensor for tensor in response.output_tensors if tensor.name() == name)

    def InferenceRequest(  # noqa: N802
        self, *, model_name: str, requested_output_names: Iterable[str], inputs: list[Tensor], preferred_memory: Any
    ) -> Any:
        feed = {tensor.name(): tensor.as_numpy() for tensor in inputs}

        def exec_() -> _BlsResponse:
            self.asked.append(model_name)
            if model_name not in self.models:
                return _BlsResponse(Response(error=TritonError("not ready")))
            asked = request(feed, outputs=tuple(requested_output_names))
            return _BlsResponse(self.models[model_name].execute([asked])[0])

        return SimpleNamespace(exec=exec_)


def request(
    feed: Mapping[str, NDArray[Any]], *, outputs: tuple[str, ...] = ("ids", "scores", "cosines"), timeout: int = 0
) -> Any:
    """A request as the backend hands it to `execute`. timeout: microseconds, 0 for none."""
    return SimpleNamespace(
        inputs=lambda: [Tensor(name, array) for name, array in feed.items()],
        requested_output_names=lambda: list(outputs),
        timeout=lambda: timeout,
    )
