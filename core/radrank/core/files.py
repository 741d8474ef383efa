"""Directories that appear whole or not at all, and hashes of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from radrank.core.errors import Corrupt, NotFound

_HASHING_THREADS = min(4, os.cpu_count() or 1)  # hashlib releases the GIL, and past four the disk is what is waited for


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON that a person can read, keys in the order given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_table(directory: Path) -> dict[str, dict[str, str | int]]:
    """For every file below the directory: {"sha256": …, "bytes": …}, by relative path."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    hashes = _hashes(paths)
    return {
        path.relative_to(directory).as_posix(): {"sha256": hashes[path], "bytes": path.stat().st_size} for path in paths
    }


def check_files(directory: Path, files: Mapping[str, Mapping[str, str | int]]) -> None:
    """Raises Corrupt or NotFound for the first file that is not what the table says."""
    root = directory.resolve()
    paths: dict[str, Path] = {}
    for name, expected in files.items():
        path = (directory / name).resolve()
        if not path.is_relative_to(root):
            raise Corrupt(str(directory), "files inside it", "a path that leads outside")
        if not path.is_file():
            raise NotFound(f"file {path}", "its manifest lists it; make the directory anew")
        if path.stat().st_size != expected.get("bytes"):
            raise Corrupt(str(path), f"{expected.get('bytes')} bytes", f"{path.stat().st_size} bytes")
        paths[name] = path
    hashes = _hashes(list(paths.values()))
    for name, path in paths.items():
        wanted, found = str(files[name].get("sha256")), hashes[path]
        if found != wanted:
            raise Corrupt(str(path), f"sha256 {wanted[:12]}…", f"sha256 {found[:12]}…")


def _hashes(paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of every file, several at a time."""
    largest_first = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)
    with ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="hash") as pool:
        return dict(zip(largest_first, pool.map(sha256_of, largest_first), strict=True))


def publish(built: Path, final: Path) -> None:
    """Makes a finished directory durable, then renames it to its final name: it is there whole, or not at all."""
    built.chmod(0o755)  # temporary directories are made for their owner alone
    for path in built.rglob("*"):
        sync(path)
    sync(built)
    built.rename(final)
    sync(final.parent)


def replace_text(path: Path, text: str) -> None:
    """Replaces a small file atomically and durably."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync of a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
