"""A report as Markdown tables, and in short for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from radrank.evaluation.metrics import MEDIANS, PAIR_METRICS
from radrank.evaluation.results import Change, Comparison, Family, Report, Row, Scope, Screened, Spread, Table

if TYPE_CHECKING:
    from rich.console import Console

# With PAIR_METRICS these are all of METRICS; R@10 stands in both.
MAIN = ("R@10", "Strong MRR", "Strong P@10", "Strong mAP@10", "Strong mAP@20", "Weak P@10", "nDCG@10", "Jaccard@10")
NORMALS = "normals@10"  # a share, not a quality: it gets a column, but no change and no mark

SCOPES: Mapping[Scope, str] = {
    Scope.ALL: "all queries",
    Scope.ABNORMAL: "abnormal queries only",
    Scope.MACRO: "macro, the mean of the normal and the abnormal mean",
}

LEGEND = (
    "Learned rows: mean over seeds [lowest, highest]. normals@10 is the share of normals in the top 10; *matched* rows "
    "have it restored to the embedding's, so a gain that vanishes there is one of calibration. Changes are relative, "
    "with 95 % bootstrap intervals over queries; **bold** where the interval, before rounding, leaves out zero."
)

# What a terminal has room for: scope, metric, heading.
_SHORT = (
    (Scope.ALL, "R@10", "R@10"),
    (Scope.ALL, "Strong MRR", "Strong\nMRR"),
    (Scope.ALL, "Strong P@10", "Strong\nP@10"),
    (Scope.ALL, "Strong mAP@10", "Strong\nmAP@10"),
    (Scope.ALL, "Jaccard@10", "Jaccard\n@10"),
    (Scope.ABNORMAL, "Jaccard@10", "abnorm.\nJaccard"),
    (Scope.ABNORMAL, "Weak P@10", "abnorm.\nWeak"),
    (Scope.ALL, NORMALS, "normals\n@10"),
)


def markdown(report: Report) -> str:
    """The whole report: by direction and scope the metrics and the changes, then comparisons, screening, leak tests."""
    blocks = [f"# {report.title}", "\n".join(f"- {note}" for note in report.notes)]
    if report.tables:
        blocks.append(LEGEND)
    for table in report.tables:
        blocks += _direction(table)
    if report.screening:
        blocks += ["## Normal or abnormal", _screening(report.screening)]
    if report.leaks:
        held = [f"- {name}: {'held' if passed else '**failed**'}" for name, passed in report.leaks.items()]
        blocks += ["## Leak tests", "\n".join(held)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def show(report: Report, console: Console) -> None:
    """One compact table a direction. ▲ and ▼ mark means whose change against the reference is off zero."""
    from rich.table import Table as Grid
    from rich.text import Text

    for table in report.tables:
        columns = [c for c in _SHORT if any(c[1] in row.metrics.get(c[0], {}) for row in table.rows)]
        grid = Grid(title=f"{table.direction} · {_queries(table, Scope.ALL)}", title_justify="left", box=None)
        grid.add_column("")
        for _, _, heading in columns:
            grid.add_column(heading, justify="right", no_wrap=True)
        for family, rows in _by_family(table.rows):
            grid.add_row(Text(family, style="bold"))
            for row in rows:
                cells = [Text(*_marked(row, scope, metric)) for scope, metric, _ in columns]
                grid.add_row(Text(f"  {_label(row, table.reference)}"), *cells)
        console.print(grid)
        console.print(Text(f"▲ ▼ against {table.reference}: the 95 % interval leaves out zero\n", style="dim"))
    if report.leaks:
        failed = [name for name, held in report.leaks.items() if not held]
        console.print(Text(f"leak tests failed: {', '.join(failed)}" if failed else "leak tests: all held"))


def _direction(table: Table) -> Iterator[str]:
    yield f"## {table.direction}"
    yield f"{table.gallery:,} gallery entries."
    for scope, words in SCOPES.items():
        quality = _metrics(table, scope, (*MAIN, NORMALS))
        if not quality:
            continue
        yield f"### {words[0].upper()}{words[1:]}" + (f" ({_queries(table, scope)})" if scope in table.queries else "")
        yield quality
        changes = _changes(table, scope)
        if changes:
            yield f"Change against {_plain(table.reference)}:"
            yield changes
    pair = _metrics(table, Scope.ALL, PAIR_METRICS)
    if pair:
        yield "### The query's own study, all queries"
        yield pair
    if table.comparisons:
        yield "### One thing changed"
        yield _comparisons(table.comparisons)


def _metrics(table: Table, scope: Scope, names: Sequence[str]) -> str:
    names = [name for name in names if any(name in row.metrics.get(scope, {}) for row in table.rows)]
    if not names:
        return ""
    seeded = any(row.seeds > 1 for row in table.rows)
    lines = []
    for family, rows in _by_family(table.rows):
        for at, row in enumerate(rows):
            found = row.metrics.get(scope, {})
            lines.append(
                [
                    family if at == 0 else "",
                    _plain(_label(row, table.reference)),
                    *([str(row.seeds)] if seeded else []),
                    *(_spread(name, found.get(name), row.seeds) for name in names),
                ]
            )
    return _grid(["", "method", *(["seeds"] if seeded else []), *names], lines, text=2)


def _changes(table: Table, scope: Scope) -> str:
    rows = [row for row in table.rows if row.changes.get(scope) and (row.matched or row.method != table.reference)]
    names = [name for name in MAIN if any(name in row.changes[scope] for row in rows)]
    lines = [
        [
            family if at == 0 else "",
            _plain(_label(row, table.reference)),
            *(_change(row.changes[scope].get(name)) for name in names),
        ]
        for family, group in _by_family(rows)
        for at, row in enumerate(group)
    ]
    return _grid(["", "method", *names], lines, text=2) if names else ""


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    found = [(one, scope, one.changes[scope]) for one in comparisons for scope in Scope if one.changes.get(scope)]
    names = [name for name in MAIN if any(name in changes for _, _, changes in found)]
    lines = [
        [
            _plain(f"{one.method}, matched" if one.matched else one.method),
            _plain(one.against),
            scope.value,
            *(_change(changes.get(name)) for name in names),
        ]
        for one, scope, changes in found
    ]
    return _grid(["method", "against", "queries", *names], lines, text=3)


def _screening(screening: Mapping[str, Sequence[Screened]]) -> str:
    lines = [
        [
            _plain(name) if at == 0 else "",
            _plain(one.method),
            *(
                _number("", value)
                for value in (
                    one.accuracy,
                    one.balanced_accuracy,
                    one.sensitivity,
                    one.specificity,
                    one.roc_auc,
                    one.calibration_error,
                )
            ),
        ]
        for name, found in screening.items()
        for at, one in enumerate(found)
    ]
    names = ("accuracy", "balanced accuracy", "sensitivity", "specificity", "ROC AUC", "calibration error")
    return _grid(["", "method", *names], lines, text=2)


def _by_family(rows: Sequence[Row]) -> list[tuple[Family, list[Row]]]:
    """Families in the order of their enum; in each the rows as they come, the matched ones last."""
    groups = [(family, [row for row in rows if row.family is family]) for family in Family]
    return [(family, sorted(group, key=lambda row: row.matched)) for family, group in groups if group]


def _label(row: Row, reference: str) -> str:
    if row.matched:
        return f"{row.method}, matched"
    return f"{row.method} (reference)" if row.method == reference else row.method


def _queries(table: Table, scope: Scope) -> str:
    return f"{table.queries[scope]:,} queries" if scope in table.queries else "queries not counted"


def _marked(row: Row, scope: Scope, metric: str) -> tuple[str, str]:
    """A mean with its mark, and its style."""
    spread = row.metrics.get(scope, {}).get(metric)
    change = row.changes.get(scope, {}).get(metric)
    mean = _number(metric, spread.mean if spread else None)
    if change is None or metric == NORMALS or not _off_zero(change):
        return f"{mean} ", ""
    return (f"{mean}▲", "green") if change.low > 0 else (f"{mean}▼", "red")


def _spread(metric: str, spread: Spread | None, seeds: int) -> str:
    mean = _number(metric, spread.mean if spread else None)
    if spread is None or seeds < 2:
        return mean
    return f"{mean} [{_number(metric, spread.low)}, {_number(metric, spread.high)}]"


def _change(change: Change | None) -> str:
    if change is None or not all(map(math.isfinite, (change.relative, change.low, change.high))):
        return "–"
    relative, low, high = (round(100 * value) for value in (change.relative, change.low, change.high))
    text = f"{'+' if relative > 0 else ''}{relative} [{low}, {high}] %".replace("-", "−")
    return f"**{text}**" if _off_zero(change) else text


def _off_zero(change: Change) -> bool:
    return change.low > 0 or change.high < 0


def _number(metric: str, value: float | None) -> str:
    """Three decimals, without the leading zero: .293."""
    if value is None or not math.isfinite(value):
        return "–"
    if metric in MEDIANS:
        return f"{value:,.1f}".removesuffix(".0")
    return f"{value:.3f}".removeprefix("0")


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]], *, text: int) -> str:
    """A Markdown table; the first `text` columns are words, the others numbers."""
    rule = ["---"] * text + ["--:"] * (len(header) - text)
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (header, rule, *lines))
