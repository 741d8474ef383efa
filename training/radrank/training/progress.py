"""What a training tells a person on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rich.console import Console

from radrank.datasets.progress import bar


class RichReporter:
    """A pipeline's Reporter that draws with rich, on stderr, so that stdout stays for results."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        return bar(label, total)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
