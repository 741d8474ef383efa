"""inference.GRPCInferenceService: KServe v2 as Triton speaks it, on the server's own port. Needs the extra `triton`.

tensors     contents, raw and typed, to numpy and back
models      the engines as models; search: the whole search as one
inference   one request through one model
memory      system shared memory
statistics  counts and times
describe    metadata, configuration, statistics as messages
arrivals    when a call came, before it waited for a thread
servicer    the service
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from radrank.server.admission import Admission
    from radrank.server.gate import Gate
    from radrank.server.kserve.search import Search

_log = logging.getLogger(__name__)

INFER = "/inference.GRPCInferenceService/ModelInfer"


def is_installed() -> bool:
    """Whether tritonclient, which has the protocol's messages and servicer, can be imported. Says so where not."""
    if find_spec("tritonclient") is not None:
        return True
    _log.info('KServe v2 is not served: tritonclient is not installed; for it run: pip install "radrank[triton]"')
    return False


def add_to(server: grpc.Server, *, gate: Gate, admission: Admission, search: Search) -> str:
    """Adds the service to a server that has not started; returns its name."""
    from tritonclient.grpc import service_pb2_grpc

    from radrank.server.kserve.servicer import SERVICE, InferenceServicer

    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceServicer(gate, admission, search), server)
    return str(SERVICE)
