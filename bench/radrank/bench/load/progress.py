"""A line on standard error while a run lasts, and one for what it came to."""

from __future__ import annotations

import sys
from typing import TextIO

from radrank.bench.load.ledger import Glance
from radrank.bench.load.results import Plan, Run
from radrank.bench.load.session import Progress

QUIET_SECONDS = 5.0
_WIDTH = 110


class Lines(Progress):
    """A Line for each run."""

    def started(self, plan: Plan) -> Line:
        self._line = Line(plan)
        return self._line

    def ended(self, run: Run) -> None:
        self._line.done(run)


class Line:
    """Rewritten in place on a terminal; in a log, a new line every five seconds.

    Not a rich bar: drawing one holds the interpreter lock for milliseconds, and the sender would be late by them.
    """

    def __init__(self, plan: Plan, stream: TextIO | None = None) -> None:
        self._plan = plan
        self._stream = sys.stderr if stream is None else stream
        self._said = -QUIET_SECONDS

    def __call__(self, glance: Glance) -> None:
        """Shows a glance of the run."""
        terminal = self._stream.isatty()
        if not terminal and glance.elapsed - self._said < QUIET_SECONDS:
            return
        self._said = glance.elapsed
        left = self._plan.seconds - glance.elapsed
        where = "warming up" if glance.elapsed < 0 else f"{left:.0f} s left" if left > 0 else "waiting for the last"
        p99 = "–" if glance.p99_ms is None else f"{glance.p99_ms:.1f} ms"
        words = (
            f"{self._plan.name}  {where}  sent {glance.sent:,}  ok {glance.ok:,}  failed {glance.failed:,}  "
            f"skipped {glance.skipped:,}  in flight {glance.in_flight:,}  p99 now {p99}"
        )
        self._write(words, end="\r" if terminal else "\n")

    def done(self, run: Run) -> None:
        """What the run came to."""
        if run.void:
            words = f"{run.name}  VOID: {run.void}"
        else:
            p99 = f"p99 {run.latency['OK'].p99:.1f} ms" if run.ok else "no reply"
            words = f"{run.name}  achieved {run.achieved:.1f}/s  {p99}  ok {run.ok:,} of {run.planned:,}"
        self._write(words, end="\n")

    def _write(self, words: str, *, end: str) -> None:
        self._stream.write((words[:_WIDTH].ljust(_WIDTH) if self._stream.isatty() else words) + end)
        self._stream.flush()
