"""`bench peers --with triton` around NVIDIA's programs, which are scripts here; the real ones are in tests/e2e."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated

import grpc
import numpy as np
import pytest
import typer
from tritonclient.grpc import InferenceServerClient, service_pb2, service_pb2_grpc
from typer.testing import CliRunner

from helpers.triton_programs import UNSTABLE, Turn, measured, scripted_analyzer, scripted_triton
from radrank.bench._triton_report import triton_markdown, triton_plot
from radrank.bench.perf_analyzer import Load, PerfAnalyzer, Reading, write_queries
from radrank.bench.side_by_side import OURS, TRITON, closed_and_open, in_rounds, turns
from radrank.bench.triton_peers import SAME, Beside, Model, compare
from radrank.bench.triton_process import triton_serving
from radrank.client.cli import main
from radrank.core.errors import Mismatch, NotFound, Unavailable
from radrank.evaluation.commands import said
from radrank.server.kserve.tensors import to_raw


def no_step() -> None:
    pass


def measure(folder, *script, load=Load(concurrency=4)):  # noqa: B008 - frozen
    analyzer = scripted_analyzer(folder, script)
    found = PerfAnalyzer(analyzer.command, folder)
    assert found.version == "2.60.0"
    reading = found.measure("127.0.0.1:1", "search", folder / "queries.json", load, seconds=3.0)
    return reading, [" ".join(options) for options in analyzer.options()]


def test_a_reading_is_answers_a_second_and_milliseconds(tmp_path):
    reading, (asked,) = measure(tmp_path, measured(99.5, 44_732, 92_211))
    assert reading == Reading(throughput=99.5, p50=44.732, p99=92.211)
    assert f"-i grpc -u 127.0.0.1:1 -m search --input-data={tmp_path}/queries.json --concurrency-range=4 " in asked
    assert "--percentile=50 --stability-percentage=25 --max-trials=6 --measurement-interval=1000 " in asked


def test_poisson_arrivals_wait_for_no_answer(tmp_path):
    _, (asked,) = measure(tmp_path, measured(1, 1, 1), load=Load(rate=12.5))
    assert "--request-rate-range=12.5 --request-distribution=poisson --async" in asked
    assert "concurrency" not in asked


def test_what_is_not_stable_has_one_longer_try(tmp_path):
    reading, asked = measure(tmp_path, UNSTABLE, measured(10, 1_000, 2_000))
    assert reading == Reading(throughput=10, p50=1, p99=2)
    assert [options.partition("interval=")[2].split()[0] for options in asked] == ["1000", "2000"]


def test_what_never_is_stable_gives_no_figures(tmp_path):
    reading, asked = measure(tmp_path, UNSTABLE)
    assert reading is None
    assert len(asked) == 2


def test_an_error_of_the_server_is_told_and_nothing_is_read(tmp_path):
    refused = Turn(status=99, error="Thread [1] had error: too many requests in flight")
    with pytest.raises(Unavailable, match=r"ended with 99; it said: .* too many requests in flight"):
        measure(tmp_path, refused)


def test_figures_of_another_layout_are_refused(tmp_path):
    with pytest.raises(Mismatch, match="expected Inferences/Second, p50 latency, p99 latency, found Rate, Median"):
        measure(tmp_path, Turn(csv="Rate,Median\n1,2\n"))


def test_an_old_file_is_not_taken_for_a_reading(tmp_path):
    (tmp_path / "reading.csv").write_text(measured(1, 1, 1).csv)
    with pytest.raises(Unavailable, match="measured nothing"):
        measure(tmp_path, Turn())


@pytest.mark.parametrize("option", ["--perf-analyzer", "--tritonserver"])
def test_a_program_that_is_not_there_is_told_with_the_option_that_names_it(tmp_path, capsys, option):
    where = ["--bundle", str(tmp_path), "--archive", str(tmp_path), "--out", str(tmp_path / "out")]
    there = {"--perf-analyzer": "true", "--tritonserver": "true", option: "no-such-program --x"}
    words = [word for pair in there.items() for word in pair]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "peers", "--with", "triton", *where, *words])
    assert ended.value.code == 1
    assert f"no such program 'no-such-program'; say what starts it: {option} 'COMMAND …'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_triton_the_run_is_needed_as_before(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "peers", "--bundle", str(tmp_path), "--archive", str(tmp_path), "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "Missing option '--run'" in capsys.readouterr().err


def test_a_report_repeats_the_command_with_the_options_as_they_are_called():
    app, told = typer.Typer(), []

    @app.command()
    def peers(
        context: typer.Context,
        beside: Annotated[str, typer.Option("--with")] = "",
        k: Annotated[int, typer.Option("-k", "--k")] = 1,
        kind: Annotated[list[str] | None, typer.Option()] = None,
    ) -> None:
        told.append(said(context, "radrank", "peers"))

    CliRunner().invoke(app, ["--kind", "text", "--with", "triton", "-k", "2", "--kind", "image"])
    (words,) = told
    assert set(words.split(" --")) == {"radrank peers", "with triton", "k 2", "kind text", "kind image"}


def test_queries_are_written_as_the_bytes_that_kserve_sends(tmp_path):
    asked = {
        "image": np.array([b"\xff\xd8 no text"], dtype=object),
        "embedding": np.array([0.5, -2.0], np.float32),
        "k": np.array([10], np.int32),
    }
    write_queries(tmp_path / "queries.json", [asked, asked])
    steps = json.loads((tmp_path / "queries.json").read_text())["data"]
    assert len(steps) == 2
    assert {name: base64.b64decode(one["b64"]) for name, one in steps[0].items()} == {
        name: to_raw(array) for name, array in asked.items()
    }


def of(ours: float, theirs: float):
    """Throughput of both sides, with a p50 that is its inverse."""
    return lambda side, _: Reading(throughput=(t := {OURS: ours, TRITON: theirs}[side]), p50=1_000 / t, p99=5_000 / t)


def test_sides_take_turns_and_neither_is_always_first():
    seen = []

    def measure(side, load):
        seen.append((str(load), side))
        return of(2, 1)(side, load)

    in_rounds("text", [Load(concurrency=1), Load(concurrency=4)], measure, rounds=2, step=no_step)
    first = seen[::2]
    assert sorted(first) == sorted(set(first))
    assert [load for load, _ in seen] == [f"{n} at once" for n in (1, 1, 4, 4)] * 2


def test_a_row_has_medians_and_ratios_of_the_same_round():
    speeds = {OURS: iter([20, 5, 30]), TRITON: iter([10, 10, 20])}
    (row,) = in_rounds(
        "text",
        [Load(concurrency=4)],
        lambda side, _: Reading(throughput=next(speeds[side]), p50=1, p99=2),
        rounds=3,
        step=no_step,
    )
    assert [row.readings[side].throughput for side in (OURS, TRITON)] == [20, 10]
    assert str(row.faster) == "1.50 [0.50, 2.00]"


def test_turns_that_were_not_stable_are_counted_and_left_out():
    script = iter([Reading(throughput=9, p50=1, p99=1), None, None, None])
    (row,) = in_rounds("text", [Load(concurrency=1)], lambda *_: next(script), rounds=2, step=no_step)
    assert row.stable == {OURS: 0, TRITON: 1}
    assert row.readings[OURS] is None
    assert row.faster is None


def test_poisson_is_at_half_of_what_the_slower_side_reaches():
    steps = []
    rows = closed_and_open("text", of(80, 64), rounds=2, step=lambda: steps.append(1))
    assert [row.concurrency for row in rows] == [1, 4, 16, None]
    assert rows[-1].rate == 32
    assert rows[-1].faster.value == 80 / 64  # by p50
    assert len(steps) == turns(2)


def test_without_a_stable_closed_loop_there_is_no_rate_to_ask_at():
    rows = closed_and_open("text", lambda *_: None, rounds=1, step=no_step)
    assert [row.concurrency for row in rows] == [1, 4, 16]


class Fixed(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every search alike."""

    def __init__(self, ids, scores):
        self.ids, self.scores = np.array(ids, dtype=object), np.array(scores, np.float32)

    def ModelInfer(self, request, context):  # noqa: N802 - the protocol's name
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, kind, array in (("ids", "BYTES", self.ids), ("scores", "FP32", self.scores)):
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            response.raw_output_contents.append(to_raw(array))
        return response


@contextmanager
def answering(ids, scores):
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Fixed(ids, scores), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Model(address=f"127.0.0.1:{port}", name="search")
    finally:
        server.stop(None).wait()


QUERIES = [{"text": np.array([b"normal heart"], dtype=object)}] * 2


def test_both_must_find_the_same_in_the_same_order_before_they_are_timed():
    ids, scores = [b"a", b"b"], [0.5, 0.25]
    with answering(ids, scores) as one, answering(ids, [0.5, 0.25 + SAME / 2]) as other:
        assert 0 < compare([one, other], QUERIES, step=no_step) <= SAME
        with answering(ids[::-1], scores) as third, pytest.raises(Mismatch, match="2 of 2 with other ids"):
            compare([one, third], QUERIES, step=no_step)
        with answering(ids, [0.5, 0.2501]) as third, pytest.raises(Mismatch, match=r"scores up to 1\.0e-04 apart"):
            compare([one, third], QUERIES, step=no_step)


def test_triton_gets_the_repository_and_a_port_of_this_machine(tmp_path):
    log = tmp_path / "triton.log"
    for told in ((), ("{repository}",)):
        command = scripted_triton(tmp_path, *told)
        with triton_serving(command, tmp_path / "models", "found", log) as address:
            with InferenceServerClient(address) as client:
                assert client.is_model_ready("found")
            (said,) = log.read_text().splitlines()
        assert said.split()[0] == (f"{tmp_path}/models" if told else f"--model-repository={tmp_path}/models")
        assert f"--grpc-address=127.0.0.1 --grpc-port={address.rpartition(':')[2]} " in said
        with pytest.raises(Exception, match="UNAVAILABLE"), InferenceServerClient(address) as client:
            client.is_model_ready("found")


def test_a_triton_that_ends_leaves_its_log(tmp_path):
    log = tmp_path / "triton.log"
    with (
        pytest.raises(Unavailable, match=f"ended with 3 before it was ready; what it said: {log}"),
        triton_serving(scripted_triton(tmp_path, "--fail"), tmp_path, "found", log),
    ):
        raise AssertionError
    assert "--fail" in log.read_text()


def test_a_triton_that_is_not_there_is_told(tmp_path):
    with (
        pytest.raises(NotFound, match="--tritonserver"),
        triton_serving("no-such-program", tmp_path, "found", tmp_path / "log"),
    ):
        raise AssertionError


def result(ours: float, theirs: float) -> Beside:
    return Beside(
        rows=closed_and_open("text", of(ours, theirs), rounds=1, step=no_step),
        compared=16,
        scores=2e-7,
        bundle="demo",
        reranker="sage",
        studies=640,
        candidates=100,
        rounds=1,
        seconds=3.0,
        versions={"Triton": "2.51.0", "perf_analyzer": "2.60.0"},
        command="radrank bench peers --with triton",
        machine={"cores": "2"},
    )


def test_the_report_has_both_sides_in_one_line():
    told = triton_markdown(result(100, 80))
    assert "| text | 4 at once | 100.0 | 80.0 | 1.25 [1.25, 1.25] | 10.0 | 12.5 | 50.0 | 62.5 | 1, 1 |" in told
    assert "| text | Poisson, 40/s | " in told
    assert "`radrank bench peers --with triton`" in told
    assert "with 1, 4, 16 at once: yes." in told
    assert "Triton 2.51.0, perf_analyzer 2.60.0" in told


def test_where_ours_is_slower_the_report_says_so():
    found = result(80, 100)
    assert len(found.slower) == 3
    assert "**no**: text, 1 at once: 0.80" in triton_markdown(found)
    assert not found.to_json()["at_least_as_fast"]


def test_the_result_is_json_and_a_picture_though_a_side_was_never_stable(tmp_path):
    found = result(100, 80)
    rows = closed_and_open(
        "image", lambda side, load: None if side == TRITON else of(9, 9)(side, load), rounds=1, step=no_step
    )
    found = Beside(**{name: getattr(found, name) for name in found.__slots__} | {"rows": rows})
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["rows"][0]["readings"][TRITON] is None
    assert "| 9.0 | not stable | not stable |" in triton_markdown(found)
    assert len(found.slower) == 3, "what was not measured is not shown to be as fast"
    triton_plot(found, tmp_path / "peers-triton.png")
    assert (tmp_path / "peers-triton.png").read_bytes().startswith(b"\x89PNG")
