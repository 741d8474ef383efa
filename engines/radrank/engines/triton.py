"""Models on a remote Triton, or on anything else that speaks KServe v2 and tells sha256s: radrank itself does."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from radrank.core.errors import DeadlineTooShort, InvalidQuery, Mismatch, Unavailable
from radrank.core.ports import EngineManifest
from radrank.engines.buckets import checked
from radrank.engines.engine import Feed, Model, TensorSpec
from radrank.engines.kserve.tensors import declared
from radrank.engines.triton_link import Link, Lost, Refused, protocol
from radrank.engines.triton_models import NONE, Served, check, described, export, mismatch

TRUSTED_SECONDS = 1.0
"""How long what Triton says of a model counts while nothing fails."""

_log = logging.getLogger(__name__)


class TritonEngine:
    """One model of a bundle on Triton. A request names the model's version, and has the time that its caller has left.

    An answer counts only if Triton was asked what it serves on this connection, after the last failure and within the
    last second, and named the bundle's model, in the precision that passed the gate. So a Triton that comes back with
    another repository is not believed, and one that comes back with the right one is.
    """

    def __init__(self, model: Model, *, address: str, ca: Path | None = None, precision: str | None = None) -> None:
        """address: host:port of Triton's gRPC; ca: of TLS, None for none; precision: None for any that passes the gate.

        Raises MissingExtra, Unavailable where no Triton answers, and Mismatch where it has another model.
        """
        self._messages, _ = protocol()
        self._model = model
        self._wrong = ""
        self._closed = False
        self._link = Link.to(address, ca)
        try:
            self._served, self.manifest = self._opened(precision)
        except BaseException:
            self._link.release()
            raise
        self.inputs, self.outputs = self._served.inputs, self._served.outputs
        self._outputs = {spec.name: spec for spec in self.outputs}

    def warm_up(self, feeds: Iterable[Feed]) -> None:
        """Triton warms its models itself; this walks the whole way."""
        for feed in feeds:
            self.run(feed)

    def run(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """As Engine says. Raises Unavailable, Overloaded, or DeadlineTooShort where the running deadline ends first."""
        if self._closed:  # the link may be open: others use it too
            raise Unavailable("this engine is closed")
        given, most = checked(feed, self.inputs), self._served.most
        rows = max(map(len, given.values()))
        if not most or rows <= most:
            return self._asked(given)
        parts = [{name: array[at : at + most] for name, array in given.items()} for at in range(0, rows, most)]
        answers = [self._asked(part) for part in parts]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._link.release()

    def _opened(self, precision: str | None) -> tuple[Served, EngineManifest]:
        link, model = self._link, self._model
        try:
            self._checked = (link.epoch, time.monotonic())
            runtime = _runtime(link)
            served = described(link, model)
        except Unavailable:
            cure = f"start it and wait until it is ready, or name another; for its models: {export(model)}"
            raise Unavailable(f"engines.triton: no Triton is ready at {link.address}; {cure}") from None
        except Refused as refused:
            raise Unavailable(f"engines.triton: {link.address} is not the gRPC port of a Triton ({refused})") from None
        own = model.precision if served.precision == NONE else served.precision
        check(link, model, expected=replace(served, sha256=model.sha256, precision=precision or own), found=served)
        known = {name for bucket in model.buckets for name in bucket}
        if known != {spec.name for spec in served.inputs}:
            raise mismatch(link, model, f"inputs {sorted(known)}", str([spec.name for spec in served.inputs]))
        return served, EngineManifest(sha256=served.sha256, precision=served.precision, runtime=runtime)

    def _asked(self, feed: Feed) -> dict[str, NDArray[Any]]:
        request = self._request(feed)
        try:
            try:
                return self._answer(request)
            except Lost as lost:
                try:
                    return self._answer(request)  # a connection may end at any time: once more, on another
                except DeadlineTooShort:
                    raise lost from None
        except Refused as refused:
            _log.error("%s: its Triton refused a request: %s", self._model.name, refused)
            if refused.code is grpc.StatusCode.INVALID_ARGUMENT:
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
                raise InvalidQuery("inputs", f"{self._model.name} on its Triton does not take {shapes}") from None
            raise Unavailable(f"{self._model.name}: its Triton refused the request ({refused})") from None

    def _request(self, feed: Feed) -> Any:
        return self._messages.ModelInferRequest(
            model_name=self._model.name,
            model_version=self._served.version,
            inputs=[
                {"name": spec.name, "datatype": declared(spec).datatype, "shape": feed[spec.name].shape}
                for spec in self.inputs
            ],
            outputs=[{"name": name} for name in self._outputs],
            raw_input_contents=[feed[spec.name].tobytes() for spec in self.inputs],
        )

    def _answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """One try. Raises Refused where the outputs are not those that were asked for."""
        self._check()
        response = self._link.call("ModelInfer", request)
        try:
            found = {
                output.name: _array(self._outputs[output.name], output.shape, raw)
                for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            }
        except (KeyError, ValueError):  # another name, or not as many bytes as its shape says
            raise Refused(grpc.StatusCode.DATA_LOSS) from None
        if found.keys() != self._outputs.keys() or response.model_version != self._served.version:
            raise Refused(grpc.StatusCode.DATA_LOSS)
        return found

    def _check(self) -> None:
        """Raises Unavailable while Triton serves something else; what differs is in the log, once."""
        epoch, now = self._link.epoch, time.monotonic()
        if self._checked[0] is epoch and now - self._checked[1] < TRUSTED_SECONDS:
            return
        runtime = _runtime(self._link)
        try:
            found = described(self._link, self._model, self._served.version)
            check(self._link, self._model, expected=self._served, found=found)
        except Mismatch as error:
            if str(error) != self._wrong:
                _log.error("not asked any more: %s", error)
            self._wrong = str(error)
            raise Unavailable(f"{self._model.name}: its Triton serves another model; the log says which") from None
        if runtime != self.manifest.runtime:
            _log.warning("%s runs on %s now; the gate saw it on %s", self._model.name, runtime, self.manifest.runtime)
            self.manifest = replace(self.manifest, runtime=runtime)
        self._wrong, self._checked = "", (epoch, now)


def _runtime(link: Link) -> str:
    return f"triton {link.version()}"


def _array(spec: TensorSpec, shape: Any, raw: bytes) -> NDArray[Any]:
    """An output, the caller's own. Raises ValueError."""
    return np.frombuffer(raw, spec.dtype).reshape(shape).copy()
