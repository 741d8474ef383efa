"""A plan serves what it was built from and for, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.engines.engine import Model
from radrank.engines.plans import PlanKey, find_plan, plans_of, read_plan, write_plan

KEY = PlanKey(
    model="text_encoder",
    onnx="ab" * 32,
    flavour="tensorrt-rtx",
    version="1.7.1.116",
    compute_capability="8.6",
    precision="fp16",
    profiles=({"ids": (1, 16)}, {"ids": (8, 16)}),
)
OTHERS = {
    "onnx": "cd" * 32,
    "flavour": "tensorrt",
    "version": "1.8.0.1",
    "compute_capability": "8.9",
    "precision": "fp32",
    "recipe": KEY.recipe + 1,
}
BUNDLE = Path("bundles/openi")


def test_a_plan_is_named_by_all_that_it_depends_on():
    names = {KEY.name, *(replace(KEY, **{part: value}).name for part, value in OTHERS.items())}
    names |= {replace(KEY, model="image_encoder").name, replace(KEY, profiles=KEY.profiles[:1]).name}
    assert len(names) == 1 + len(OTHERS) + 2
    assert KEY.name.startswith("text_encoder.fp16.sm86.tensorrt-rtx-1.7.1.116.")


def test_the_key_of_a_model_holds_its_files_hash_and_its_buckets():
    model = Model(name="m", path=Path("m.onnx"), sha256="ef" * 32, precision="fp32", buckets=[{"x": (1, 2)}])
    key = PlanKey.of(model, flavour="tensorrt", version="11.4", compute_capability="9.0", precision="bf16")
    assert (key.model, key.onnx, key.precision, key.profiles) == ("m", "ef" * 32, "bf16", ({"x": (1, 2)},))


def test_the_manifest_beside_a_plan_tells_all_of_it(tmp_path):
    plan = write_plan(tmp_path, KEY, b"engine")
    said = json.loads((tmp_path / f"{KEY.name}.json").read_text())
    assert said.items() >= {"onnx": KEY.onnx, "version": KEY.version, "flavour": KEY.flavour}.items()
    assert said["profiles"] == [{"ids": [1, 16]}, {"ids": [8, 16]}]
    assert (said["key"], said["plan"]["bytes"]) == (KEY.sha256, 6)
    assert find_plan(tmp_path, KEY, bundle=BUNDLE) == plan == read_plan(tmp_path / f"{KEY.name}.json")
    assert plan.read() == b"engine"


@pytest.mark.parametrize(("part", "value"), OTHERS.items())
def test_a_plan_of_something_else_is_refused_with_the_reason_and_the_cure(tmp_path, part, value):
    write_plan(tmp_path, replace(KEY, **{part: value}), b"engine")
    with pytest.raises(Mismatch) as refused:
        find_plan(tmp_path, KEY, bundle=BUNDLE)
    said = str(refused.value)
    assert str(getattr(KEY, part))[:12] in said
    assert str(value)[:12] in said
    assert said.endswith(
        f"build it: radrank export tensorrt --bundle bundles/openi --to {tmp_path} --flavour tensorrt-rtx"
        " --precision fp16 --compute-capability 8.6 --batch 1,8 --model text_encoder"
    )


def test_a_plan_without_a_bucket_that_is_asked_for_is_refused(tmp_path):
    write_plan(tmp_path, KEY, b"engine")
    wanted = replace(KEY, profiles=(*KEY.profiles, {"ids": (32, 16)}))
    with pytest.raises(Mismatch, match=r"one of ids 32×16, found profiles none \(1 are missing\)"):
        find_plan(tmp_path, wanted, bundle=BUNDLE)


def test_a_plan_with_more_buckets_serves(tmp_path):
    more = write_plan(tmp_path, KEY, b"engine")
    wanted = replace(KEY, profiles=KEY.profiles[1:])
    assert find_plan(tmp_path, wanted, bundle=BUNDLE) == more
    exact = write_plan(tmp_path, wanted, b"smaller")
    assert find_plan(tmp_path, wanted, bundle=BUNDLE) == exact


def test_the_right_plan_is_found_among_others(tmp_path):
    for part, value in OTHERS.items():
        write_plan(tmp_path, replace(KEY, **{part: value}), part.encode())
    right = write_plan(tmp_path, KEY, b"engine")
    assert find_plan(tmp_path, KEY, bundle=BUNDLE) == right


def test_without_any_plan_the_answer_is_how_to_build_one(tmp_path):
    write_plan(tmp_path, replace(KEY, model="text_encoder_of_another"), b"engine")
    with pytest.raises(NotFound, match=r"no such plan of text_encoder in .*radrank export tensorrt --bundle"):
        find_plan(tmp_path, KEY, bundle=BUNDLE)


def test_what_else_lies_there_is_no_plan(tmp_path):
    right = write_plan(tmp_path, KEY, b"engine")
    for name in ("text_encoder.fp16.0123456789ab.json", "text_encoder.json", f"{KEY.name}.txt"):
        (tmp_path / name).write_text("{}")
    assert find_plan(tmp_path, KEY, bundle=BUNDLE) == right


def test_the_place_beside_the_bundle_needs_no_option(tmp_path):
    bundle = tmp_path / "openi"
    assert plans_of(bundle) == tmp_path / "openi.plans"
    with pytest.raises(NotFound, match=f"--bundle {bundle} --flavour"):
        find_plan(plans_of(bundle), KEY, bundle=bundle)


def test_a_plan_whose_bytes_changed_is_refused(tmp_path):
    plan = write_plan(tmp_path, KEY, b"engine")
    plan.path.write_bytes(b"enginf")
    with pytest.raises(Corrupt, match="sha256"):
        find_plan(tmp_path, KEY, bundle=BUNDLE).read()


def test_a_manifest_that_was_edited_or_renamed_is_refused(tmp_path):
    plan = write_plan(tmp_path, replace(KEY, precision="fp32"), b"engine")
    sidecar = plan.path.with_suffix(".json")
    shutil.copy(sidecar, tmp_path / f"{KEY.name}.json")
    with pytest.raises(Corrupt, match="the key"):
        find_plan(tmp_path, KEY, bundle=BUNDLE)
    (tmp_path / f"{KEY.name}.json").unlink()
    sidecar.write_text(sidecar.read_text().replace("fp32", "fp16"))
    with pytest.raises(Corrupt, match="the key"):
        find_plan(tmp_path, KEY, bundle=BUNDLE)
    sidecar.write_text("{}")
    with pytest.raises(Corrupt, match="a plan's manifest"):
        find_plan(tmp_path, KEY, bundle=BUNDLE)
