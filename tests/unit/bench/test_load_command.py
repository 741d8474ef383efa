"""`radrank bench load`, through the command's own entry point, on a server that answers by script."""

from __future__ import annotations

import io
import json
import time

import pytest
from grpc import StatusCode

from helpers.scripted import Act, scripted
from radrank.bench.load import session
from radrank.bench.load.ledger import Glance
from radrank.bench.load.progress import Line
from radrank.bench.load.results import Plan
from radrank.client import cli

QUICK = ("--seconds", "0.6", "--warm-up", "0.1")


@pytest.fixture
def radrank(tmp_path, capsys):
    """Runs a command line in this process: its exit status, the report, and what it printed."""

    def run(*words):
        with pytest.raises(SystemExit) as left:
            cli.main(["bench", "load", "--out", str(tmp_path / "out"), *map(str, words)])
        file = tmp_path / "out" / "load.json"
        said = capsys.readouterr()
        return left.value.code, json.loads(file.read_text()) if file.is_file() else None, said.out + said.err

    return run


def test_the_report_holds_the_command_every_figure_and_files_that_others_read(radrank, tmp_path):
    with scripted(
        lambda number: Act(code=StatusCode.RESOURCE_EXHAUSTED if number % 10 == 9 else StatusCode.OK)
    ) as server:
        code, report, said = radrank("--rate", "40,80", *QUICK, "--seed", 5, "-k", 3, "--server", server.address)
    assert code == int(report["void"])
    assert report["command"].startswith("radrank bench load --out ")
    assert "--rate 40,80 --seconds 0.6 --warm-up 0.1 --seed 5 --k 3 --server 127.0.0.1:" in report["command"]
    assert report["settings"]["seed"] == 5
    assert report["server"]["bundle_sha256"] == "b" * 64
    assert {"python", "radrank", "grpcio", "hdrhistogram"} <= set(report["versions"])
    for run in report["runs"]:
        assert run["planned"] == run["ok"] + sum(run["errors"].values()) + run["skipped"] + run["lost"]
        assert set(run["errors"]) == {"RESOURCE_EXHAUSTED"}
        for code in ("OK", "RESOURCE_EXHAUSTED"):
            figures = run["latency_ms"][code]
            assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["p99.9"] <= figures["max"]
            lines = (tmp_path / "out" / f"{run['name']}-{code}.hgrm").read_text().splitlines()
            assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
            assert f"TotalCount     = {figures['count']:12.3f}" in lines[-2]
        assert {"offered", "achieved", "degraded", "send_lag_ms", "p99_of_planned_ms"} <= set(run)
    assert (tmp_path / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "out" / "load.md").read_text()
    assert f"`{report['command']}`" in table
    for run in report["runs"]:
        assert (
            f"| {run['name']} | {run['offered']:.1f} | {run['achieved']:.1f} | {run['ok']} | RESOURCE_EXHAUSTED"
            in table
        )
    assert "rate-40  achieved" in said or report["void"]
    assert "RESOURCE_EXHAUSTED" in said


def test_a_void_report_is_written_and_ends_with_one(radrank, monkeypatch, tmp_path):
    class Slow(list):
        def __getitem__(self, place):
            time.sleep(0.005)
            return super().__getitem__(place)

    made = session.serialised
    monkeypatch.setattr(session, "serialised", lambda *given, **options: Slow(made(*given, **options)))
    with scripted(lambda number: Act()) as server:
        code, report, said = radrank("--rate", 30, *QUICK, "--server", server.address)
    assert code == 1
    assert report["void"]
    assert report["highest"] is None
    assert "late at p99" in report["reasons"][0]
    assert "VOID rate-30" in said
    assert "- VOID rate-30" in (tmp_path / "out" / "load.md").read_text()


def test_clients_ask_in_a_closed_loop(radrank):
    with scripted(lambda number: Act(seconds=0.01)) as server:
        code, report, _ = radrank("--clients", 3, *QUICK, "--server", server.address)
    (run,) = report["runs"]
    assert (code, run["name"], run["rate"], run["send_lag_ms"]) == (0, "clients-3", None, None)
    assert 30 < run["achieved"] <= 300


def test_a_server_that_refuses_the_first_request_is_not_loaded(radrank):
    with scripted(lambda number: Act(code=StatusCode.INVALID_ARGUMENT)) as server:
        code, report, said = radrank("--rate", 30, *QUICK, "--server", server.address)
    assert (code, report) == (1, None)
    assert "as the script says" in said
    assert server.searches == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--rate", "50", "--clients", "2"), "give either rates"),
        (("--rate", "quick"), "quick is none of"),
        (("--rate", "50", "--kind", "sound"), "must be one of text, image, embedding, study"),
    ],
)
def test_what_makes_no_sense_is_said(radrank, words, why):
    with scripted(lambda number: Act()) as server:
        code, report, said = radrank(*words, *QUICK, "--server", server.address)
    assert (code, report) == (1, None)
    assert why in said


def glance(elapsed):
    return Glance(elapsed=elapsed, sent=1200, ok=1180, failed=3, skipped=2, in_flight=17, p99_ms=12.34)


def test_a_terminal_has_one_line_that_moves():
    screen = io.StringIO()
    screen.isatty = lambda: True
    line = Line(Plan(asked="100", rate=100.0, seconds=30.0, warm_up=3.0), screen)
    for elapsed in (-1.0, 0.5, 12.0, 31.0):
        line(glance(elapsed))
    assert "\n" not in screen.getvalue()
    warming, first, later, last, _ = screen.getvalue().split("\r")
    assert "rate-100  warming up" in warming
    assert "30 s left" in first
    assert "18 s left  sent 1,200  ok 1,180  failed 3  skipped 2  in flight 17  p99 now 12.3 ms" in later
    assert "waiting for the last" in last


def test_a_log_has_a_line_every_five_seconds():
    log = io.StringIO()
    line = Line(Plan(asked="", clients=16, seconds=30.0, warm_up=0.0), log)
    for half in range(40):
        line(glance(half / 2))
    assert [text.split()[1] for text in log.getvalue().splitlines()] == ["30", "25", "20", "15"]
