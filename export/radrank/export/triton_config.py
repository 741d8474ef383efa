"""How a Triton serves a model of the bundle: from which file, on which backend, with which configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radrank.core.ports import EngineManifest
from radrank.engines.buckets import batch_of
from radrank.engines.kserve.config import dims, model_config, model_config_pb2, type_name
from radrank.engines.kserve.exported import ONNX, VERSION, ExportedModel
from radrank.engines.models import RERANKER
from radrank.engines.onnxruntime_gpu import profile
from radrank.engines.plans import Plan
from radrank.export.triton_models import AUTO, CPU, GPU, ONNXRUNTIME, PYTHON, TENSORRT, Source, TritonSettings

_GPU_INSTANCES = 2  # one copies while the other computes


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A model in the repository. files: of its version, by name; config: its ModelConfig; note: what else to say."""

    source: Source
    config: Any
    files: Mapping[str, Path]
    precision: str
    runtime: str
    python: bool = False
    note: str = ""

    @property
    def exported(self) -> ExportedModel:
        inputs, outputs = self.source.specs
        manifest = EngineManifest(sha256=self.source.model.sha256, precision=self.precision, runtime=self.runtime)
        return ExportedModel(inputs=inputs, outputs=outputs, manifest=manifest)


def place(source: Source, settings: TritonSettings) -> Placed:
    """The model on the backend that the settings ask for, or on ONNX Runtime's where it has no plan."""
    backend = settings.backend
    if backend == AUTO:
        backend = TENSORRT if source.plans and settings.device != CPU else ONNXRUNTIME
    placed = _BACKENDS[backend](source, settings)
    placed.config.parameters["precision"].string_value = placed.precision
    return placed


def _python(source: Source, settings: TritonSettings) -> Placed:
    config = model_config(source, version=VERSION)
    config.backend = "python"
    small = source.name.startswith(RERANKER)
    # As the server does: a second thread costs a re-ranker's small graph more than it brings. 0: all cores.
    config.parameters["threads"].string_value = "1" if small else "0"
    if source.vocabulary:
        config.parameters["vocabulary"].string_value = str(source.vocabulary)
    _instances(config, CPU, settings.instances if small else 1)
    _warm_up(config, source, batches=(1,))
    precision = source.model.precision
    return Placed(
        source=source,
        config=config,
        files={ONNX: source.model.path},
        precision=precision,
        runtime="triton python",
        python=True,
    )


def _onnxruntime(source: Source, settings: TritonSettings) -> Placed:
    device = settings.device or (GPU if settings.backend == TENSORRT or source.plans else CPU)
    config = model_config(source, version=VERSION)
    config.platform, config.backend, config.default_model_filename = "onnxruntime_onnx", "onnxruntime", ONNX
    small = source.name.startswith(RERANKER)
    if source.batch:
        config.dynamic_batching.preferred_batch_size.append(source.batch)
    if device == GPU:
        _instances(config, GPU, _GPU_INSTANCES)
        _accelerate(config, source, settings)
        _warm_up(config, source, batches=(1, source.batch) if source.batch else (1,))
        precision = settings.precision
    else:
        _instances(config, CPU, settings.instances if small else 1)
        config.parameters["intra_op_thread_count"].string_value = "1" if small else "0"
        config.parameters["inter_op_thread_count"].string_value = "1"
        _warm_up(config, source, batches=(1,))
        precision = source.model.precision
    return Placed(
        source=source,
        config=config,
        files={ONNX: source.model.path},
        precision=precision,
        runtime=f"triton onnxruntime {device}",
        note=source.why_no_plan if settings.backend == TENSORRT else "",
    )


def _tensorrt(source: Source, settings: TritonSettings) -> Placed:
    if not source.plans:
        return _onnxruntime(source, settings)
    files = {f"model.sm{capability.replace('.', '')}.plan": plan.path for capability, plan in source.plans.items()}
    plan = next(iter(source.plans.values()))
    most = min(_most(source, each) for each in source.plans.values()) if source.batch else 0
    config = model_config(replace(source, batch=most), version=VERSION)
    config.platform, config.backend, config.default_model_filename = "tensorrt_plan", "tensorrt", next(iter(files))
    for capability, name in zip(source.plans, files, strict=True):
        config.cc_model_filenames[capability] = name
    if most > 1:
        config.dynamic_batching.preferred_batch_size.append(most)
    _instances(config, GPU, _GPU_INSTANCES)
    # A plan has a profile for each bucket, of exactly its shape: those for more requests than may come stay unused.
    used = [str(at) for at, shapes in enumerate(plan.key.profiles) if not most or batch_of(shapes) <= most]
    config.instance_group[0].profile.extend(used)
    _warm_up(config, source, batches=(1, most) if most > 1 else (1,))
    versions = ", ".join(sorted({each.key.version for each in source.plans.values()}))
    config.parameters["tensorrt"].string_value = versions
    return Placed(
        source=source,
        config=config,
        files=files,
        precision=settings.precision,
        runtime=f"triton tensorrt {versions}",
        note=f"for compute capability {', '.join(source.plans)} and a Triton with TensorRT {versions}",
    )


_BACKENDS: Mapping[str, Callable[[Source, TritonSettings], Placed]] = {
    PYTHON: _python,
    ONNXRUNTIME: _onnxruntime,
    TENSORRT: _tensorrt,
}


def _instances(config: Any, device: str, count: int) -> None:
    kinds = model_config_pb2().ModelInstanceGroup
    config.instance_group.add(kind=kinds.KIND_GPU if device == GPU else kinds.KIND_CPU, count=count)


def _warm_up(config: Any, source: Source, *, batches: Sequence[int]) -> None:
    """A request of zeros in every shape that the model is asked with: row 0 and token 0 are always there."""
    messages = model_config_pb2()
    for shapes in source.single.buckets:
        told = max(shapes.values(), key=len)
        for count in batches:
            warm_up = config.model_warmup.add(
                name=f"{'x'.join(map(str, told[1:]))} of {count}", batch_size=count, count=1
            )
            for tensor in source.inputs:
                given = warm_up.inputs[tensor.name]
                given.data_type = messages.DataType.Value(type_name(tensor))
                given.dims.extend(dims(replace(tensor, shape=shapes[tensor.name]), config.max_batch_size))
                given.zero_data = True


def _accelerate(config: Any, source: Source, settings: TritonSettings) -> None:
    """TensorRT within ONNX Runtime: it builds when Triton loads the model, for minutes, and keeps what it built."""
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    # Its cache knows files by name alone: other weights need another directory.
    cache = f"{settings.cache}/{source.name}.{source.model.sha256[:12]}"
    said = {
        "precision_mode": settings.precision.upper(),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
    }
    if settings.precision == "fp16":
        said["trt_layer_norm_fp32_fallback"] = "1"  # FP16 there ruins a transformer's order
    buckets = source.single.buckets if not source.batch else (*source.single.buckets, *source.model.buckets)
    ranges = profile(replace(source.model, buckets=buckets))
    said |= {f"trt_profile_{kind}_shapes": shapes for kind, shapes in ranges.items()}
    for name, value in said.items():
        accelerator.parameters[name] = value


def _most(source: Source, plan: Plan) -> int:
    """The largest number of requests such that the plan has profiles for every number up to it."""
    rows = {batch_of(shapes) for shapes in plan.key.profiles}
    return next(count for count in range(1, source.batch + 2) if count + 1 not in rows)
