"""Progress of one thing at a time that tells how far it is, on standard error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Fraction = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


@contextmanager
def fraction_bar(label: str) -> Iterator[Fraction]:
    """A bar; yields what to call with a fraction from 0 to 1, from any thread."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


class Fractions:
    """How far a build is, from phases that hold phases: each tells its number of steps when it begins."""

    def __init__(self, told: Fraction) -> None:
        self._told = told
        self._phases: dict[str, tuple[str | None, int]] = {}  # running: parent, steps
        self._done: dict[str, int] = {}
        self._most = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = (parent, max(1, steps))
            self._done[name] = 0

    def step(self, name: str, place: int) -> None:
        with self._lock:
            if name in self._phases:
                self._done[name] = place + 1
                self._tell()

    def finish(self, name: str) -> None:
        with self._lock:
            parent, _ = self._phases.pop(name, (None, 1))
            self._done.pop(name, None)
            if parent is None and not self._phases:
                self._most = 1.0
            self._tell()

    def _tell(self) -> None:
        roots = [name for name, (parent, _) in self._phases.items() if parent not in self._phases]
        self._most = max(self._most, *(self._of(name) for name in roots), 0.0)
        self._told(self._most)

    def _of(self, name: str) -> float:
        inner = [self._of(child) for child, (parent, _) in self._phases.items() if parent == name and child != name]
        return min(1.0, (self._done[name] + max(inner, default=0.0)) / self._phases[name][1])
