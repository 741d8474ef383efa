"""What clients are told of the server and its models, as the protocol's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tritonclient.grpc import service_pb2

from radrank.engines.kserve.config import model_config
from radrank.engines.kserve.tensors import Tensor
from radrank.server.kserve.memory import Region
from radrank.server.kserve.models import VERSION, Catalogue, Served
from radrank.server.kserve.statistics import FAIL, STAGES, SUCCESS, Counts, Total

EXTENSIONS = ("model_configuration", "system_shared_memory", "statistics", "parameters")


def server() -> Any:
    """ServerMetadataResponse."""
    return service_pb2.ServerMetadataResponse(name="radrank", version=_version(), extensions=EXTENSIONS)


def metadata(model: Served) -> Any:
    """ModelMetadataResponse: whole shapes, −1 on axes that vary."""
    return service_pb2.ModelMetadataResponse(
        name=model.name,
        versions=[VERSION],
        platform=model.platform,
        inputs=[_metadata(tensor) for tensor in model.inputs],
        outputs=[_metadata(tensor) for tensor in model.outputs],
    )


def config(model: Served) -> Any:
    """ModelConfig."""
    made = model_config(model, version=VERSION)
    made.platform, made.backend = model.platform, "radrank"
    return made


def index(catalogue: Catalogue) -> Any:
    """RepositoryIndexResponse: every model that is there is ready."""
    models = [{"name": name, "version": VERSION, "state": "READY"} for name in catalogue.models]
    return service_pb2.RepositoryIndexResponse(models=models)


def statistics(found: Iterable[tuple[str, Counts]]) -> Any:
    """ModelStatisticsResponse of models by name."""
    return service_pb2.ModelStatisticsResponse(model_stats=[_statistics(name, counts) for name, counts in found])


def regions(found: Iterable[Region]) -> Any:
    """SystemSharedMemoryStatusResponse."""
    return service_pb2.SystemSharedMemoryStatusResponse(
        regions={
            region.name: {
                "name": region.name,
                "key": region.key,
                "offset": region.offset,
                "byte_size": region.byte_size,
            }
            for region in found
        }
    )


def _statistics(name: str, counts: Counts) -> dict[str, Any]:
    totals = {stage: _duration(counts.totals.get(stage, Total())) for stage in (SUCCESS, FAIL, *STAGES)}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": counts.last,
        "inference_count": counts.inferences,
        "execution_count": counts.executions,
        "inference_stats": totals,
        "batch_stats": [
            {"batch_size": size, **{stage: _duration(total) for stage, total in stages.items()}}
            for size, stages in counts.batches.items()
        ],
    }


def _duration(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}


def _metadata(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("radrank")
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return "0"
