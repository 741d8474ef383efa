"""The way from a call to the library: shut while the server starts and stops."""

from __future__ import annotations

from radrank.core.errors import Unavailable
from radrank.server.library import Library


class Gate:
    """Shut until a library is behind it."""

    def __init__(self) -> None:
        self._library: Library | None = None

    def open(self, library: Library) -> None:
        self._library = library

    def shut(self) -> None:
        self._library = None

    @property
    def library(self) -> Library:
        """Raises Unavailable while the gate is shut."""
        library = self._library
        if library is None:
            raise Unavailable("the server is starting or stopping; try again in a moment")
        return library
