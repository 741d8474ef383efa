"""The repository that is written for Triton: its configurations, parsed back, and how it comes to its place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.bundles import with_few_buckets, with_one_weight_changed
from helpers.gpu import plan_of
from helpers.made_up import KINDS, tiny_bundle
from helpers.repositories import config_of, exported, snapshot_for
from radrank.client import cli
from radrank.core.archive import Archive
from radrank.core.errors import Corrupt, InvalidQuery, Mismatch, MissingExtra, NotFound
from radrank.core.files import sha256_of
from radrank.engines.kserve import search
from radrank.engines.kserve.tensors import DTYPES
from radrank.engines.manifest import MANIFEST, read_manifest
from radrank.engines.models import models
from radrank.engines.onnxruntime import CpuEngine
from radrank.export import triton
from radrank.export.triton_models import TritonSettings

NAMES = ["image_encoder", "text_encoder", *(f"reranker_{kind}" for kind in KINDS)]
BATCHED = ["image_encoder", "text_encoder"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An archive's home with a snapshot for the tiny bundle."""
    home = tmp_path_factory.mktemp("home")
    snapshot_for(tiny_bundle(), home)
    return home


def tensors(config, kind: str) -> dict[str, tuple[str, list[int]]]:
    types = type(config).DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    return {
        t.name: (types.values_by_number[t.data_type].name.removeprefix("TYPE_"), list(t.dims))
        for t in getattr(config, kind)
    }


def parameters(config) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_every_model_is_declared_as_its_onnx_file_is(home, tmp_path, backend):
    bundle = tiny_bundle()
    exported(bundle, home, tmp_path / "repository", backend=backend)
    for name, model in models(bundle, read_manifest(bundle)[0], batches=(8,)).items():
        config = config_of(tmp_path / "repository", name)
        engine = CpuEngine(model, threads=1)
        skipped = 1 if name in BATCHED else 0
        assert config.name == name
        assert config.max_batch_size == (8 if name in BATCHED else 0)
        for kind, specs in (("input", engine.inputs), ("output", engine.outputs)):
            wanted = {s.name: (s.dtype.newbyteorder("<"), list(s.shape[skipped:])) for s in specs}
            assert {n: (DTYPES[d], dims) for n, (d, dims) in tensors(config, kind).items()} == wanted
        assert parameters(config)["sha256"] == model.sha256
        assert parameters(config)["precision"] == "fp32"
        assert parameters(config)["bundle_sha256"] == read_manifest(bundle)[1]
        assert list(config.version_policy.specific.versions) == [1]
        assert sha256_of(tmp_path / "repository" / name / "1" / "model.onnx") == model.sha256


def test_each_is_warmed_up_in_every_shape_that_it_is_asked_with(home, tmp_path):
    bundle = tiny_bundle()
    exported(bundle, home, tmp_path / "repository", backend="onnxruntime", device="gpu")
    for name, model in models(bundle, read_manifest(bundle)[0], batches=(1,)).items():
        warm_ups = config_of(tmp_path / "repository", name).model_warmup
        asked = [
            {given: tuple(said.dims) for given, said in warm_up.inputs.items()}
            for warm_up in warm_ups
            if warm_up.batch_size == 1
        ]
        first = 1 if name in BATCHED else 0
        assert asked == [{given: shape[first:] for given, shape in bucket.items()} for bucket in model.buckets]
        assert {warm_up.batch_size for warm_up in warm_ups} == ({1, 8} if name in BATCHED else {1})


def test_python_models_import_from_radrank_and_answer_each_request_alone(home, tmp_path):
    exported(tiny_bundle(), home, tmp_path / "repository", backend="python", instances=3)
    for name in (*NAMES, "radrank_search"):
        config = config_of(tmp_path / "repository", name)
        code = (tmp_path / "repository" / name / "1" / "model.py").read_text()
        module = "search" if name == "radrank_search" else "model"
        assert f"from radrank.server.triton.{module} import TritonPythonModel" in code
        assert config.backend == "python"
        assert not config.HasField("dynamic_batching")
        assert config.instance_group[0].count == (1 if name in BATCHED else 3)
    assert parameters(config_of(tmp_path / "repository", "text_encoder"))["threads"] == "0"
    assert parameters(config_of(tmp_path / "repository", "reranker_gcn"))["threads"] == "1"


def test_on_a_cpu_onnx_runtime_is_told_its_threads(home, tmp_path):
    exported(tiny_bundle(), home, tmp_path / "repository", backend="onnxruntime")
    for name in NAMES:
        config = config_of(tmp_path / "repository", name)
        assert config.platform == "onnxruntime_onnx"
        assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
        assert parameters(config)["intra_op_thread_count"] == ("0" if name in BATCHED else "1")
        assert config.HasField("dynamic_batching") == (name in BATCHED)
        assert not config.HasField("optimization")


def test_on_a_gpu_tensorrt_accelerates_within_the_shapes_of_the_buckets(home, tmp_path):
    exported(tiny_bundle(), home, tmp_path / "repository", backend="onnxruntime", device="gpu", cache="/cache")
    manifest, _ = read_manifest(tiny_bundle())
    for name in NAMES:
        config = config_of(tmp_path / "repository", name)
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        said = dict(accelerator.parameters)
        assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
        assert (accelerator.name, said["precision_mode"], parameters(config)["precision"]) == (
            "tensorrt",
            "FP16",
            "fp16",
        )
        assert said["trt_layer_norm_fp32_fallback"] == "1"
        assert said["trt_engine_cache_path"] == f"/cache/{name}.{parameters(config)['sha256'][:12]}"
    said = dict(
        config_of(tmp_path / "repository", "text_encoder")
        .optimization.execution_accelerators.gpu_execution_accelerator[0]
        .parameters
    )
    fewest, most = manifest.text.buckets[0], manifest.text.buckets[-1]
    assert (said["trt_profile_min_shapes"], said["trt_profile_max_shapes"]) == (f"ids:1x{fewest}", f"ids:8x{most}")


def test_fp32_on_a_gpu_is_fp32(home, tmp_path):
    exported(tiny_bundle(), home, tmp_path / "repository", backend="onnxruntime", device="gpu", precision="fp32")
    config = config_of(tmp_path / "repository", "image_encoder")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.parameters["precision_mode"], parameters(config)["precision"]) == ("FP32", "fp32")
    assert "trt_layer_norm_fp32_fallback" not in accelerator.parameters


def plans_for(bundle: Path, to: Path, name: str, *targets: str, batches: tuple[int, ...] = (1,), **changes) -> None:
    """Plans of a bundle's model, for GPUs of these compute capabilities."""
    model = models(bundle, read_manifest(bundle)[0], batches=batches)[name]
    for target in targets:
        plan_of(model, to, **{"flavour": "tensorrt", "compute_capability": target, **changes})


def test_plans_serve_where_there_are_and_onnx_runtime_elsewhere(home, tmp_path):
    bundle, plans = tiny_bundle(), tmp_path / "plans"
    plans_for(bundle, plans, "text_encoder", "8.6", "9.0")
    plans_for(bundle, plans, "reranker_sage", "8.6")
    plans_for(bundle, plans, "reranker_gcn", "8.6", flavour="tensorrt-rtx")
    retrained = with_one_weight_changed(bundle, tmp_path / "other", "reranker_gat.onnx")
    plans_for(retrained, plans, "reranker_gat", "8.6")
    written = exported(bundle, home, tmp_path / "repository", plans=plans)
    notes = {model.source.name: model.note for model in written.models}
    platforms = {name: config_of(tmp_path / "repository", name).platform for name in NAMES}
    assert [name for name, platform in platforms.items() if platform == "tensorrt_plan"] == [
        "text_encoder",
        "reranker_sage",
    ]
    assert notes["text_encoder"] == "for compute capability 8.6, 9.0 and a Triton with TensorRT 9.9.9"
    config = config_of(tmp_path / "repository", "text_encoder")
    assert dict(config.cc_model_filenames) == {"8.6": "model.sm86.plan", "9.0": "model.sm90.plan"}
    assert config.max_batch_size == 1  # plans of one request each: Triton pads nothing
    assert not config.HasField("dynamic_batching")
    buckets = models(bundle, read_manifest(bundle)[0], batches=(1,))["text_encoder"].buckets
    assert list(config.instance_group[0].profile) == [str(place) for place in range(len(buckets))]
    assert {path.name for path in (tmp_path / "repository" / "text_encoder" / "1").iterdir()} == {
        "model.sm86.plan",
        "model.sm90.plan",
    }
    told = exported(bundle, home, tmp_path / "named", plans=plans, backend="tensorrt")
    notes = {model.source.name: model.note for model in told.models}
    assert "flavour tensorrt-rtx, not tensorrt" in notes["reranker_gcn"]
    assert "sha256 of the ONNX" in notes["reranker_gat"]
    assert "has no plan of it" in notes["image_encoder"]


def test_plans_of_every_batch_up_to_some_are_batched_up_to_it(home, tmp_path):
    bundle = tiny_bundle()
    plans_for(bundle, tmp_path / "plans", "image_encoder", "8.6", batches=(1, 2, 3, 6))
    exported(bundle, home, tmp_path / "repository", plans=tmp_path / "plans")
    config = config_of(tmp_path / "repository", "image_encoder")
    assert config.max_batch_size == 3
    assert list(config.dynamic_batching.preferred_batch_size) == [3]
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]


def test_plans_of_gpus_that_differ_in_profiles_are_refused(home, tmp_path):
    bundle = tiny_bundle()
    plans_for(bundle, tmp_path / "plans", "image_encoder", "8.6", batches=(1, 2))
    plans_for(bundle, tmp_path / "plans", "image_encoder", "9.0", batches=(1,))
    with pytest.raises(Mismatch, match="the profiles of image_encoder"):
        exported(bundle, home, tmp_path / "repository", plans=tmp_path / "plans")


def test_a_shape_that_the_onnx_file_does_not_take_is_told(home, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    path = bundle / MANIFEST
    said = json.loads(path.read_text())
    said["image"]["size"] += 8
    path.write_text(json.dumps(said))
    with pytest.raises(Mismatch, match=r"image_encoder\.onnx: pixels: expected"):
        exported(bundle, snapshot_for(bundle, tmp_path / "home"), tmp_path / "repository")


def test_inputs_that_the_manifest_does_not_know_are_told(home, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle(), tmp_path / "bundle"))
    path = bundle / MANIFEST
    said = json.loads(path.read_text())
    said["rerankers"]["sage"]["inputs"].remove("base")
    path.write_text(json.dumps(said))
    with pytest.raises(Mismatch, match=r"reranker_sage\.onnx: inputs: expected"):
        exported(bundle, home, tmp_path / "repository")


def test_the_search_is_declared_as_on_our_server(home, tmp_path):
    exported(tiny_bundle(), home, tmp_path / "repository")
    manifest, sha256 = read_manifest(tiny_bundle())
    config = config_of(tmp_path / "repository", "radrank_search")
    declared = {
        t.name: (t.datatype.replace("BYTES", "STRING"), list(t.shape))
        for t in search.inputs(manifest.layout.dimensions)
    }
    assert tensors(config, "input") == declared
    assert all(tensor.optional for tensor in config.input)
    assert list(tensors(config, "output")) == [tensor.name for tensor in search.OUTPUTS]
    assert parameters(config)["bundle_sha256"] == sha256
    (warm_up,) = config.model_warmup
    files = tmp_path / "repository" / "radrank_search" / "warmup"
    vector = np.fromfile(files / warm_up.inputs["embedding"].input_data_file, "<f4")
    assert vector.shape == tuple(warm_up.inputs["embedding"].dims) == (manifest.layout.dimensions,)
    assert (files / warm_up.inputs["reranker"].input_data_file).read_bytes() == b"\3\0\0\0off"


def test_it_holds_all_of_the_snapshot_and_of_the_bundle_but_its_models(home, tmp_path):
    (home / "index.json").write_text("{}")
    exported(tiny_bundle(), home, tmp_path / "repository")
    inside = tmp_path / "repository" / "radrank_search" / "1"
    _, sha256 = read_manifest(inside / "bundle", models=False)
    assert sha256 == read_manifest(tiny_bundle())[1]
    assert not list((inside / "bundle").glob("*.onnx"))
    (snapshot,) = (path for path in (home / "snapshots").iterdir() if path.is_dir())
    held = {path.relative_to(snapshot) for path in snapshot.rglob("*")}
    assert {path.relative_to(inside / "snapshot") for path in (inside / "snapshot").rglob("*")} == held
    assert (inside / "index.json").read_text() == "{}"
    (home / "index.json").unlink()


def test_a_snapshot_may_be_named_itself(home, tmp_path):
    (snapshot,) = (path for path in (home / "snapshots").iterdir() if path.is_dir())
    exported(tiny_bundle(), snapshot, tmp_path / "repository")
    said = parameters(config_of(tmp_path / "repository", "radrank_search"))
    assert said["snapshot"] == snapshot.name


def test_a_snapshot_of_another_bundle_or_a_broken_one_is_refused(home, tmp_path):
    other = with_few_buckets(tiny_bundle(), tmp_path / "other", tokens=16, candidates=10)
    path = other / MANIFEST
    path.write_text(path.read_text().replace('"max_tokens": ', '"max_tokens": 1'))  # another space by its identity
    with pytest.raises(Mismatch, match="encoder; make one with: radrank index build"):
        exported(other, home, tmp_path / "repository")
    copy = Path(shutil.copytree(home, tmp_path / "home"))
    (vectors, *_) = copy.rglob("vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(Corrupt, match=r"vectors\.npy"):
        exported(tiny_bundle(), copy, tmp_path / "repository")
    with pytest.raises(NotFound, match="radrank index build"):
        exported(tiny_bundle(), tmp_path / "nothing", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_what_is_no_repository_is_not_overwritten(home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(InvalidQuery, match="is no exported repository"):
        exported(tiny_bundle(), home, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    exported(tiny_bundle(), home, tmp_path / "empty")
    assert (tmp_path / "empty" / "radrank_search").is_dir()


def test_a_repository_is_replaced_whole_or_not_at_all(home, tmp_path, monkeypatch):
    exported(tiny_bundle(), home, tmp_path / "repository", backend="python")
    exported(tiny_bundle(), home, tmp_path / "repository", backend="onnxruntime")
    assert not (tmp_path / "repository" / "text_encoder" / "1" / "model.py").exists()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    for part in ("_write_search", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(triton, part, full)
            with pytest.raises(OSError, match="no space"):
                exported(tiny_bundle(), home, tmp_path / "repository", backend="python")
        assert config_of(tmp_path / "repository", "text_encoder").platform == "onnxruntime_onnx"
        assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_without_links_files_are_copied(home, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    exported(tiny_bundle(), home, tmp_path / "repository", backend="python")
    copied = tmp_path / "repository" / "text_encoder" / "1" / "model.onnx"
    assert copied.stat().st_nlink == 1
    assert sha256_of(copied) == sha256_of(tiny_bundle() / "text_encoder.onnx")


def test_without_tritonclient_the_extra_is_named_before_anything_is_done(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingExtra, match=r'pip install "radrank\[triton\]"'):
        exported(tiny_bundle(), home, tmp_path / "repository")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"backend": "openvino"}, "backend: must be one of: auto, python, onnxruntime, tensorrt"),
        ({"device": "tpu"}, "device: must be one of: cpu, gpu"),
        ({"precision": "int8"}, "precision: must be one of: fp32, fp16"),
        ({"backend": "python", "device": "gpu"}, "python does not run on a gpu"),
        ({"backend": "tensorrt", "device": "cpu"}, "tensorrt does not run on a cpu"),
    ],
)
def test_settings_that_do_not_exist_are_refused(wrong, reason):
    with pytest.raises(InvalidQuery, match=reason):
        TritonSettings(**wrong)


def test_the_command_tells_what_runs_where_and_what_comes_next(home, tmp_path, capsys):
    words = ["export", "triton", "--bundle", str(tiny_bundle()), "--snapshot", str(home)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--to", str(tmp_path / "repository"), "--backend", "tensorrt"])
    said = capsys.readouterr().out.splitlines()
    assert not ended.value.code
    assert said[0].startswith("image_encoder: onnxruntime gpu, fp16 (")
    assert said[-1].endswith(f"next: tritonserver --model-repository={tmp_path / 'repository'}")
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--to", str(tmp_path), "--backend", "python"])
    assert ended.value.code == 1
    assert "choose another directory" in capsys.readouterr().err


def test_changes_after_the_snapshot_are_told(home, tmp_path, capsys):
    copy = Path(shutil.copytree(home, tmp_path / "home"))
    archive = Archive(copy / "archive.sqlite")
    for _ in range(3):
        archive.delete(["nobody"])
    archive.close()
    words = ["--bundle", str(tiny_bundle()), "--snapshot", str(copy), "--to", str(tmp_path / "repository")]
    with pytest.raises(SystemExit):
        cli.main(["export", "triton", *words])
    assert "has 2 changes that its snapshot lacks; take them in with: radrank index build" in capsys.readouterr().err
