"""Replies as a person reads them in a terminal, and as a program reads them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import date
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from radrank.client._words import clean, status
from radrank.client.results import Hit, SearchResult, Stats, Study

_STAGES = {
    "decode": "decode_us",
    "encode": "encode_us",
    "candidates": "candidates_us",
    "graph": "graph_us",
    "re-rank": "rerank_us",
    "order": "order_us",
}
_WIDE_PIPE = 160  # columns where the output is no terminal: a file or `less -S`


def _console() -> Console:
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if told else _WIDE_PIPE)


def print_json(reply: Any) -> None:
    """A result of the client as one JSON object, snake_case, without pictures; days as YYYY-MM-DD."""
    fields = asdict(reply, dict_factory=lambda pairs: {name: value for name, value in pairs if name != "preview"})
    sys.stdout.write(json.dumps(fields, default=date.isoformat, ensure_ascii=False, indent=2) + "\n")


def moved(hit: Hit) -> Text:
    """The rank before, and how far re-ranking moved the hit."""
    was = f"{hit.candidate_rank:>3} "
    if hit.moved > 0:
        return Text(was, "dim").append(f"▲{hit.moved}", "bold green not dim")
    if hit.moved < 0:
        return Text(was, "dim").append(f"▼{-hit.moved}", "red not dim")
    return Text(was + "＝", "dim")


def _labels(hit: Hit) -> Text:
    labels = Text(", ".join(clean(label).replace("_", " ") for label in hit.labels), "yellow")
    if hit.normal is not None and not (hit.labels and hit.normal is False):
        labels = Text(status(hit.normal), "green" if hit.normal else "yellow").append(
            f" · {labels.plain}" if labels.plain else "", "yellow"
        )
    return labels


def print_hits(result: SearchResult) -> None:
    """The hits as a table, under it where the time went and what ranked them."""
    console = _console()
    if not result.hits:
        console.print("no study fits the query and its filters")
    else:
        console.print(_hits(result))
        console.print()
    note(_served(result))


def _hits(result: SearchResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False, expand=True)
    table.add_column("now", justify="right", style="bold cyan", no_wrap=True)
    table.add_column("was", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("cosine", justify="right", style="dim", no_wrap=True)
    table.add_column("study", style="bold", overflow="fold", max_width=28)
    if result.target == "image":
        table.add_column("view", style="dim", no_wrap=True)
    table.add_column("labels", overflow="ellipsis", ratio=2, no_wrap=True)
    table.add_column("report", overflow="ellipsis", ratio=4, no_wrap=True)
    for hit in result.hits:
        row = [Text(str(hit.rank)), moved(hit), Text(f"{hit.score:.3f}"), Text(f"{hit.cosine:.3f}")]
        row.append(Text(clean(hit.study_id)))
        if result.target == "image":
            row.append(Text(hit.view or "–"))
        table.add_row(*row, _labels(hit), Text(clean(hit.report)))
    return table


def _served(result: SearchResult) -> str:
    times, made = result.times, result.provenance
    spent = " · ".join(f"{name} {getattr(times, field) / 1000:.1f}" for name, field in _STAGES.items())
    unranked = "not re-ranked: no time was left" if result.degraded else "not re-ranked"
    reranker = f"re-ranked by {made.reranker}" if made.reranker else unranked
    served = ", ".join(filter(None, (made.precision, made.runtime)))
    return f"{times.total_us / 1000:.1f} ms = {spent} | {reranker}" + (f" ({served})" if served else "")


def note(line: str) -> None:
    """One dim line."""
    _console().print(Text(clean(line), "dim"), soft_wrap=True)


def print_stats(stats: Stats) -> None:
    """Counts, labels by frequency, and what serves them."""
    console = _console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    unknown = stats.studies - stats.normal - stats.abnormal
    indexed = f"{stats.unindexed_studies:,} changed since the snapshot" if stats.unindexed_studies else "up to date"
    rows = {
        "studies": f"{stats.studies:,}  ({stats.images:,} images, {stats.reports:,} reports)",
        "status": f"{stats.normal:,} normal, {stats.abnormal:,} abnormal, {unknown:,} unknown",
        "index": f"{indexed} (archive sequence {stats.sequence})",
        "space": f"{stats.dimensions} dimensions",
        "re-rankers": ", ".join(
            f"{name} (default)" if name == stats.default_reranker else name for name in stats.rerankers
        )
        or "none",
        "runtime": ", ".join(filter(None, (stats.provenance.precision, stats.provenance.runtime))),
    }
    for name, value in rows.items():
        table.add_row(name, Text(clean(value)))
    console.print(table)
    if stats.labels:
        console.print()
        console.print(_label_bars(stats.labels))


def _label_bars(labels: dict[str, int]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="yellow")
    table.add_column(justify="right")
    table.add_column(style="cyan")
    most = max(labels.values())
    for label, count in labels.items():
        table.add_row(
            Text(clean(label).replace("_", " ")), f"{count:,}", "▇" * max(1, round(30 * count / max(most, 1)))
        )
    return table


def print_study(study: Study) -> None:
    """A study's record, then its report."""
    console = _console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    images = ", ".join(f"{image.image_id} ({image.view or 'view unknown'})" for image in study.images)
    rows = {
        "study": study.study_id,
        "patient": study.patient_id,
        "date": study.date.isoformat() if study.date else "",
        "status": status(study.normal),
        "labels": ", ".join(study.labels).replace("_", " "),
        "images": images,
        "findings": study.findings,
        "impression": study.impression,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(clean(value), "bold" if name == "study" else ""))
    console.print(table)
