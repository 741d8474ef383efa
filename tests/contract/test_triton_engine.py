"""A server whose engines run on a remote host. The host is a radrank server: it serves KServe v2 as Triton does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from helpers.bundles import with_one_weight_changed
from helpers.certificates import needs_openssl, self_signed
from helpers.doubles import picture
from helpers.made_up import KINDS, tiny_bundle
from helpers.serving import STUDIES, Running, error_of, health, new_study, search_request, serving
from radrank.core.errors import InvalidQuery, Mismatch, Unavailable
from radrank.engines import triton_link
from radrank.engines.bundle import Bundle, open_bundle
from radrank.engines.runtimes import EngineSettings
from radrank.server.loading import Opened
from radrank.server.settings import load
from radrank.v1 import archive_pb2, retrieval_pb2

SECONDS = 5.0  # that calls are given
TEXT, IMAGE, STUDY = {"text": "the lungs are clear"}, {"image": picture(3)}, {"study": {"study_id": "S0002"}}


@dataclass(kw_only=True)
class Host:
    """Serves a bundle's models on one address; may be killed, and come back."""

    home: Path
    address: str = "127.0.0.1:0"
    bundle: Bundle | None = None
    _serving: ExitStack = field(default_factory=ExitStack)

    def start(self, path: Path) -> None:
        self.bundle = self._serving.enter_context(opened(path))
        running = self._serving.enter_context(serving(self.home, bundle=self.bundle, listen=self.address))
        self.address = running.address

    def kill(self) -> None:
        self._serving.close()


@contextmanager
def opened(path: Path, **settings) -> Iterator[Bundle]:
    bundle = open_bundle(path, EngineSettings(**settings))
    yield bundle
    bundle.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[Host]:
    made = Host(home=tmp_path_factory.mktemp("host") / "home")
    made.start(tiny_bundle())
    yield made
    made.kill()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Iterator[Running]:
    """A server with engines of its own."""
    home = tmp_path_factory.mktemp("local") / "home"
    with opened(tiny_bundle()) as bundle, serving(home, STUDIES[:8], bundle=bundle) as running:
        yield running


@pytest.fixture(scope="module")
def remote(host, tmp_path_factory) -> Iterator[Running]:
    """A server with the same studies, whose engines are on the host."""
    home = tmp_path_factory.mktemp("remote") / "home"
    with opened(tiny_bundle(), runtime="triton", triton=host.address) as bundle:
        bundle.warm_up()  # the golden queries, through the host
        with serving(home, STUDIES[:8], bundle=bundle) as running:
            yield running


@pytest.fixture
def killed(host, remote) -> Iterator[Host]:
    """The host, dead; it comes back afterwards."""
    host.kill()
    yield host
    host.kill()
    host.start(tiny_bundle())
    back(remote)


def back(remote: Running, **fields) -> float:
    """Waits until a search by words is answered again; returns the seconds that took."""
    start = time.monotonic()
    while (code := outcome(remote, **fields)) != "OK":
        assert code == "UNAVAILABLE"
        assert time.monotonic() - start < 10.0
        time.sleep(0.02)
    return time.monotonic() - start


def outcome(remote: Running, **fields) -> str:
    """The code that a search by words ends with."""
    try:
        remote.search(**{"query": TEXT} | fields)
    except grpc.RpcError as error:
        return error_of(error)[0]
    return "OK"


def failure(remote: Running, **fields) -> tuple[str, str, float]:
    """(code, message, seconds) of a search that must fail."""
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        remote.retrieval.Search(search_request(**fields), timeout=SECONDS)
    return *error_of(caught.value), time.monotonic() - start


@pytest.mark.parametrize("query", [TEXT, IMAGE, STUDY], ids=["text", "image", "study"])
@pytest.mark.parametrize("reranker", [*KINDS, "off"])
@pytest.mark.parametrize("target", [1, 2], ids=["image", "report"])
def test_it_answers_as_with_engines_of_its_own(local, remote, query, reranker, target):
    here, there = (each.search(query=query, reranker=reranker, target=target) for each in (local, remote))
    assert len(there.hits) == 5
    assert list(there.hits) == list(here.hits)


def helpers_here() -> set[int]:
    """Processes that re-rank for a server of this one."""
    started = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return {
        int(child)
        for child in started.split()
        if b"radrank.server.helpers" in Path(f"/proc/{child}/cmdline").read_bytes()
    }


@pytest.mark.parametrize("runtime", ["triton", "onnxruntime-cpu"])
def test_helpers_are_started_only_where_re_rankers_compute_here(host, tmp_path, runtime):
    with opened(tiny_bundle(), runtime=runtime, triton=host.address) as bundle:
        bundle.warm_up()
        before = helpers_here()
        with serving(tmp_path / "home", STUDIES[:8], bundle=bundle, limits={"helpers": 1}) as running:
            running.search(query=STUDY, reranker="sage")
            assert len(helpers_here() - before) == (runtime != "triton")
        assert helpers_here() <= before


def test_the_archive_was_encoded_there_too(local, remote):
    query = retrieval_pb2.EmbedRequest(queries=[TEXT, {"text": "large opacity left"}])
    here, there = (list(each.retrieval.Embed(query, timeout=SECONDS).vectors) for each in (local, remote))
    assert here == there
    assert remote.stats().studies == local.stats().studies == 8


def test_provenance_names_triton_and_the_bundles_files(local, remote):
    here, there = local.search().provenance, remote.search().provenance
    assert there.runtime.startswith("triton ")
    assert (there.encoder_sha256, there.reranker_sha256) == (here.encoder_sha256, here.reranker_sha256)
    assert there.precision == "fp32"


@pytest.mark.parametrize("query", [TEXT, IMAGE], ids=["text", "image"])
def test_what_must_be_encoded_is_unavailable_at_once_while_the_host_is_dead(killed, remote, query):
    for degrade in (False, True):
        code, message, seconds = failure(remote, query=query, allow_degraded=degrade)
        assert code == "UNAVAILABLE"
        assert "does not answer" in message
        assert killed.address not in message
        assert seconds < 2.0


def test_what_is_encoded_already_comes_unranked_where_the_request_allows_it(killed, remote):
    reply = remote.search(query=STUDY, allow_degraded=True)
    assert reply.degraded
    assert list(reply.hits) == list(remote.search(query=STUDY, reranker="off").hits)
    assert (reply.provenance.reranker, reply.provenance.runtime) == ("", "")
    assert failure(remote, query=STUDY)[0] == "UNAVAILABLE"


def test_all_else_goes_on_and_health_says_serving(killed, remote):
    assert health(remote.channel) == health_pb2.HealthCheckResponse.SERVING
    assert remote.retrieval.GetStudy(retrieval_pb2.GetStudyRequest(study_id="S0001"), timeout=SECONDS).study_id
    with pytest.raises(grpc.RpcError) as caught:
        remote.upsert(new_study())
    assert error_of(caught.value)[0] == "UNAVAILABLE"
    assert remote.stats().studies == 8


def test_it_recovers_by_itself_within_a_second_or_so(killed, remote):
    for _ in range(5):
        failure(remote, query=TEXT)
    killed.start(tiny_bundle())
    assert back(remote) < 2.0
    assert not remote.search(query=STUDY, allow_degraded=True).degraded


def test_a_host_that_comes_back_with_other_weights_gives_no_answers(killed, remote, tmp_path):
    other = with_one_weight_changed(tiny_bundle(), tmp_path / "other", "reranker_gcn.onnx")
    killed.start(other)
    back(remote, reranker="off")
    code, message, _ = failure(remote, query=TEXT)
    assert (code, message) == ("UNAVAILABLE", "reranker_gcn: its Triton serves another model; the log says which")
    assert remote.search(query=TEXT, allow_degraded=True).degraded
    assert not remote.search(query=TEXT, reranker="sage").degraded


@pytest.fixture
def slow(host, monkeypatch):
    """Makes a model of the host take two and a half seconds."""

    def slowed(name: str) -> None:
        engine = host.bundle.engines[name]
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda feed: (time.sleep(2.5), run(feed))[1])

    return slowed


def test_a_deadline_reaches_the_host(remote, slow):
    slow("text_encoder")
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        remote.retrieval.Search(search_request(query=TEXT), timeout=1.0)
    assert error_of(caught.value) == ("DEADLINE_EXCEEDED", "the deadline is too short")  # said before it had passed
    assert time.monotonic() - start < 2.0


def test_a_reranker_that_is_too_slow_leaves_time_for_an_unranked_reply(remote, slow):
    slow("reranker_gcn")
    request = search_request(query=STUDY, allow_degraded=True)
    assert remote.retrieval.Search(request, timeout=1.0).degraded
    with pytest.raises(grpc.RpcError) as caught:
        remote.retrieval.Search(search_request(query=STUDY), timeout=1.0)
    assert error_of(caught.value)[0] == "DEADLINE_EXCEEDED"


def test_a_stream_has_its_deadline_too(remote, slow):
    slow("text_encoder")
    requests = iter([retrieval_pb2.SearchStreamRequest(tag="t", search=search_request(query=TEXT))])
    reply = next(remote.retrieval.SearchStream(requests, timeout=1.0))
    assert reply.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_an_upsert_has_its_deadline_too(remote, slow):
    slow("text_encoder")
    start = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        remote.archive.Upsert(iter([archive_pb2.UpsertRequest(study=new_study())]), timeout=1.0)
    assert error_of(caught.value)[0] == "DEADLINE_EXCEEDED"
    assert time.monotonic() - start < 2.0
    assert remote.stats().studies == 8


def test_many_studies_are_encoded_in_parts_that_the_host_takes(remote, local):
    most = max(shapes["pixels"][0] for shapes in remote.library.engines.models["image_encoder"].buckets)
    pixels = np.random.default_rng(5).integers(0, 256, (2 * most + 3, 16, 16), dtype=np.uint8)
    here, there = (each.library.engines.encoder.encode_images(pixels) for each in (local, remote))
    np.testing.assert_allclose(there, here, atol=1e-6)


@needs_openssl
def test_the_way_to_the_host_may_be_encrypted(host, tmp_path):
    files = self_signed(tmp_path)
    with serving(tmp_path / "home", bundle=host.bundle, tls=files) as running:
        address = f"localhost:{running.address.rpartition(':')[2]}"
        with opened(tiny_bundle(), runtime="triton", triton=address, triton_ca=files["certificate"]) as bundle:
            bundle.warm_up()
        with pytest.raises(Unavailable, match="no Triton is ready"):
            open_bundle(tiny_bundle(), EngineSettings(runtime="triton", triton=address))
        with pytest.raises(InvalidQuery, match=r"^engines\.triton_ca: .*none can't be read"):
            open_bundle(tiny_bundle(), EngineSettings(runtime="triton", triton=address, triton_ca=tmp_path / "none"))


# A start.


def settings(host: Host, path: Path, home: Path):
    return load(bundle=path, archive=home, engines={"runtime": "triton", "triton": host.address})


def test_a_start_with_the_host_down_says_what_to_do(killed, tmp_path):
    with Opened(settings(killed, tiny_bundle(), tmp_path / "home")) as both, pytest.raises(Unavailable) as caught:
        both.library()
    assert str(caught.value).startswith(f"engines.triton: no Triton is ready at {killed.address}")


def test_a_start_with_another_bundle_than_the_hosts_says_what_to_do(host, tmp_path):
    before = dict(triton_link._links)
    other = with_one_weight_changed(tiny_bundle(), tmp_path / "other", "reranker_gcn.onnx")
    with Opened(settings(host, other, tmp_path / "home")) as both, pytest.raises(Mismatch) as caught:
        both.library()
    assert "reranker_gcn on the Triton at" in str(caught.value)
    assert f"radrank export triton --bundle {other} --snapshot" in str(caught.value)
    assert triton_link._links == before  # what was opened before that is closed again


def test_a_host_that_answers_otherwise_than_the_golden_queries_does_not_serve(host, monkeypatch, tmp_path):
    engine = host.bundle.engines["reranker_sage"]
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda feed: {"scores": -run(feed)["scores"]})
    with (
        Opened(settings(host, tiny_bundle(), tmp_path / "home")) as both,
        pytest.raises(Mismatch, match="reranker_sage on triton"),
    ):
        both.library()
