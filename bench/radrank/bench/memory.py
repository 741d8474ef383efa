"""What the kernel says of a process's memory. Linux with glibc alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from radrank.core import heap


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes. resident: all (VmRSS); anonymous: what the process holds itself; file: mapped files that are in memory,
    its libraries included; peak: the most that was ever resident
    """

    resident: int
    anonymous: int
    file: int
    peak: int


def memory_of(pid: int | None = None) -> Memory:
    """Of a running process; None: this one."""
    status = Path(f"/proc/{'self' if pid is None else pid}/status").read_text(encoding="ascii", errors="replace")
    kib = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in status.splitlines())
        if rest.endswith(" kB")
    }
    return Memory(
        resident=kib["VmRSS"] << 10,
        anonymous=kib["RssAnon"] << 10,
        file=(kib["RssFile"] + kib["RssShmem"]) << 10,
        peak=kib["VmHWM"] << 10,
    )


def memory_of_all(pid: int) -> Memory:
    """Of a process and those that it started, added up: what they share counts for each of them."""
    started = " ".join(path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children"))
    parts = [memory_of(pid), *(memory_of_all(int(child)) for child in started.split())]
    return Memory(**{each.name: sum(getattr(part, each.name) for part in parts) for each in fields(Memory)})


def held_bytes() -> int:
    """What this process holds itself, after giving back what it has freed."""
    heap.give_back()
    return memory_of().anonymous
