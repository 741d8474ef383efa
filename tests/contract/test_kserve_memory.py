"""System shared memory: tensors in /dev/shm, of callers on this host, within the bounds of what they registered."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.utils.shared_memory as shm

from helpers.doubles import IMAGE_SIZE, HashingEncoder
from helpers.kserve import refusal, sync_client, tensor
from radrank.server.kserve import servicer
from radrank.server.kserve.memory import Memory

PIXELS = np.random.default_rng(2).integers(0, 256, (2, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
VECTORS = HashingEncoder().encode_images(PIXELS)
SIZE = PIXELS.nbytes + VECTORS.nbytes


@pytest.fixture
def key():
    """Of a shared memory object that holds PIXELS, and has room for VECTORS behind them."""
    name = f"radrank-{uuid.uuid4().hex}"
    handle = shm.create_shared_memory_region("mine", name, SIZE)
    shm.set_shared_memory_region(handle, [PIXELS])
    yield name
    shm.destroy_shared_memory_region(handle)


@pytest.fixture(autouse=True)
def _tidy(client):
    yield
    client.unregister_system_shared_memory()


@pytest.fixture
def region(client, key):
    client.register_system_shared_memory("mine", key, SIZE)
    return "mine"


def pixels_in(region, size=PIXELS.nbytes, offset=0):
    """An input that lies in shared memory."""
    made = sync_client.InferInput("pixels", list(PIXELS.shape), "UINT8")
    made.set_shared_memory(region, size, offset)
    return made


def vectors_to(region, size=VECTORS.nbytes, offset=PIXELS.nbytes):
    """An output that shall be put into shared memory."""
    made = sync_client.InferRequestedOutput("vectors")
    made.set_shared_memory(region, size, offset)
    return made


def object_of(key):
    return Path("/dev/shm") / key


def test_inputs_are_read_from_and_outputs_written_to_a_region(client, region, key):
    result = client.infer("image_encoder", [pixels_in(region)], outputs=[vectors_to(region)])
    output = result.get_output("vectors")
    assert output.parameters["shared_memory_region"].string_param == region
    assert list(result.get_response().raw_output_contents) == [b""]
    written = np.frombuffer(object_of(key).read_bytes()[PIXELS.nbytes :][: VECTORS.nbytes], np.float32)
    assert np.array_equal(written.reshape(output.shape), VECTORS)
    assert object_of(key).read_bytes()[: PIXELS.nbytes] == PIXELS.tobytes()


def test_an_input_in_memory_may_stand_beside_one_in_the_message(client, key):
    words = tensor("text", "finding1")._get_content()
    object_of(key).write_bytes(words.ljust(SIZE, b"\0"))
    client.register_system_shared_memory("words", key, len(words))
    text = sync_client.InferInput("text", [1], "BYTES")
    text.set_shared_memory("words", len(words))
    k = tensor("k", np.array([3], np.int32))
    for inputs in ([text, k], [k, text]):
        found = client.infer("search", inputs).as_numpy("ids")
        assert list(found) == list(client.infer("search", [tensor("text", "finding1"), k]).as_numpy("ids"))


def test_a_regions_own_offset_counts(client, key):
    client.register_system_shared_memory("second", key, PIXELS[1].nbytes, offset=PIXELS[0].nbytes)
    one = sync_client.InferInput("pixels", [1, *PIXELS.shape[1:]], "UINT8")
    one.set_shared_memory("second", PIXELS[1].nbytes)
    assert np.array_equal(client.infer("image_encoder", [one]).as_numpy("vectors"), VECTORS[1:])


def test_status_tells_what_is_registered(client, region, key):
    found = client.get_system_shared_memory_status("mine").regions["mine"]
    assert (found.name, found.key, found.offset, found.byte_size) == ("mine", key, 0, SIZE)
    assert list(client.get_system_shared_memory_status().regions) == ["mine"]
    assert refusal(lambda: client.get_system_shared_memory_status("other"))[0] == "NOT_FOUND"


def test_a_name_is_registered_once(client, region, key):
    assert refusal(lambda: client.register_system_shared_memory("mine", key, SIZE))[0] == "ALREADY_EXISTS"


def test_what_is_unregistered_is_gone_and_its_file_closed(client, key):
    own = _open_files(key)
    for name in ("one", "two", "three"):
        client.register_system_shared_memory(name, key, SIZE)
    client.unregister_system_shared_memory("one")
    client.unregister_system_shared_memory("one")
    assert _open_files(key) == own + 2
    assert sorted(client.get_system_shared_memory_status().regions) == ["three", "two"]
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions
    assert _open_files(key) == own
    code, message = refusal(lambda: client.infer("image_encoder", [pixels_in("one")]))
    assert (code, "shared memory region" in message) == ("NOT_FOUND", True)


@pytest.mark.parametrize("bad", ["", "/", ".", "..", "/..", "../etc/passwd", "a/b", "//x", "x" * 300])
def test_a_key_is_a_plain_name(client, bad):
    code, message = refusal(lambda: client.register_system_shared_memory("bad", bad, 1))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "key")


def test_one_leading_slash_is_how_shm_open_writes_it(client, key):
    client.register_system_shared_memory("slash", f"/{key}", SIZE)
    client.unregister_system_shared_memory("slash")


def test_no_link_leads_out_of_shared_memory(client, tmp_path):
    (tmp_path / "outside").write_bytes(bytes(64))
    link = object_of(f"radrank-{uuid.uuid4().hex}")
    link.symlink_to(tmp_path / "outside")
    try:
        assert refusal(lambda: client.register_system_shared_memory("link", link.name, 64))[0] == "INVALID_ARGUMENT"
    finally:
        link.unlink()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_memory_object_is_refused(client, make):
    path = object_of(f"radrank-{uuid.uuid4().hex}")
    make(path)
    try:
        code, message = refusal(lambda: client.register_system_shared_memory("odd", path.name, 64))
        assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "key")
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def test_an_object_that_is_not_there_is_not_found(client):
    assert refusal(lambda: client.register_system_shared_memory("none", "radrank-absent", 64))[0] == "NOT_FOUND"


@pytest.mark.parametrize(("size", "offset"), [(SIZE + 1, 0), (SIZE, 1), (1, SIZE), (0, 0), (2**63, 2**63)])
def test_a_region_must_lie_within_its_object(client, key, size, offset):
    code, message = refusal(lambda: client.register_system_shared_memory("large", key, size, offset=offset))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "large")
    assert not client.get_system_shared_memory_status().regions


@pytest.mark.parametrize("offset", [1, SIZE, 2**40])
def test_a_tensor_must_lie_within_its_region(client, key, offset):
    client.register_system_shared_memory("small", key, PIXELS.nbytes)
    code, message = refusal(lambda: client.infer("image_encoder", [pixels_in("small", offset=offset)]))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "small")
    wanted = [vectors_to("small", offset=PIXELS.nbytes - 1)]
    code, message = refusal(lambda: client.infer("image_encoder", [tensor("pixels", PIXELS)], outputs=wanted))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "small")
    assert object_of(key).read_bytes()[PIXELS.nbytes : SIZE] == bytes(VECTORS.nbytes)


@pytest.mark.parametrize("size", [PIXELS.nbytes - 1, PIXELS.nbytes + 1])
def test_a_tensor_has_the_bytes_of_its_shape_and_no_other_number_is_read(client, region, size, monkeypatch):
    monkeypatch.setattr(Memory, "read", None)
    code, message = refusal(lambda: client.infer("image_encoder", [pixels_in(region, size)]))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "pixels")


def test_an_output_that_needs_more_than_it_was_given_is_refused(client, region):
    wanted = [vectors_to(region, size=VECTORS.nbytes - 1)]
    code, message = refusal(lambda: client.infer("image_encoder", [pixels_in(region)], outputs=wanted))
    assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "vectors")


def test_an_object_that_was_shortened_is_refused_and_the_server_lives(client, region, key):
    os.truncate(object_of(key), 100)
    for outputs in (None, [vectors_to(region)]):
        code, message = refusal(
            lambda outputs=outputs: client.infer("image_encoder", [pixels_in(region)], outputs=outputs)
        )
        assert (code, message.split(":")[0]) == ("INVALID_ARGUMENT", "mine")
    wanted = [vectors_to(region)]
    assert refusal(lambda: client.infer("image_encoder", [tensor("pixels", PIXELS)], outputs=wanted))[0]
    assert object_of(key).stat().st_size == 100
    assert client.is_server_ready()


def test_callers_on_other_hosts_have_no_memory_here(client, region, monkeypatch):
    monkeypatch.setattr(servicer, "_is_local", lambda context: False)
    calls = [
        lambda: client.get_system_shared_memory_status(),
        lambda: client.register_system_shared_memory("theirs", "psm", 64),
        lambda: client.unregister_system_shared_memory(),
        lambda: client.infer("image_encoder", [pixels_in(region)]),
        lambda: client.infer("image_encoder", [tensor("pixels", PIXELS)], outputs=[vectors_to(region)]),
    ]
    for call in calls:
        code, message = refusal(call)
        assert (code, "own host" in message) == ("INVALID_ARGUMENT", True)
    assert len(client.infer("image_encoder", [tensor("pixels", PIXELS)]).as_numpy("vectors")) == 2
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("unix:", True),
        ("unix:/run/radrank.sock", True),
        ("ipv4:127.0.0.1:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv4:10.0.0.7:4711", False),
        ("ipv4:12.70.0.1:4711", False),
        ("ipv6:%5B2001:db8::1%5D:4711", False),
    ],
)
def test_a_caller_is_on_this_host_if_it_comes_over_loopback_or_a_socket_file(peer, local):
    assert servicer._is_local(SimpleNamespace(peer=peer)) is local


def _open_files(key: str) -> int:
    """How often this process has the object open."""
    links = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since it was listed
            links.append(number.readlink().name)
    return links.count(key)
