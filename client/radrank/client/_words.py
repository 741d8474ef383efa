"""Words of a reply, made fit to show."""

from __future__ import annotations


def clean(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def status(normal: bool | None) -> str:
    return {True: "normal", False: "abnormal", None: ""}[normal]
