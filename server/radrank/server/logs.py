"""Logs on standard error: plain lines for people, or JSON lines for collectors."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_EXTRAS = ("method", "code", "milliseconds")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message; and a call's method, code and milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
        return json.dumps(entry, ensure_ascii=False)


_FORMATTERS: Mapping[str, logging.Formatter] = {
    "plain": logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"),
    "json": JsonLines(),
}


def set_up(style: str, level: str) -> None:
    """Sends radrank's log from this level on, and other libraries' warnings, to standard error. style: plain or json"""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[style])
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("radrank").setLevel(level.upper())
