from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radrank.core.errors import InvalidQuery, NotFound
from radrank.server.kserve import memory as module
from radrank.server.kserve.memory import Memory, Region


@pytest.fixture
def memory(tmp_path):
    (tmp_path / "object").write_bytes(bytes(range(100)))
    made = Memory(tmp_path)
    yield made
    made.unregister("")


def region(name="r", key="object", offset=10, byte_size=50):
    return Region(name=name, key=key, offset=offset, byte_size=byte_size)


def test_reading_and_writing_stay_within_the_region(memory, tmp_path):
    memory.register(region())
    assert memory.read("r", 5, 3) == bytes([15, 16, 17])
    memory.write("r", 47, b"abc")
    assert (tmp_path / "object").read_bytes()[55:61] == bytes([55, 56, *b"abc", 60])
    for offset, size in ((48, 3), (-1, 2), (0, 51), (51, 0), (0, -1)):
        with pytest.raises(InvalidQuery, match="r: the region holds 50 bytes"):
            memory.read("r", offset, size)
    with pytest.raises(InvalidQuery, match="r: the region holds 50 bytes"):
        memory.write("r", 48, b"abc")


def test_what_is_read_is_a_copy(memory, tmp_path):
    memory.register(region())
    found = memory.read("r", 0, 2)
    with (tmp_path / "object").open("r+b") as file:
        file.write(bytes(100))
    assert found == bytes([10, 11])


def test_a_region_outlives_the_name_of_its_object(memory, tmp_path):
    memory.register(region())
    (tmp_path / "object").unlink()
    assert memory.read("r", 0, 1) == bytes([10])


def test_regions_are_counted_since_each_holds_a_file(memory, monkeypatch):
    monkeypatch.setattr(module, "MOST_REGIONS", 2)
    for name in ("a", "b"):
        memory.register(region(name))
    with pytest.raises(InvalidQuery, match="2 regions already"):
        memory.register(region("c"))


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_region_has_a_name(memory, name):
    with pytest.raises(InvalidQuery, match="name: must be 1 to 255 characters"):
        memory.register(region(name))


def test_a_refused_region_leaves_no_file_open(memory):
    before = _open_files()
    for _ in range(5):
        with pytest.raises(InvalidQuery):
            memory.register(region(byte_size=1_000))
    assert _open_files() == before


def test_a_region_may_go_while_it_is_read(memory):
    """A closed file's number may be another file's by then: nobody may read that."""

    def read(_):
        try:
            return bytes(memory.read("r", 0, 50)) == bytes(range(10, 60))
        except NotFound:
            return True

    def come_and_go(_):
        for _ in range(300):
            memory.register(region())
            memory.unregister("r")
        return True

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(come_and_go, None)
        assert all(pool.map(read, range(2_000)))
        assert changing.result()


def _open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
