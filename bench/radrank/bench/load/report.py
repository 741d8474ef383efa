"""A report of all runs: JSON, one .hgrm file for each histogram, and a table for a person, in Markdown too.

{"schema": 1, "command", "started", "versions", "machine", "server", "settings", "objective_ms",
 "highest": run or null, "void": true or false, "reasons": [why it is void],
 "runs": [{"name", "rate", "planned", "ok", "errors": {code: n}, "skipped", "lost", "offered", "achieved", "degraded",
           "latency_ms": {code: {"count", "mean", "p50", "p90", "p99", "p99.9", "max"}}, "send_lag_ms": as those,
           "p99_of_planned_ms", "meets_objective", "void", "reason", …}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radrank.bench.load.channels import OK
from radrank.bench.load.results import LAG, Latency, Run
from radrank.bench.load.sweep import highest, reasons
from radrank.core.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
JSON_FILE = "load.json"
MARKDOWN_FILE = "load.md"
PLOT_FILE = "latency.png"
_WIDTH = 132
_COUNTS = ("run", "offered", "achieved", "ok", "errors", "skipped", "degraded")
_TIMES = ("p50", "p90", "p99", "p99.9", "max", "lag p99")
_LEFT = ("run", "errors", "")


@dataclass(frozen=True, kw_only=True)
class Report:
    """about: what was run, by whom and on what (command, started, versions, machine, server, settings)."""

    about: Mapping[str, Any]
    objective_ms: float
    runs: Sequence[Run]

    @property
    def highest(self) -> Run | None:
        """Of the highest rate that met the objective."""
        return highest(self.runs, self.objective_ms)

    @property
    def void(self) -> list[str]:
        """Why the report counts for nothing; empty where it counts."""
        return reasons(self.runs, self.objective_ms)


def to_json(report: Report) -> dict[str, Any]:
    """The report in values that JSON has."""
    found = report.highest
    return {
        "schema": SCHEMA,
        **report.about,
        "objective_ms": report.objective_ms,
        "highest": None if found is None else _run_out(found),
        "void": bool(report.void),
        "reasons": report.void,
        "runs": [_run_out(run) | {"meets_objective": run.meets(report.objective_ms)} for run in report.runs],
    }


def save(report: Report, out: Path) -> list[Path]:
    """Writes the JSON, the table and the histograms into `out`, and returns their paths; what is there is overwritten.

    Values in .hgrm files are microseconds. `RUN-OK.hgrm` holds the answered requests, `RUN-CODE.hgrm` those that failed
    with that gRPC code, `RUN-lag.hgrm` how late requests were sent.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / JSON_FILE, to_json(report))
    (out / MARKDOWN_FILE).write_text(markdown(report), encoding="utf-8")
    written = [out / JSON_FILE, out / MARKDOWN_FILE]
    for number, run in enumerate(report.runs):
        again = sum(other.name == run.name for other in report.runs[:number])
        name = f"{run.name}-again{again}" if again else run.name
        for code, one in run.histograms.items():
            written.append(out / f"{name}-{code}.hgrm")
            with written[-1].open("wb") as file:
                # Scale 1, since the library scales the values and the mean, but not the standard deviation.
                one.output_percentile_distribution(file, 1)
    return written


def markdown(report: Report) -> str:
    """What was run, the runs as a table, and the highest rate."""
    about, heads = report.about, (*_COUNTS, *_TIMES, "")
    lines = [
        "# What callers of a loaded server feel",
        "",
        f"`{about['command']}`",
        "",
        f"Started {about['started']}. Offered and achieved are requests a second; times are milliseconds of OK replies,"
        " from when a request was due, in a closed loop from when it was sent.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'|'.join(' --- ' if head in _LEFT else ' ---: ' for head in heads)}|",
        *(f"| {' | '.join(_cells(run, report.objective_ms))} |" for run in report.runs),
        "",
        *(f"- {one}." for one in (*_found(report), *_voids(report))),
    ]
    for name in ("settings", "server", "machine"):
        told = ", ".join(f"{key} {value}" for key, value in about[name].items() if value not in (None, "", []))
        lines.append(f"- {name.capitalize()}: {told}.")
    return "\n".join(lines) + "\n"


def show(report: Report, console: Console) -> None:
    """The runs as a table, and the highest rate."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title="a second; milliseconds", title_justify="left")
    for head in (*_COUNTS, *_TIMES, ""):
        table.add_column(head, justify="left" if head in _LEFT else "right", no_wrap=True)
    for run in report.runs:
        table.add_row(*_cells(run, report.objective_ms))
    console.width = max(console.width, _WIDTH)  # a table whose lines wrap still says more than one that is cut
    console.print(table)
    for line in _found(report):
        console.print(line)
    for line in _voids(report):
        console.print(line, style="red", markup=False)


def _found(report: Report) -> list[str]:
    """The highest rate, in words; nothing for a closed loop."""
    found = report.highest
    if found is not None:
        return [
            f"highest rate with p99 within {report.objective_ms:g} ms: {found.rate:g}/s "
            f"(p99 {found.latency[OK].p99:.1f} ms, {found.achieved:.1f} answered a second)"
        ]
    if any(run.rate is not None for run in report.runs):
        return [f"no rate had its p99 within {report.objective_ms:g} ms"]
    return []


def _voids(report: Report) -> list[str]:
    return [f"VOID {reason}" for reason in report.void]


def _cells(run: Run, objective_ms: float) -> list[str]:
    ok = run.latency.get(OK)
    errors = ", ".join(f"{code} {count:,}" for code, count in run.errors.items())
    if run.lost:
        errors = ", ".join(filter(None, (errors, f"lost {run.lost:,}")))
    verdict = "void" if run.void else "" if run.rate is None else "met" if run.meets(objective_ms) else "not met"
    return [
        run.name,
        "" if run.offered is None else f"{run.offered:.1f}",
        f"{run.achieved:.1f}",
        f"{run.ok:,}",
        errors or "0",
        f"{run.skipped:,}",
        "–" if run.degraded is None else f"{run.degraded:.1%}",
        *(["–"] * 5 if ok is None else (f"{value:.1f}" for value in (ok.p50, ok.p90, ok.p99, ok.p99_9, ok.max))),
        "" if run.lag is None else f"{run.lag.p99:.2f}",
        verdict,
    ]


def _run_out(run: Run) -> dict[str, Any]:
    plain = {one.name: getattr(run, one.name) for one in fields(run) if one.name not in _OWN_WAY}
    return plain | {
        "errors": dict(run.errors),
        "latency_ms": {code: _latency_out(one) for code, one in run.latency.items()},
        f"send_{LAG}_ms": None if run.lag is None else _latency_out(run.lag),
        "p99_of_planned_ms": run.p99_of_planned,
        "void": bool(run.void),
        "reason": run.void,
    }


_OWN_WAY = ("errors", "latency", "lag", "p99_of_planned", "void", "histograms")


def _latency_out(one: Latency) -> dict[str, float]:
    return {name.replace("_", "."): value for name, value in asdict(one).items()}
