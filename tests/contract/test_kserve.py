"""The KServe v2 service as tritonclient's own two clients see it, over engines in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import json_format

from helpers.doubles import DIMENSIONS, IMAGE_SIZE, DoubleBundle
from helpers.kserve import (
    CLIENTS,
    client_of,
    refusal,
    tensor,
)
from helpers.serving import STUDIES, serving
from radrank.server.app import Server
from radrank.server.settings import load

MODELS = ["image_encoder", "text_encoder", "reranker_sage", "search"]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
IDS = np.arange(10, dtype=np.int64).reshape(2, 5)


def test_the_server_and_every_model_are_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    for name in MODELS:
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
    assert not client.is_model_ready("unknown")
    assert not client.is_model_ready("search", "2")


@pytest.mark.parametrize("kind", CLIENTS)
def test_before_there_is_a_library_the_server_is_live_but_not_ready(kind):
    server = Server(load(listen="127.0.0.1:0"))
    with client_of(kind, server.start()) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("search")
        calls = [
            lambda: client.infer("search", [tensor("text", "opacity")]),
            lambda: client.get_model_metadata("search"),
            lambda: client.get_model_config("search"),
            lambda: client.get_inference_statistics(),
            lambda: client.get_model_repository_index(),
        ]
        assert {refusal(call)[0] for call in calls} == {"UNAVAILABLE"}
    server.stop(0)


def test_the_server_names_itself_and_what_it_can(client):
    found = client.get_server_metadata()
    assert (found.name, bool(found.version)) == ("radrank", True)
    assert {"statistics", "system_shared_memory", "model_configuration"} <= set(found.extensions)


def test_the_repository_has_every_model_ready(client):
    models = client.get_model_repository_index().models
    assert [(model.name, model.version, model.state) for model in models] == [(name, "1", "READY") for name in MODELS]


def test_metadata_has_the_engines_names_types_and_whole_shapes(client, kserve):
    for name, engine in kserve.library.engines.engines.items():
        found = client.get_model_metadata(name, "1")
        assert (found.name, list(found.versions), found.platform) == (name, ["1"], "numpy")
        for told, specs in ((found.inputs, engine.inputs), (found.outputs, engine.outputs)):
            assert [(t.name, tuple(t.shape)) for t in told] == [(s.name, s.shape) for s in specs]
    datatypes = {t.name: t.datatype for n in MODELS for t in client.get_model_metadata(n).inputs}
    assert [datatypes[name] for name in ("pixels", "ids", "mask", "text")] == ["UINT8", "INT64", "FP32", "BYTES"]


def test_an_encoders_config_counts_requests_apart(client):
    config = client.get_model_config("image_encoder").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (4, [IMAGE_SIZE, IMAGE_SIZE])
    assert list(config.output[0].dims) == [DIMENSIONS]
    assert json_format.MessageToDict(config.input[0])["dataType"] == "TYPE_UINT8"
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "sha256": "a" * 64,
        "precision": "fp32",
        "runtime": "numpy",
    }


def test_a_rerankers_config_has_whole_shapes_since_its_graphs_share_their_nodes(client):
    config = client.get_model_config("reranker_sage").config
    assert config.max_batch_size == 0
    dims = {given.name: list(given.dims) for given in config.input}
    assert (dims["base"], dims["image"][0], dims["candidate_image.idx"]) == ([-1, -1], -1, [-1, -1, 3])
    assert not any(given.optional for given in config.input)


def test_the_searchs_inputs_are_optional(client):
    config = client.get_model_config("search").config
    assert all(given.optional for given in config.input)
    assert [given.name for given in config.output] == ["ids", "scores", "cosines"]


def test_what_this_server_cannot_do_it_says(client):
    answers = {
        "bundle never changes": [lambda: client.load_model("search"), lambda: client.unload_model("search")],
        "CUDA": [lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64)],
        "trace": [lambda: client.get_trace_settings(), lambda: client.update_trace_settings("search", {})],
        "log": [lambda: client.get_log_settings(), lambda: client.update_log_settings({"log_info": True})],
    }
    for words, calls in answers.items():
        for call in calls:
            code, message = refusal(call)
            assert (code, words in message) == ("UNIMPLEMENTED", True)


def test_there_is_no_cuda_memory_to_ask_for_or_to_forget(client):
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_token_guards_this_service_too(tmp_path, kind):
    (tmp_path / "token").write_text("s3cret-token\n")
    settings = {"bundle": DoubleBundle(), "token_file": tmp_path / "token"}
    with serving(tmp_path / "home", STUDIES[:3], **settings) as running, client_of(kind, running.address) as client:
        assert refusal(lambda: client.get_model_repository_index())[0] == "UNAUTHENTICATED"
        headers = {"authorization": "Bearer s3cret-token"}
        assert client.is_model_ready("search", headers=headers)
        assert len(client.infer("search", [tensor("text", "a")], headers=headers).as_numpy("ids")) == 3


def test_reflection_and_health_know_the_service(kserve):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    name = "inference.GRPCInferenceService"
    check = health_pb2.HealthCheckRequest(service=name)
    assert health_pb2_grpc.HealthStub(kserve.channel).Check(check, timeout=10).status == 1
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
    stub = reflection_pb2_grpc.ServerReflectionStub(kserve.channel)
    reply = next(stub.ServerReflectionInfo(iter([asked]), timeout=10))
    assert reply.file_descriptor_response.file_descriptor_proto
