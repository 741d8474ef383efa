"""Real TensorRT-RTX plans, built for GPUs that are not there."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from helpers.bundles import with_few_buckets, with_one_weight_changed
from helpers.feeds import MODELS
from helpers.made_up import tiny_bundle
from radrank.client import cli
from radrank.core.errors import InvalidQuery, Mismatch, Unavailable
from radrank.engines.engine import Model
from radrank.engines.flavours import FULL, RTX
from radrank.engines.manifest import read_manifest
from radrank.engines.models import models
from radrank.engines.plans import PlanKey, find_plan, plans_of, read_plan
from radrank.engines.runtimes import EngineSettings
from radrank.export import commands, tensorrt
from radrank.export.progress import Fractions
from radrank.export.tensorrt import PlanSettings, build_plans

TARGETS = ("8.0", "8.6", "8.9", "12.0")
VERSION = RTX.load().__version__


@contextmanager
def unseen(name: str):
    yield lambda fraction: None


def built(bundle: Path, to: Path | None = None, **settings):
    """Plans of one bucket's batch of 1, and which of them were there."""
    options = PlanSettings(**{"compute_capabilities": ("8.6",), "batches": (1,), **settings})
    found = list(build_plans(bundle, to, options, step=unseen))
    return [plan for plan, _ in found], [was_there for _, was_there in found]


def key_of(model: Model, **changes: str) -> PlanKey:
    parts = {"flavour": "tensorrt-rtx", "version": VERSION, "compute_capability": "8.6", "precision": "fp16"}
    return PlanKey.of(model, **{**parts, **changes})


def test_every_model_of_the_demo_bundle_builds_for_every_gpu(demo_bundle, tmp_path):
    bundle = with_few_buckets(demo_bundle, tmp_path / "bundle", tokens=32, candidates=50)
    plans, was_there = built(bundle, compute_capabilities=TARGETS)
    files = {path.stem for path in bundle.glob("*.onnx")}
    assert files == {*MODELS, "reranker_mlp", "messages_mlp"}
    assert [plan.key.compute_capability for plan in plans] == [*TARGETS] * len(files)
    assert {plan.key.model for plan in plans} == files
    assert not any(was_there)
    engines = [plan.read() for plan in plans]
    assert len(set(engines)) == len(engines)
    assert all(b"vtrt" in engine[:4] for engine in engines)
    for model in models(bundle, read_manifest(bundle)[0], batches=(1,)).values():
        for capability in TARGETS:
            assert find_plan(plans_of(bundle), key_of(model, compute_capability=capability), bundle=bundle) in plans
    assert built(bundle, compute_capabilities=TARGETS) == (plans, [True] * len(plans))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_model_of_biomedclips_size_builds_for_every_gpu(tmp_path):
    from radrank.bench.checkpoint import Sizes, write_checkpoint
    from radrank.bench.shaped import Shape, demo_words, made_run
    from radrank.export.bundles import write_bundle

    shape = Shape()
    write_checkpoint(tmp_path / "checkpoint", Sizes(), demo_words())
    run = made_run(tmp_path / "run", tmp_path / "checkpoint", shape)
    bundle = with_few_buckets(
        write_bundle(run, tmp_path / "whole", default="sage"), tmp_path / "bundle", tokens=64, candidates=100
    )
    sizes = {path.stem: path.stat().st_size for path in bundle.glob("*.onnx")}
    assert min(sizes["image_encoder"], sizes["text_encoder"]) > 300e6
    for capability in TARGETS:
        plans, _ = built(bundle, tmp_path / "plans", compute_capabilities=(capability,))
        assert {plan.key.model for plan in plans} == set(sizes)
        by_model = {plan.key.model: len(plan.read()) for plan in plans}
        assert by_model["image_encoder"] > 0.45 * sizes["image_encoder"]
        shutil.rmtree(tmp_path / "plans")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_build_too(tmp_path, precision):
    plans, _ = built(tiny_bundle(), tmp_path, precision=precision, names=("image_encoder", "reranker_gcn"))
    assert [plan.key.precision for plan in plans] == [precision] * 2


def test_a_plan_has_a_profile_for_every_bucket_and_a_manifest_of_all_it_depends_on(tmp_path):
    (plan,), _ = built(tiny_bundle(), tmp_path, names=("text_encoder",), batches=(4, 1))
    model = models(tiny_bundle(), read_manifest(tiny_bundle())[0], batches=(1, 4))["text_encoder"]
    assert plan.key == key_of(model)
    said = json.loads(plan.path.with_suffix(".json").read_text())
    assert said["onnx"] == model.sha256
    assert [profile["ids"] for profile in said["profiles"]] == [
        [count, tokens] for tokens in (8, 16, 32) for count in (1, 4)
    ]
    few = with_few_buckets(tiny_bundle(), tmp_path / "few", tokens=8, candidates=10)
    (smaller,), _ = built(few, names=("text_encoder",))
    assert len(plan.read()) > 2 * len(smaller.read()), "kernels for six profiles"
    assert plan.path.name == (f"text_encoder.fp16.sm86.tensorrt-rtx-{VERSION}.{said['key'][:12]}.plan")


def test_one_changed_weight_is_another_key_and_its_plan_is_not_taken(tmp_path):
    bundle = shutil.copytree(tiny_bundle(), tmp_path / "bundle")
    (before,), _ = built(bundle, names=("reranker_sage",))
    changed = with_one_weight_changed(bundle, tmp_path / "changed", "reranker_sage.onnx")
    model = models(changed, read_manifest(changed)[0], batches=(1,))["reranker_sage"]
    with pytest.raises(Mismatch, match=r"sha256 of the ONNX .*radrank export tensorrt --bundle .*changed"):
        find_plan(plans_of(bundle), key_of(model), bundle=changed)
    (after,), (was_there,) = built(changed, plans_of(bundle), names=("reranker_sage",))
    assert not was_there
    assert after.key.sha256 != before.key.sha256
    assert after.read() != before.read()
    assert sorted(plan.path.name for plan in map(read_plan, plans_of(bundle).glob("*.json"))) == sorted(
        [before.path.name, after.path.name]
    )


def test_a_plan_that_was_damaged_is_built_again(tmp_path):
    (plan,), _ = built(tiny_bundle(), tmp_path, names=("image_encoder",))
    plan.path.write_bytes(b"half of it")
    (again,), (was_there,) = built(tiny_bundle(), tmp_path, names=("image_encoder",))
    assert not was_there
    assert len(again.read()) > 1000


def test_what_tensorrt_cannot_parse_is_told_in_its_own_words(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("StringConcat", ["x", "x"], ["y"])],
        "strange",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )
    strange = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = Model(name="strange", path=tmp_path / "strange.onnx", sha256="", precision="fp32")
    build = tensorrt.Build(RTX.load(), RTX, "8.6", tmp_path)
    with pytest.raises(Mismatch, match="an ONNX file that TensorRT parses"):
        build.run(model, "fp32", strange.SerializeToString(), print)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"compute_capabilities": ("9.0",)}, r"7\.5, 8\.0, 8\.6, 8\.9, 12\.0"),
        ({"precision": "int8"}, "fp32, fp16, bf16"),
        ({"flavour": "openvino"}, "tensorrt-rtx, tensorrt"),
        ({"names": ("reranker_none",)}, "image_encoder, text_encoder, reranker_"),
    ],
)
def test_what_cannot_be_asked_for_is_answered_with_what_can(tmp_path, settings, reason):
    with pytest.raises(InvalidQuery, match=reason):
        built(tiny_bundle(), tmp_path, **settings)


def test_without_a_gpu_the_gpus_that_will_serve_must_be_named(tmp_path, monkeypatch):
    def absent():
        raise Unavailable("CUDA: no device")

    monkeypatch.setattr(tensorrt, "Cuda", absent)
    with pytest.raises(Unavailable, match=r"no GPU here .*--compute-capability 7\.5 or 8\.0"):
        built(tiny_bundle(), tmp_path, compute_capabilities=())


def test_the_full_tensorrt_builds_for_the_gpu_it_is_on_and_no_other(tmp_path, monkeypatch):
    class Here:
        def compute_capability(self):
            return "8.6"

    monkeypatch.setattr(tensorrt, "Cuda", Here)
    for asked in ((), ("8.6",)):
        assert tensorrt._targets(RTX.load(), FULL, asked) == ("8.6",)
    with pytest.raises(InvalidQuery, match=r"the GPU of this machine, 8\.6"):
        tensorrt._targets(RTX.load(), FULL, ("8.9",))


def test_the_full_tensorrt_keeps_its_timings_from_one_build_to_the_next(tmp_path):
    class Cache:
        def serialize(self):
            return b"timings"

    given: list[bytes] = []

    class Config:
        def create_timing_cache(self, blob):
            given.append(blob)
            return Cache()

        def set_timing_cache(self, cache, ignore_mismatch):
            assert (type(cache), ignore_mismatch) == (Cache, False)

    for _ in range(2):
        build, config = tensorrt.Build(RTX.load(), FULL, "8.6", tmp_path / "plans"), Config()
        build._keep_timings(build._load_timings(config))
    assert given == [b"", b"timings"]


def test_progress_goes_from_nothing_to_all_and_never_back():
    told: list[float] = []
    fractions = Fractions(told.append)
    fractions.start("build", None, 2)
    fractions.start("graph", "build", 4)
    for step in range(4):
        fractions.step("graph", step)
    fractions.finish("graph")
    fractions.step("build", 0)
    fractions.start("graph", "build", 2)
    fractions.step("graph", 0)
    fractions.finish("graph")
    fractions.step("build", 1)
    fractions.finish("build")
    assert told == sorted(told)
    assert told[:4] == [0.125, 0.25, 0.375, 0.5]
    assert 0.75 in told
    assert told[-1] == 1.0


def test_the_command_builds_says_what_it_built_and_what_was_there(tmp_path, capsys):
    words = ["export", "tensorrt", "--bundle", str(tiny_bundle()), "--to", str(tmp_path), "--batch", "1"]
    words += ["--compute-capability", "8.6", "--compute-capability", "8.9", "--model", "image_encoder"]
    for said in ("built", "was there"):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == [said, said]
        assert ["sm86" in lines[0], "sm89" in lines[1]] == [True, True]


def test_plans_and_conversions_are_made_where_only_their_own_extras_are_installed(tmp_path):
    absent = ["torch", "transformers", "onnxruntime", "onnxscript", "tokenizers", "hnswlib", "scipy"]
    where = ["--bundle", str(tiny_bundle()), "--to", str(tmp_path)]
    tensorrt = ["export", "tensorrt", *where, "--compute-capability", "8.6", "--model", "image_encoder"]
    for words in (["export", "precision", *where, "--precision", "fp16"], tensorrt):
        hidden = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        code = f"{hidden}from radrank.client import cli\ncli.main({words})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} >= {".onnx", ".plan"}


def test_what_is_built_unless_somebody_says_otherwise_is_what_a_server_asks_for():
    asked = inspect.signature(commands.tensorrt).parameters["batch"].default
    assert tuple(map(int, asked.split(","))) == PlanSettings().batches == (EngineSettings().batch,)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["export"], 2, "--run"),
        (["export", "--run", "r"], 2, "--to"),
        (["export", "tensorrt"], 2, "--bundle"),
        (["export", "tensorrt", "--bundle", "nowhere", "--compute-capability", "8.6"], 1, "radrank export"),
        (["export", "tensorrt", "--bundle", "b", "--batch", "1,x"], 1, "such as 8"),
    ],
)
def test_what_is_missing_on_the_command_line_is_named(words, code, said, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == code
    assert said in capsys.readouterr().err
