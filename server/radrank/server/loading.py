"""Opens what the settings name: bundle, home, library; and closes them in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from radrank.core.errors import NotFound
from radrank.engines.bundle import open_bundle
from radrank.server.building import matching_factory
from radrank.server.home import Home
from radrank.server.library import Library
from radrank.server.tuning import tuned

if TYPE_CHECKING:
    from radrank.engines.bundle import Bundle
    from radrank.server.settings import Settings


class Opened:
    """A context in which `library` may be called once; the library is closed by who runs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home: Home | None = None
        self._bundle: Bundle | None = None

    def library(self) -> Library:
        """Opens and warms everything. Raises RadrankError."""
        settings = self._settings
        if not settings.bundle.is_dir():
            raise NotFound(f"bundle {settings.bundle}", "make one with `radrank export`, or try `radrank demo`")
        self._home = Home(settings.archive)
        self._bundle = open_bundle(settings.bundle, settings.engines.settings())
        factory = tuned(matching_factory(self._home.snapshots, settings.index), self._home.root)
        # Side by side: engines warm up on the cores while the snapshot comes from the disk, and the library needs none.
        with ThreadPoolExecutor(1, thread_name_prefix="warm-up") as pool:
            warming = pool.submit(self._bundle.warm_up)
            library = Library(self._home, self._bundle, factory, settings.compaction)
        try:
            warming.result()
        except BaseException:
            library.close()
            raise
        return library

    def reselect(self) -> None:
        """Takes up better engines where they have been built since; those that serve stay where none passes."""
        if self._bundle is not None:
            self._bundle.warm_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bundle is not None:
            self._bundle.close()
        if self._home is not None:
            self._home.close()
