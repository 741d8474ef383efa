"""`radrank evaluate` as a user calls it: on demo studies with splits, and on a folder that the archive has never seen.

It runs in a process that can reach no network.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from radrank.core.studies import Study
from radrank.datasets.demo import DemoArchive
from radrank.evaluation.results import Family, Report, Scope
from radrank.evaluation.serial import load
from radrank.evaluation.training_free import FLOORS, METHODS

DIRECTIONS = ["image→report", "report→image", "image→image", "report→report"]
RERANKERS = ["gat", "gcn", "mlp", "sage"]
PLOTS = {
    "calibration",
    "map",
    "changes-all",
    "changes-abnormal",
    *(f"{plot}-{direction.replace('→', '-')}" for plot in ("groups", "ranks") for direction in DIRECTIONS),
}

_OFFLINE = """
import socket, sys
def refuse(*_args, **_options):
    raise AssertionError("dialled out")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from radrank.client.cli import main
main(sys.argv[1:])
"""


def evaluated(bundle: Path, out: Path, *words: object) -> tuple[Report, str]:
    """The report that the command wrote, and what it said."""
    command = [sys.executable, "-c", _OFFLINE, "evaluate", "--bundle", bundle, "--out", out, "--draws", "50", *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load(out / "report.json"), done.stdout


def written(path: Path, studies: Sequence[Study], splits: Sequence[str] | None = None) -> Path:
    """The studies as a csv data set: a row an image; splits: of each study, by its id if not given."""
    path.mkdir()
    with (path / "studies.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["study_id", "patient_id", "image", "view", "findings", "impression", "labels", "normal", "split"]
        )
        for study, split in zip(studies, splits or [""] * len(studies), strict=True):
            for image in study.images:
                (path / f"{image.image_id}.jpg").write_bytes(image.read())
                known = study.findings, study.impression, ";".join(study.labels), study.normal, split
                table.writerow([study.study_id, study.patient_id, f"{image.image_id}.jpg", image.view, *known])
    return path


def said_nothing_of(studies: Sequence[Study], out: Path, *said: str) -> None:
    """No id and no sentence of a report stands in what was printed or written."""
    texts = [*said, *(path.read_text(encoding="utf-8") for path in (out / "report.json", out / "report.md"))]
    for text in texts:
        assert not re.search(r"DEMO0\d+", text)
        assert not any(study.impression in text for study in studies if len(study.impression) > 20)


@pytest.fixture(scope="module")
def judged(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, str, Path]:
    home = tmp_path_factory.mktemp("judged")
    splits = ["train"] * 96 + ["validation"] * 56 + ["test"] * 64
    root, out = written(home / "demo", list(DemoArchive(len(splits))), splits), home / "results"
    report, said = evaluated(demo_bundle, out, "--dataset", "csv", "--root", root, "--split", "test")
    return report, said, out


def test_the_table_has_every_row_in_every_direction_and_scope(judged):
    report, said, _ = judged
    assert [table.direction for table in report.tables] == DIRECTIONS
    plain = [*FLOORS, "embedding only", *METHODS, *RERANKERS]
    for table in report.tables:
        assert 60 < table.queries[Scope.ALL] <= 64
        assert [row.method for row in table.rows if not row.matched] == plain
        assert [row.method for row in table.rows if row.matched] == [*METHODS, *RERANKERS]
        assert {row.method for row in table.rows if row.family is Family.RERANKER} == {"gat", "gcn", "sage"}
        assert {row.method for row in table.rows if row.family is Family.CONTROL} == {"mlp"}
        for row in table.rows:
            assert {*row.metrics} == {*row.changes} == {*Scope}
        assert f"{table.direction} · {table.queries[Scope.ALL]} queries" in said
    assert list(report.screening) == ["image", "report"]


def test_the_embedding_has_learned_something_and_floors_have_not(judged):
    for table in judged[0].tables:
        found = {row.method: row.metrics[Scope.ALL]["Jaccard@10"].mean for row in table.rows if not row.matched}
        assert found["embedding only"] > 1.2 * found["random"]


def test_leak_tests_hold(judged):
    report, said, _ = judged
    assert list(report.leaks.values()) == [True] * 3
    assert "leak tests: all held" in said


def test_every_plot_is_there_and_nothing_tells_of_a_study(judged):
    _, said, out = judged
    assert {path.stem for path in out.glob("*.png")} == PLOTS
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300
    assert f"wrote report.json, report.md and {len(PLOTS)} plots into {out}" in said.replace("\n", "")
    said_nothing_of(list(DemoArchive(216)), out, said)


def test_a_folder_never_seen_is_judged_beside_the_archive_of_another(demo_bundle, tmp_path):
    studies = list(DemoArchive(144))
    known, fresh = written(tmp_path / "known", studies[:72]), written(tmp_path / "fresh", studies[72:])
    home, out = tmp_path / "archive", tmp_path / "results"
    build = [sys.executable, "-m", "radrank.client.cli", "index", "build", "--dataset", "csv", "--root", known]
    subprocess.run([*build, "--bundle", demo_bundle, "--archive", home], check=True, capture_output=True)
    asked = ["--dataset", "csv", "--root", fresh, "--split", "all", "--archive", home]
    report, said = evaluated(demo_bundle, out, *asked)
    assert [table.direction for table in report.tables] == DIRECTIONS
    for table in report.tables:
        assert 68 < table.queries[Scope.ALL] <= 72
        assert {*METHODS, *RERANKERS} <= {row.method for row in table.rows}
        assert not any(row.matched for row in table.rows)
    assert any("fewer than 50 studies to tune on" in note for note in report.notes)
    assert any("beside 72 in the archive" in note for note in report.notes)
    assert all(report.leaks.values())
    said_nothing_of(studies, out, said)


def test_what_is_wrong_is_said_in_a_line(demo_bundle, tmp_path):
    command = [sys.executable, "-m", "radrank.client.cli", "evaluate", "--bundle", demo_bundle, "--dataset", "demo"]
    for words, line in (
        (["--split", "all"], "error: split: all leaves nothing for the archive"),
        (["--split", "all", "--archive", tmp_path], "error: no such snapshot in"),
        (["--bundle", tmp_path], "error: no such bundle"),
    ):
        done = subprocess.run([*command, *words, "--out", tmp_path / "o"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(line)
    assert not (tmp_path / "o").exists()
