"""The bundle's real models through KServe: the engines' own answers, bit for bit, described as the bundle says."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.kserve import client_of, tensors
from helpers.made_up import DIMENSIONS, KINDS, SETTINGS, tiny_bundle
from helpers.serving import serving
from radrank.engines.bundle import open_bundle
from radrank.engines.parity import read_golden

MODELS = ["image_encoder", "text_encoder", "messages_sage", *(f"reranker_{kind}" for kind in sorted(KINDS))]


@pytest.fixture(scope="module")
def bundle():
    opened = open_bundle(tiny_bundle())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def golden(bundle):
    tokens = bundle.encoder.tokens
    return read_golden(bundle.path / bundle.manifest.golden, lambda text: tokens.padded(tokens([text])))


@pytest.fixture(scope="module", params=["sync", "asyncio"])
def client(bundle, tmp_path_factory, request):
    home = tmp_path_factory.mktemp("engines") / "home"
    with serving(home, bundle=bundle) as running, client_of(request.param, running.address) as made:
        yield made


def test_every_model_of_the_bundle_is_served(client):
    names = [model.name for model in client.get_model_repository_index().models]
    assert sorted(names) == sorted([*MODELS, "search"])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_its_golden_queries_as_its_engine_does(client, bundle, golden, name):
    for feed in golden[name].feeds_for(bundle.engines[name])[:4]:
        expected = bundle.engines[name].run(feed)
        found = client.infer(name, tensors(feed))
        for output, array in expected.items():
            assert found.as_numpy(output).tobytes() == array.tobytes()
            assert found.as_numpy(output).shape == array.shape


def test_shapes_and_limits_are_the_bundles(client, bundle):
    size, buckets = bundle.manifest.image.size, bundle.manifest.text.buckets
    most = max(shapes["pixels"][0] for shapes in bundle.models["image_encoder"].buckets)
    image = client.get_model_config("image_encoder").config
    dims = [list(image.input[0].dims), list(image.output[0].dims)]
    assert (image.max_batch_size, dims) == (most, [[size, size], [DIMENSIONS]])
    ids = np.zeros((1, max(buckets) + 1), np.int64)
    with pytest.raises(Exception, match=f"ids: .*at most {max(buckets)}"):
        client.infer("text_encoder", tensors({"ids": ids}))
    with pytest.raises(Exception, match=f"ids: must hold numbers from 0 to {bundle.vocabulary - 1}"):
        client.infer("text_encoder", tensors({"ids": ids[:, :4] + bundle.vocabulary}))
    for kind in KINDS:
        inputs = [given.name for given in client.get_model_metadata(f"reranker_{kind}").inputs]
        assert inputs == list(bundle.manifest.rerankers[kind].inputs)


def test_more_candidates_than_the_largest_bucket_are_refused(client, golden, bundle):
    feed = golden["reranker_sage"].feeds_for(bundle.engines["reranker_sage"])[0]
    wide = max(SETTINGS.candidate_buckets) + 1
    grown = {
        name: np.repeat(array[:, :1], wide, axis=1)
        if array.ndim > 1 and array.shape[1] == feed["base"].shape[1]
        else array
        for name, array in feed.items()
    }
    with pytest.raises(Exception, match=f"at most {max(SETTINGS.candidate_buckets)}"):
        client.infer("reranker_sage", tensors(grown))
