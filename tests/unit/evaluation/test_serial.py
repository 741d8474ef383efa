"""A report outlives the process that made it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.evaluation import serial
from radrank.evaluation.results import Change, Comparison, Family, Report, Row, Scope, Screened, Spread, Table

numbers = st.floats(allow_nan=False)
words = st.text(max_size=8)


def by_scope(values):
    return st.dictionaries(st.sampled_from(Scope), st.dictionaries(words, values, max_size=2), max_size=3)


spreads = by_scope(st.builds(Spread, mean=numbers, low=numbers, high=numbers))
changes = by_scope(st.builds(Change, relative=numbers, low=numbers, high=numbers))
rows = st.builds(
    Row,
    method=words,
    family=st.sampled_from(Family),
    matched=st.booleans(),
    seeds=st.integers(1, 9),
    metrics=spreads,
    changes=changes,
)
comparisons = st.builds(Comparison, method=words, against=words, matched=st.booleans(), changes=changes)
tables = st.builds(
    Table,
    direction=words,
    queries=st.dictionaries(st.sampled_from(Scope), st.integers(0)),
    gallery=st.integers(0),
    reference=words,
    rows=st.lists(rows, max_size=2).map(tuple),
    comparisons=st.lists(comparisons, max_size=2).map(tuple),
)
screened = st.builds(
    Screened,
    method=words,
    accuracy=numbers,
    balanced_accuracy=numbers,
    sensitivity=numbers,
    specificity=numbers,
    roc_auc=st.none() | numbers,
    calibration_error=st.none() | numbers,
)
reports = st.builds(
    Report,
    title=words,
    notes=st.lists(words, max_size=2).map(tuple),
    tables=st.lists(tables, max_size=2).map(tuple),
    screening=st.dictionaries(words, st.lists(screened, max_size=2).map(tuple), max_size=2),
    leaks=st.dictionaries(words, st.booleans(), max_size=2),
)

EMPTY = Report(title="nothing", notes=(), tables=())


def row(mean, family=Family.FLOOR):
    spread = Spread(mean=mean, low=mean, high=mean)
    return Row(method="random", family=family, matched=False, seeds=1, metrics={Scope.ALL: {"MRR": spread}}, changes={})


def with_row(one):
    table = Table(direction="image→report", queries={Scope.ALL: 3}, gallery=9, reference="random", rows=(one,))
    return Report(title="tiny", notes=(), tables=(table,))


@given(reports)
def test_what_is_saved_is_loaded(tmp_path_factory, report):
    path = tmp_path_factory.getbasetemp() / "report.json"
    serial.save(report, path)
    assert serial.load(path) == report


@given(reports)
def test_it_is_json_for_every_reader(report):
    text = json.dumps(serial.to_json(report), allow_nan=False)
    assert serial.from_json(json.loads(text)) == report


def test_scopes_and_families_come_back_as_themselves():
    (table,) = serial.from_json(serial.to_json(with_row(row(0.5, Family.CONTROL)))).tables
    assert type(table.rows[0].family) is Family
    assert {type(scope) for scope in (*table.queries, *table.rows[0].metrics)} == {Scope}


@pytest.mark.parametrize(("mean", "written"), [(math.nan, None), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_json_has_no_number_for_comes_back_too(mean, written):
    value = serial.to_json(with_row(row(mean)))
    assert value["tables"][0]["rows"][0]["metrics"] == {"all": {"MRR": [written] * 3}}
    (table,) = serial.from_json(value).tables
    assert str(table.rows[0].metrics[Scope.ALL]["MRR"].mean) == str(mean)


def test_numbers_of_numpy_are_numbers(tmp_path):
    one = row(np.float32(0.25))
    serial.save(with_row(one), tmp_path / "report.json")
    assert serial.load(tmp_path / "report.json") == with_row(one)


def test_an_absent_report_names_its_cure(tmp_path):
    with pytest.raises(NotFound, match="radrank evaluate"):
        serial.load(tmp_path / "report.json")


def test_another_schema_is_not_guessed_at(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(serial.to_json(EMPTY) | {"schema": 2}), encoding="utf-8")
    with pytest.raises(Mismatch, match="expected 1, found 2"):
        serial.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": NaN}', '{"schema": 1, "title": "no tables"}', '{"schema": 1, "notes": 3}']
)
def test_a_file_that_holds_no_report_is_corrupt(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Corrupt):
        serial.load(path)
