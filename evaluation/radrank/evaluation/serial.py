"""A report as JSON, so that tables and plots can be made again without judging again.

{"schema": 1, "title": …, "notes": […], "leaks": {test: held},
 "tables": [{"direction", "queries": {scope: n}, "gallery", "reference",
             "rows": [{"method", "family", "matched", "seeds", "metrics", "changes"}],
             "comparisons": [{"method", "against", "matched", "changes"}]}],
 "screening": {name: [{"method", "accuracy", …}]}}

metrics are {scope: {metric: [mean, low, high]}} and changes {scope: {metric: [relative, low, high]}}. JSON has neither
NaN nor infinity: they are null and "inf" or "-inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.files import replace_text
from radrank.evaluation.results import Change, Comparison, Family, Report, Row, Scope, Screened, Spread, Table

SCHEMA = 1

_T = TypeVar("_T")
_Json = dict[str, Any]


def save(report: Report, path: Path) -> None:
    """Writes the report, whole or not at all."""
    replace_text(path, json.dumps(to_json(report), ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> Report:
    """Reads what `save` wrote. Raises NotFound, Mismatch (another schema) or Corrupt."""
    if not path.is_file():
        raise NotFound(f"report {path}", "make it: radrank evaluate --help")
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(str(path), f"an evaluation report of schema {SCHEMA}", type(error).__name__) from error


def to_json(report: Report) -> _Json:
    """The report in values that JSON has."""
    return {
        "schema": SCHEMA,
        "title": report.title,
        "notes": list(report.notes),
        "tables": [_table_out(table) for table in report.tables],
        "screening": {name: [_screened_out(one) for one in found] for name, found in report.screening.items()},
        "leaks": {name: bool(held) for name, held in report.leaks.items()},
    }


def from_json(value: Mapping[str, Any]) -> Report:
    """The report that `to_json` was given; where that held NaN for a number that may be absent, None."""
    if value["schema"] != SCHEMA:
        raise Mismatch("schema of the evaluation report", str(SCHEMA), str(value["schema"]))
    return Report(
        title=value["title"],
        notes=tuple(value["notes"]),
        tables=tuple(_table_in(table) for table in value["tables"]),
        screening={name: tuple(_screened_in(one) for one in found) for name, found in value["screening"].items()},
        leaks=dict(value["leaks"]),
    )


def _table_out(table: Table) -> _Json:
    return {
        "direction": table.direction,
        "queries": {scope.value: int(count) for scope, count in table.queries.items()},
        "gallery": int(table.gallery),
        "reference": table.reference,
        "rows": [_row_out(row) for row in table.rows],
        "comparisons": [_comparison_out(comparison) for comparison in table.comparisons],
    }


def _table_in(value: _Json) -> Table:
    return Table(
        direction=value["direction"],
        queries={Scope(scope): count for scope, count in value["queries"].items()},
        gallery=value["gallery"],
        reference=value["reference"],
        rows=tuple(_row_in(row) for row in value["rows"]),
        comparisons=tuple(_comparison_in(comparison) for comparison in value["comparisons"]),
    )


def _row_out(row: Row) -> _Json:
    return {
        "method": row.method,
        "family": row.family.value,
        "matched": bool(row.matched),
        "seeds": int(row.seeds),
        "metrics": _nested_out(row.metrics, lambda spread: [spread.mean, spread.low, spread.high]),
        "changes": _changes_out(row.changes),
    }


def _row_in(value: _Json) -> Row:
    return Row(
        method=value["method"],
        family=Family(value["family"]),
        matched=value["matched"],
        seeds=value["seeds"],
        metrics=_nested_in(value["metrics"], lambda mean, low, high: Spread(mean=mean, low=low, high=high)),
        changes=_changes_in(value["changes"]),
    )


def _comparison_out(comparison: Comparison) -> _Json:
    return {
        "method": comparison.method,
        "against": comparison.against,
        "matched": bool(comparison.matched),
        "changes": _changes_out(comparison.changes),
    }


def _comparison_in(value: _Json) -> Comparison:
    return Comparison(
        method=value["method"],
        against=value["against"],
        matched=value["matched"],
        changes=_changes_in(value["changes"]),
    )


def _screened_out(one: Screened) -> _Json:
    return {"method": one.method} | {name: _number_out(getattr(one, name)) for name in _SCREENED + _OPTIONAL}


def _screened_in(value: _Json) -> Screened:
    numbers = {name: _number_in(value[name]) for name in _SCREENED}
    optional = {name: None if value[name] is None else _number_in(value[name]) for name in _OPTIONAL}
    return Screened(method=value["method"], **numbers, **optional)  # type: ignore[arg-type]  # required ones are floats


_SCREENED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
_OPTIONAL = ("roc_auc", "calibration_error")


def _changes_out(changes: Mapping[Scope, Mapping[str, Change]]) -> _Json:
    return _nested_out(changes, lambda change: [change.relative, change.low, change.high])


def _changes_in(value: _Json) -> dict[Scope, dict[str, Change]]:
    return _nested_in(value, lambda relative, low, high: Change(relative=relative, low=low, high=high))


def _nested_out(values: Mapping[Scope, Mapping[str, _T]], numbers: Callable[[_T], list[float]]) -> _Json:
    return {
        scope.value: {metric: [_number_out(number) for number in numbers(one)] for metric, one in by_metric.items()}
        for scope, by_metric in values.items()
    }


def _nested_in(value: _Json, make: Callable[[float, float, float], _T]) -> dict[Scope, dict[str, _T]]:
    return {
        Scope(scope): {metric: make(*map(_number_in, numbers)) for metric, numbers in by_metric.items()}
        for scope, by_metric in value.items()
    }


def _number_out(number: float | None) -> float | str | None:
    if number is None or math.isnan(number):
        return None
    return float(number) if math.isfinite(number) else str(float(number))


def _number_in(number: float | str | None) -> float:
    return math.nan if number is None else float(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
