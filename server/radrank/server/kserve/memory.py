"""System shared memory: tensors that callers on this host leave in /dev/shm, and find there.

Regions are read and written by pread and pwrite, not mapped: an owner who truncates a mapped file would end this
process with SIGBUS, and one who writes while we check would change what was checked.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from radrank.core.errors import InvalidQuery, NotFound, RadrankError

SHARED = Path("/dev/shm")  # noqa: S108 - not a temporary file: where POSIX shared memory lives
MOST_REGIONS = 1_024  # each holds a file descriptor
_LONGEST_NAME = 255
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would make us wait for its other end


class AlreadyRegistered(RadrankError):
    """The name stands for a region already."""

    def __init__(self) -> None:
        super().__init__("name: stands for a region already; unregister it first")


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """byte_size bytes of /dev/shm/<key>, from offset on."""

    name: str
    key: str
    offset: int
    byte_size: int


class Memory:
    """The regions that are registered. Thread-safe."""

    def __init__(self, folder: Path = SHARED) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._regions: dict[str, tuple[Region, int]] = {}

    def register(self, region: Region) -> None:
        """Raises AlreadyRegistered, NotFound, or InvalidQuery where the key is no plain name or bytes are missing."""
        if not 1 <= len(region.name) <= _LONGEST_NAME:
            raise InvalidQuery("name", f"must be 1 to {_LONGEST_NAME} characters")
        with self._guard:
            if region.name in self._regions:
                raise AlreadyRegistered
            if len(self._regions) >= MOST_REGIONS:
                raise InvalidQuery("name", f"there are {MOST_REGIONS:,} regions already; unregister some")
            file = self._opened(region.key)
            try:
                _check_held(region, file)
            except BaseException:
                os.close(file)
                raise
            self._regions[region.name] = region, file

    def unregister(self, name: str) -> None:
        """Forgets a region; all of them where the name is empty. One that is not there is gone already."""
        with self._guard:
            for gone in [name] if name else list(self._regions):
                if gone in self._regions:
                    os.close(self._regions.pop(gone)[1])

    def status(self, name: str) -> Mapping[str, Region]:
        """The region of this name, or all of them where it is empty. Raises NotFound."""
        with self._guard:
            if name and name not in self._regions:
                raise NotFound("shared memory region", "register it first")
            return {known: region for known, (region, _) in self._regions.items() if name in ("", known)}

    def read(self, name: str, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` within the region. Raises NotFound, or InvalidQuery where they aren't there."""
        with self._held(name, offset, size) as (region, file):
            content = bytearray(size)
            if size and os.preadv(file, [content], region.offset + offset) != size:
                raise _shrunk(region)
            return content

    def write(self, name: str, offset: int, content: bytes) -> None:
        """Writes at `offset` within the region. Raises NotFound, or InvalidQuery where there is no room."""
        with self._held(name, offset, len(content)) as (region, file):
            if content and os.pwrite(file, content, region.offset + offset) != len(content):
                raise _shrunk(region)

    @contextmanager
    def _held(self, name: str, offset: int, size: int) -> Iterator[tuple[Region, int]]:
        """The region and a file of our own on it, which nobody closes while we use it."""
        with self._guard:
            if name not in self._regions:
                raise NotFound("shared memory region", "register it first")
            region, registered = self._regions[name]
            file = os.dup(registered)
        try:
            if offset < 0 or size < 0 or offset + size > region.byte_size:
                reason = f"the region holds {region.byte_size:,} bytes, and {size:,} at {offset:,} aren't within them"
                raise InvalidQuery(region.name, reason)
            _check_held(region, file)
            yield region, file
        finally:
            os.close(file)

    def _opened(self, key: str) -> int:
        plain = key.removeprefix("/")
        if not plain or plain in (".", "..") or "/" in plain or "\0" in plain or len(plain.encode()) > _LONGEST_NAME:
            raise InvalidQuery("key", "must be the plain name of a shared memory object, as shm_open takes it")
        try:
            file = os.open(self._folder / plain, _FLAGS)
        except FileNotFoundError:
            raise NotFound("shared memory object", "create it before you register it") from None
        except OSError as error:
            raise InvalidQuery("key", f"can't be opened: {os.strerror(error.errno or 0)}") from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise InvalidQuery("key", "is no shared memory object")
        return file


def _check_held(region: Region, file: int) -> None:
    """The bytes must be in the file, which its owner can shorten at any time."""
    held = os.fstat(file).st_size
    if not region.byte_size or region.offset + region.byte_size > held:
        wanted = f"{region.byte_size:,} bytes at {region.offset:,}"
        raise InvalidQuery(region.name, f"the shared memory object holds {held:,} bytes: {wanted} aren't in it")


def _shrunk(region: Region) -> InvalidQuery:
    return InvalidQuery(region.name, "the shared memory object was shortened while it was in use")
