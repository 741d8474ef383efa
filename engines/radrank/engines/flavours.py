"""The two TensorRTs, which have one Python API: the full one, and RTX, which is built for without a GPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from radrank.core.errors import InvalidQuery, MissingExtra

_log = logging.getLogger("radrank.tensorrt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """ahead_of_time: plans are built for a compute capability that is named, and kernels compiled when they are opened;
    else they are built and timed on the GPU that runs them
    """

    name: str
    module: str
    extra: str
    ahead_of_time: bool

    def load(self) -> Any:
        """The package. Raises MissingExtra."""
        try:
            return import_module(self.module)
        except ImportError as error:
            raise MissingExtra(self.name, self.extra) from error


FULL = Flavour(name="tensorrt", module="tensorrt", extra="tensorrt-full", ahead_of_time=False)
RTX = Flavour(name="tensorrt-rtx", module="tensorrt_rtx", extra="tensorrt", ahead_of_time=True)
FLAVOURS: Mapping[str, Flavour] = {flavour.name: flavour for flavour in (RTX, FULL)}


def flavour_of(name: str) -> Flavour:
    """The flavour of this name. Raises InvalidQuery."""
    if name not in FLAVOURS:
        raise InvalidQuery("flavour", f"must be one of: {', '.join(FLAVOURS)}")
    return FLAVOURS[name]


def logger_of(trt: Any) -> Any:
    """A TensorRT logger that writes to `radrank.tensorrt`, at DEBUG, and keeps what went wrong in `errors`."""

    class Log(trt.ILogger):  # type: ignore[misc]  # loaded by name
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            _log.debug("%s: %s", severity.name, message)

    return Log()
