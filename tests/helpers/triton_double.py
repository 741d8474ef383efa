"""A Triton in this process: engines behind its protocol, which fail, wait and change as they are told."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from radrank.core.errors import InvalidQuery
from radrank.engines.engine import Engine, Model, TensorSpec
from radrank.engines.kserve.tensors import declared


@dataclass(frozen=True, kw_only=True)
class Call:
    """seconds: that its deadline left on arrival, some hundred billion years without one."""

    method: str
    request: Any
    seconds: float


@dataclass(kw_only=True)
class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for engines by name. What it says of them is said on arrival of each call.

    most: rows of one request; codes: of the coming inferences, None for an answer; delay: seconds of each of them
    spoiled: changes an answer before it is sent
    """

    engines: Mapping[str, Engine]
    models: Mapping[str, Model]
    most: int = 4
    version: str = "1"
    release: str = "2.51.0"
    codes: deque[grpc.StatusCode | None] = field(default_factory=deque)
    delay: float = 0.0
    spoiled: Any = None
    calls: list[Call] = field(default_factory=list)
    address: str = ""

    def start(self) -> None:
        """Again on the same port where it had one."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = self.address or f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """At once: calls that run are broken off."""
        self._server.stop(None).wait()

    def exchange(self, name: str, **changes: Any) -> None:
        """Serves another model under this name."""
        self.models = {**self.models, name: replace(self.models[name], **changes)}

    def asked(self, method: str = "ModelInfer") -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self._note("ServerMetadata", request, context)
        return service_pb2.ServerMetadataResponse(name="triton", version=self.release)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("ModelMetadata", request, context)
        engine = self.engines[self._found(request, context)]
        told = {"inputs": map(_tensor, engine.inputs), "outputs": map(_tensor, engine.outputs)}
        return service_pb2.ModelMetadataResponse(name=request.name, versions=[self.version], **told)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("ModelConfig", request, context)
        model = self.models[self._found(request, context)]
        told = {"sha256": model.sha256, "precision": model.precision}
        parameters = {name: {"string_value": value} for name, value in told.items() if value}
        most = 0 if model.name.startswith("reranker_") else self.most
        return service_pb2.ModelConfigResponse(config={"max_batch_size": most, "parameters": parameters})

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("ModelInfer", request, context)
        code = self.codes.popleft() if self.codes else None
        if code is not None:
            context.abort(code, "what was sent begins with: patient")
        time.sleep(self.delay)
        engine = self.engines[request.model_name]
        dtypes = {spec.name: spec.dtype for spec in engine.inputs}
        feed = {
            sent.name: np.frombuffer(raw, dtypes[sent.name]).reshape(sent.shape)
            for sent, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        try:
            answer = engine.run(feed)
        except InvalidQuery as error:  # a feed of another shape
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        made = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=request.model_version)
        datatypes = {spec.name: declared(spec).datatype for spec in engine.outputs}
        for wanted in request.outputs:
            array = answer[wanted.name]
            made.outputs.add(name=wanted.name, datatype=datatypes[wanted.name], shape=array.shape)
            made.raw_output_contents.append(array.tobytes())
        if self.spoiled:
            self.spoiled(made)
        return made

    def _note(self, method: str, request: Any, context: Any) -> None:
        self.calls.append(Call(method=method, request=request, seconds=context.time_remaining()))

    def _found(self, request: Any, context: Any) -> str:
        if request.name not in self.models or request.version not in ("", self.version):
            context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model")
        return str(request.name)


@contextmanager
def scripted_triton(engines: Mapping[str, Engine], models: Mapping[str, Model]) -> Iterator[ScriptedTriton]:
    triton = ScriptedTriton(engines=engines, models=models)
    triton.start()
    try:
        yield triton
    finally:
        triton.stop()


def _tensor(spec: TensorSpec) -> Any:
    return {"name": spec.name, "datatype": declared(spec).datatype, "shape": spec.shape}
