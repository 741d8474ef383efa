"""What is served: the bundle's engines as tensors, and the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from radrank.core.errors import NotFound
from radrank.engines.engine import Engine, Model
from radrank.engines.kserve.axes import Axes, check_rows
from radrank.engines.kserve.config import Described
from radrank.engines.kserve.tensors import Shape, declared
from radrank.server.calls import Caller
from radrank.server.kserve.search import Search, SearchModel
from radrank.server.library import Library

VERSION = "1"
"""Of every model: a bundle never changes, and another bundle is another server's."""

Feed = Mapping[str, NDArray[Any]]


class Served(Described, Protocol):
    """One model."""

    @property
    def platform(self) -> str: ...

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raises InvalidQuery where inputs, each of a shape of its own, do not go together."""
        ...

    def run(self, feed: Feed, caller: Caller) -> dict[str, NDArray[Any]]:
        """Outputs by name. Raises InvalidQuery."""
        ...


class EngineModel:
    """An engine of the bundle. vocabulary: how many token ids there are."""

    def __init__(self, model: Model, engine: Engine, *, vocabulary: int) -> None:
        self.name = model.name
        self.inputs = tuple(declared(spec) for spec in engine.inputs)
        self.outputs = tuple(declared(spec) for spec in engine.outputs)
        self._axes = Axes(self.inputs, self.outputs, model.buckets)
        self._engine = engine
        self._vocabulary = vocabulary

    @property
    def batch(self) -> int:
        return self._axes.batch

    @property
    def platform(self) -> str:
        return self._engine.manifest.runtime

    @property
    def parameters(self) -> Mapping[str, str]:
        made = self._engine.manifest
        return {"sha256": made.sha256, "precision": made.precision, "runtime": made.runtime}

    def check(self, shapes: Mapping[str, Shape]) -> None:
        self._axes.check(shapes)

    def run(self, feed: Feed, _caller: Caller) -> dict[str, NDArray[Any]]:
        check_rows(feed, vocabulary=self._vocabulary)
        return self._engine.run(feed)


class Catalogue:
    """The models of one library, by name."""

    def __init__(self, library: Library, search: Search) -> None:
        engines = library.engines
        found: list[Served] = [
            EngineModel(model, engines.engines[name], vocabulary=engines.vocabulary)
            for name, model in engines.models.items()
        ]
        found.append(SearchModel(search, engines))
        self.library = library
        self.models: Mapping[str, Served] = {model.name: model for model in found}

    def find(self, name: str, version: str) -> Served:
        """A model, of the only version that there is. Raises NotFound."""
        if name not in self.models:
            raise NotFound("model", f"this server has {', '.join(self.models)}")
        if version not in ("", VERSION):
            raise NotFound(f"version of {name}", f"there is version {VERSION} only")
        return self.models[name]


CatalogueOf = Callable[[], Catalogue]
