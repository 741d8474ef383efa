"""inference.GRPCInferenceService over a Library: find the model, let it answer. The front maps errors."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from radrank.core.errors import InvalidQuery, NotFound, Unavailable
from radrank.server.calls import Caller
from radrank.server.gate import Gate
from radrank.server.kserve import describe
from radrank.server.kserve.inference import infer
from radrank.server.kserve.memory import AlreadyRegistered, Memory, Region
from radrank.server.kserve.models import Catalogue
from radrank.server.kserve.search import ENCODED, Search, SearchModel
from radrank.server.kserve.statistics import Statistics
from radrank.server.statuses import Refused, status_of

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_LOCAL = ("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D")
_NO_CUDA = "CUDA shared memory is not supported; register system shared memory"
_NO_LOADING = "models can't be loaded or unloaded: a bundle never changes; start the server with another --bundle"


class InferenceServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # has no types
    """KServe v2 as Triton speaks it. search: ranks for the model of that name."""

    def __init__(self, gate: Gate, search: Search) -> None:
        self._gate = gate
        self._search = search
        self._memory = Memory()
        self._statistics = Statistics()
        self._held: Catalogue | None = None

    def ServerLive(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802 - the protocol's name
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self._is_ready())

    def ModelReady(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self._is_ready(request.name, request.version))

    def ServerMetadata(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return describe.server()

    def ModelMetadata(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return describe.metadata(self._catalogue().find(request.name, request.version))

    def ModelConfig(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        model = self._catalogue().find(request.name, request.version)
        return service_pb2.ModelConfigResponse(config=describe.config(model))

    def ModelStatistics(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        catalogue = self._catalogue()
        names = [catalogue.find(request.name, request.version).name] if request.name else list(catalogue.models)
        return describe.statistics((name, self._statistics.of(name)) for name in names)

    def RepositoryIndex(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return describe.index(self._catalogue())

    def ModelInfer(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return self._infer(request, caller)

    def ModelStreamInfer(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        """The reply to one request of the stream. One request's fault is its own reply, not the stream's end."""
        try:
            response = self._infer(request, caller)
        except Exception as error:  # noqa: BLE001 - whatever it was
            told = service_pb2.ModelInferResponse(id=request.id)
            return service_pb2.ModelStreamInferResponse(error_message=status_of(error).message, infer_response=told)
        response.parameters["triton_final_response"].bool_param = True
        return service_pb2.ModelStreamInferResponse(infer_response=response)

    def SystemSharedMemoryStatus(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return describe.regions(self._shared(caller).status(request.name).values())

    def SystemSharedMemoryRegister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        memory = self._shared(caller)
        region = Region(name=request.name, key=request.key, offset=request.offset, byte_size=request.byte_size)
        try:
            memory.register(region)
        except AlreadyRegistered as error:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, str(error)) from None
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        self._shared(caller).unregister(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        if request.name:
            raise NotFound("CUDA shared memory region", _NO_CUDA)
        return service_pb2.CudaSharedMemoryStatusResponse()

    def CudaSharedMemoryRegister(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, _NO_CUDA)

    def CudaSharedMemoryUnregister(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        # There is none to forget: clients that tidy up both kinds, as perf_analyzer does, must not fail.
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    def RepositoryModelLoad(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, _NO_LOADING)

    def RepositoryModelUnload(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, _NO_LOADING)

    def TraceSetting(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "there are no trace settings")

    def LogSettings(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "log settings are the server's own: see [logs] in its settings")

    def is_short(self, request: Any) -> bool:
        """Whether a request asks the search with what is encoded already."""
        return request.model_name == SearchModel.name and any(sent.name in ENCODED for sent in request.inputs)

    def _infer(self, request: Any, caller: Caller) -> Any:
        return infer(
            request,
            self._catalogue().find(request.model_name, request.model_version),
            memory=self._memory if _is_local(caller) else None,
            statistics=self._statistics,
            caller=caller,
        )

    def _catalogue(self) -> Catalogue:
        """Of the library that is served now. Raises Unavailable."""
        library, held = self._gate.library, self._held
        if held is None or held.library is not library:
            held = self._held = Catalogue(library, self._search)
        return held

    def _is_ready(self, name: str = "", version: str = "") -> bool:
        try:
            catalogue = self._catalogue()
            if name:
                catalogue.find(name, version)
        except (Unavailable, NotFound):
            return False
        return True

    def _shared(self, caller: Caller) -> Memory:
        """The regions, for callers whose memory it is: others would read what they could not reach."""
        if not _is_local(caller):
            raise InvalidQuery("peer", "shared memory is for callers on the server's own host, over loopback")
        return self._memory


def _is_local(caller: Caller) -> bool:
    return caller.peer.startswith(_LOCAL)
