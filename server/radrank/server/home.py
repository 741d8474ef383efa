"""An archive's home: archive.sqlite, snapshots/, index.json, and the lock of the one process that may write to them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from radrank.core.errors import Unavailable


class Home:
    """The home, locked while it is open. Raises Unavailable where another process holds it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        # The kernel drops the lock with the process, however it ends.
        self._lock = (root / ".lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read(16).strip()
            self._lock.close()
            by = f" by process {holder}" if holder.isdecimal() else ""
            raise Unavailable(
                f"the archive {root} is in use{by}; stop `radrank serve` or `radrank index` first"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    @property
    def database(self) -> Path:
        return database_of(self.root)

    @property
    def snapshots(self) -> Path:
        return snapshots_of(self.root)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def database_of(root: Path) -> Path:
    """The SQLite file of a home, for those who only read."""
    return root / "archive.sqlite"


def snapshots_of(root: Path) -> Path:
    """The snapshots of a home, for those who only read."""
    return root / "snapshots"


def tuning_of(root: Path) -> Path:
    """What `radrank index tune` found for a home."""
    return root / "index.json"
