from __future__ import annotations

import hashlib
import threading

import pytest

from radrank.core import files
from radrank.core.errors import Corrupt
from radrank.core.files import check_files, file_table


@pytest.fixture
def folder(tmp_path):
    """Files of 1 to 12 KiB, in two folders."""
    for number in range(12):
        path = tmp_path / str(number % 2) / f"{number:02d}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * (1024 * (number + 1)))
    return tmp_path


def test_every_file_gets_its_own_hash_in_the_order_of_the_paths(folder):
    table = file_table(folder)
    assert list(table) == sorted(table)
    assert len(table) == 12
    for name, entry in table.items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_of_several_changed_files_the_first_of_the_table_is_named(folder):
    table = file_table(folder)
    for name in ("1/11.bin", "0/02.bin", "0/10.bin"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"!" + content[1:])
    with pytest.raises(Corrupt, match=r"0/02\.bin"):
        check_files(folder, table)


def test_several_files_are_hashed_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(files, "_HASHING_THREADS", 2)
    both = threading.Barrier(2, timeout=10)  # each waits for another that hashes meanwhile

    def hashed(path):
        both.wait()
        return path.name

    monkeypatch.setattr(files, "sha256_of", hashed)
    assert {entry["sha256"] for entry in file_table(folder).values()} == {f"{number:02d}.bin" for number in range(12)}
