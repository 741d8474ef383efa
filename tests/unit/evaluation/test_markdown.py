"""Reports for people: Markdown to keep, a short table for a terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from radrank.evaluation.markdown import LEGEND, MAIN, NORMALS, markdown, show
from radrank.evaluation.metrics import METRICS, PAIR_METRICS
from radrank.evaluation.results import Change, Comparison, Family, Report, Row, Scope, Screened, Spread, Table


def spread(mean, low=None, high=None):
    return Spread(mean=mean, low=mean if low is None else low, high=mean if high is None else high)


def change(relative, low, high):
    return Change(relative=relative, low=low, high=high)


def row(method, family, *, mrr, jaccard, normals, changed=None, matched=False, seeds=1, rank=None):
    metrics = {
        Scope.ALL: {"Strong MRR": mrr, "Jaccard@10": jaccard, NORMALS: normals},
        Scope.ABNORMAL: {"Jaccard@10": jaccard},
    }
    if rank is not None:
        metrics[Scope.ALL] |= {"R@1": spread(0.1), "median rank": spread(rank)}
    return Row(
        method=method, family=family, matched=matched, seeds=seeds, metrics=metrics, changes={Scope.ALL: changed or {}}
    )


EMBEDDING = row(
    "multi-task",
    Family.EMBEDDING,
    mrr=spread(0.293),
    jaccard=spread(0.3),
    normals=spread(0.4),
    changed={"Jaccard@10": change(0.0, 0.0, 0.0)},
    rank=17.0,
)
SAGE = row(
    "SAGE",
    Family.RERANKER,
    mrr=spread(0.35, 0.34, 0.36),
    jaccard=spread(0.336, 0.331, 0.34),
    normals=spread(0.6),
    changed={"Strong MRR": change(-0.034, -0.081, 0.023), "Jaccard@10": change(0.12, 0.08, 0.17)},
    seeds=3,
    rank=1234.5,
)
MATCHED = replace(SAGE, matched=True, changes={Scope.ALL: {"Jaccard@10": change(-0.2, -0.31, -0.004)}})
RANDOM = row("random", Family.FLOOR, mrr=spread(0.21), jaccard=spread(math.nan), normals=spread(0.333))

TABLE = Table(
    direction="image→report",
    queries={Scope.ALL: 1234, Scope.ABNORMAL: 800},
    gallery=5678,
    reference="multi-task",
    rows=(MATCHED, SAGE, EMBEDDING, RANDOM),
    comparisons=(
        Comparison(
            method="SAGE",
            against="SAGE, edges shuffled",
            matched=True,
            changes={
                Scope.ALL: {"Jaccard@10": change(0.03, 0.01, 0.04)},
                Scope.ABNORMAL: {"Jaccard@10": change(0.0, -0.01, 0.01)},
            },
        ),
    ),
)
SCREENED = Screened(
    method="majority class",
    accuracy=0.65,
    balanced_accuracy=0.5,
    sensitivity=1.0,
    specificity=0.0,
    roc_auc=None,
    calibration_error=None,
)
REPORT = Report(
    title="Open-i, test",
    notes=("one split", "radrank evaluate --run runs/openi"),
    tables=(TABLE,),
    screening={"image": (SCREENED, replace(SCREENED, method="classifier", roc_auc=0.781, calibration_error=0.052))},
    leaks={"pair links permuted": True, "labels permuted": False},
)

EXPECTED = f"""\
# Open-i, test

- one split
- radrank evaluate --run runs/openi

{LEGEND}

## image→report

5,678 gallery entries.

### All queries (1,234 queries)

| | method | seeds | Strong MRR | Jaccard@10 | normals@10 |
| --- | --- | --: | --: | --: | --: |
| floor | random | 1 | .210 | – | .333 |
| embedding | multi-task (reference) | 1 | .293 | .300 | .400 |
| re-ranker | SAGE | 3 | .350 [.340, .360] | .336 [.331, .340] | .600 [.600, .600] |
| | SAGE, matched | 3 | .350 [.340, .360] | .336 [.331, .340] | .600 [.600, .600] |

Change against multi-task:

| | method | Strong MRR | Jaccard@10 |
| --- | --- | --: | --: |
| re-ranker | SAGE | −3 [−8, 2] % | **+12 [8, 17] %** |
| | SAGE, matched | – | **−20 [−31, 0] %** |

### Abnormal queries only (800 queries)

| | method | seeds | Jaccard@10 |
| --- | --- | --: | --: |
| floor | random | 1 | – |
| embedding | multi-task (reference) | 1 | .300 |
| re-ranker | SAGE | 3 | .336 [.331, .340] |
| | SAGE, matched | 3 | .336 [.331, .340] |

### The query's own study, all queries

| | method | seeds | R@1 | median rank |
| --- | --- | --: | --: | --: |
| floor | random | 1 | – | – |
| embedding | multi-task (reference) | 1 | .100 | 17 |
| re-ranker | SAGE | 3 | .100 [.100, .100] | 1,234.5 [1,234.5, 1,234.5] |
| | SAGE, matched | 3 | .100 [.100, .100] | 1,234.5 [1,234.5, 1,234.5] |

### One thing changed

| method | against | queries | Jaccard@10 |
| --- | --- | --- | --: |
| SAGE, matched | SAGE, edges shuffled | all | **+3 [1, 4] %** |
| SAGE, matched | SAGE, edges shuffled | abnormal | 0 [−1, 1] % |

## Normal or abnormal

| | method | accuracy | balanced accuracy | sensitivity | specificity | ROC AUC | calibration error |
| --- | --- | --: | --: | --: | --: | --: | --: |
| image | majority class | .650 | .500 | 1.000 | .000 | – | – |
| | classifier | .650 | .500 | 1.000 | .000 | .781 | .052 |

## Leak tests

- pair links permuted: held
- labels permuted: **failed**
"""


def shown(report, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(report, console)
    return console.file.getvalue()


def test_a_report_reads_like_this():
    assert markdown(REPORT) == EXPECTED


def test_every_metric_has_a_column_somewhere():
    assert {*MAIN, *PAIR_METRICS, NORMALS} == set(METRICS)


def test_a_report_of_nothing_is_its_title():
    assert markdown(Report(title="nothing", notes=(), tables=())) == "# nothing\n"


def test_one_seed_each_needs_no_column_of_seeds():
    text = markdown(replace(REPORT, tables=(replace(TABLE, rows=(EMBEDDING, RANDOM)),)))
    assert "| | method | Strong MRR |" in text
    assert "seeds |" not in text


def test_a_bar_in_a_name_does_not_break_its_table():
    text = markdown(replace(REPORT, tables=(replace(TABLE, rows=(replace(RANDOM, method="a|b"),)),)))
    assert "| floor | a\\|b | .210 |" in text


@pytest.mark.parametrize("relative", [math.inf, math.nan])
def test_a_change_from_nothing_is_no_number(relative):
    changed = {Scope.ALL: {"Jaccard@10": change(relative, relative, relative)}}
    text = markdown(replace(REPORT, tables=(replace(TABLE, rows=(replace(SAGE, changes=changed),)),)))
    assert "| re-ranker | SAGE | – |" in text


def test_a_terminal_gets_one_short_table_a_direction():
    lines = [line.strip() for line in shown(REPORT).splitlines()]
    assert lines[0] == "image→report · 1,234 queries"
    assert [line.split()[-4:] for line in lines if line.startswith("SAGE")] == [
        [".350", ".336▲", ".336", ".600"],
        [".350", ".336▼", ".336", ".600"],
    ]
    assert lines[-1] == "leak tests failed: labels permuted"


def test_it_fits_a_terminal_of_eighty_columns():
    full = {scope: dict.fromkeys(METRICS, spread(0.5)) for scope in Scope}
    table = replace(TABLE, rows=(replace(SAGE, method="SAGE, edges shuffled", matched=True, metrics=full),))
    text = shown(replace(REPORT, tables=(table,)), width=80)
    assert sum(line.count(".500") for line in text.splitlines()) == 8
    assert "…" not in text


def test_leak_tests_that_hold_are_said_in_a_line():
    assert shown(replace(REPORT, leaks={"pair links permuted": True})).endswith("leak tests: all held\n")
