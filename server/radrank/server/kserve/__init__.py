"""inference.GRPCInferenceService: KServe v2 as Triton speaks it, on the server's own port. Needs the extra `triton`.

tensors     contents, raw and typed, to numpy and back
models      the engines as models; search: the whole search as one
inference   one request through one model
memory      system shared memory
statistics  counts and times
describe    metadata, configuration, statistics as messages
servicer    the service
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radrank.server.front import Front
    from radrank.server.gate import Gate
    from radrank.server.servicers import RetrievalServicer

_log = logging.getLogger(__name__)


def is_installed() -> bool:
    """Whether tritonclient, which has the protocol's messages and servicer, can be imported. Says so where not."""
    if find_spec("tritonclient") is not None:
        return True
    _log.info('KServe v2 is not served: tritonclient is not installed; for it run: pip install "radrank[triton]"')
    return False


def add_to(front: Front, gate: Gate, retrieval: RetrievalServicer) -> str:
    """Adds the service to what answers a server's calls; returns its name."""
    from tritonclient.grpc import service_pb2_grpc

    from radrank.server.kserve.servicer import SERVICE, InferenceServicer

    servicer = InferenceServicer(gate, retrieval.rank)
    front.add(
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
        servicer,
        is_short=lambda request: servicer.is_short(request) and retrieval.reranks_here(),
    )
    return str(SERVICE)
