"""The models of the same Triton as Engines: asked by Triton's business logic scripting, within the process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import Mismatch, Unavailable
from radrank.engines.engine import Feed
from radrank.engines.kserve.exported import ExportedModel
from radrank.engines.parity import Golden, check

_log = logging.getLogger(__name__)


class BlsEngine:
    """Calls are synchronous, and made while the python backend executes a request: Triton allows no others."""

    def __init__(self, backend: Any, name: str, model: ExportedModel) -> None:
        self.inputs = model.inputs
        self.outputs = model.outputs
        self.manifest = model.manifest
        self._backend = backend
        self._name = name
        self._asked = [output.name for output in model.outputs]

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            self.run(feed)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Raises Unavailable where the model is not there or fails: what was sent is of our own making."""
        backend = self._backend
        request = backend.InferenceRequest(
            model_name=self._name,
            requested_output_names=self._asked,
            inputs=[backend.Tensor(given.name, np.ascontiguousarray(feed[given.name])) for given in self.inputs],
            preferred_memory=backend.PreferredMemory(backend.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            _log.warning("%s failed: Triton's %s", self._name, response.error().code())
            raise Unavailable(f"{self._name} can't answer on this Triton; see its log and whether it is loaded")
        tensors = {name: backend.get_output_tensor_by_name(response, name) for name in self._asked}
        # The arrays lie in memory of the response, which ends here.
        return {name: np.array(tensor.as_numpy()) for name, tensor in tensors.items()}

    def close(self) -> None:
        """The model is Triton's own."""


class GatedEngine(BlsEngine):
    """Answers the bundle's golden queries before its first use: the model may be another's, or too coarse.

    Not earlier, since Triton answers no model's requests before all have been loaded.
    """

    def __init__(self, backend: Any, name: str, model: ExportedModel, golden: Mapping[str, Golden]) -> None:
        """golden: of every model, by name."""
        super().__init__(backend, name, model)
        self._plain = BlsEngine(backend, name, model)
        self._golden = golden
        self._passed = False
        self._refused: Mismatch | None = None

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Raises Mismatch, now and ever after, where the answers are not the bundle's."""
        if not self._passed:
            self._pass_gate()
        return super().run(feed)

    def _pass_gate(self) -> None:
        if self._refused is not None:
            raise self._refused
        try:
            agreed = check(self._name, self._golden[self._name], self._plain)
        except Mismatch as error:
            self._refused = error
            raise
        self._passed = True
        _log.info("%s runs on %s, %s: %s", self._name, self.manifest.runtime, self.manifest.precision, agreed)
