"""`bench load` on the real server process, which is frozen for two seconds while it is loaded."""

from __future__ import annotations

import json
import shutil
import signal
import threading

import pytest

from helpers.process import started
from radrank.bench.load.session import Options, Progress, load

FROZEN_SECONDS = 2.0


class Freezing(Progress):
    """Stops the server half a second into the measured part, and lets it go on after FROZEN_SECONDS."""

    def __init__(self, popen):
        self.popen = popen
        self.frozen = False
        self.timer = threading.Timer(FROZEN_SECONDS, popen.send_signal, [signal.SIGCONT])

    def started(self, plan):
        return self.glance

    def glance(self, glance):
        if glance.elapsed >= 0.4 and not self.frozen:
            self.frozen = True
            self.popen.send_signal(signal.SIGSTOP)
            self.timer.start()


@pytest.fixture
def server(demo_bundle, demo_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(demo_home, home, ignore=shutil.ignore_patterns(".lock"))
    with started(demo_bundle, home) as process:
        yield process


def measured(server, out, **how):
    """The OK latencies of four seconds in which the server is frozen for two, and the whole run."""
    freezing = Freezing(server.popen)
    load(Options(server=server.address, seconds=4.0, warm_up=0.5, out=out, **how), freezing)
    assert freezing.frozen
    freezing.timer.join()
    (run,) = json.loads((out / "load.json").read_text())["runs"]
    assert run["planned"] == run["ok"] + sum(run["errors"].values()) + run["skipped"]
    assert run["lost"] == 0
    return run["latency_ms"]["OK"], run


def test_a_frozen_server_stands_in_the_report_where_one_waiting_client_would_have_hidden_it(server, tmp_path):
    told, run = measured(server, tmp_path / "open", rates=("20",))
    assert told["max"] >= 1900
    assert told["p99"] >= 1500
    assert told["p90"] >= 1000, "half of all requests came while nobody answered"
    assert not run["meets_objective"]
    hidden, _ = measured(server, tmp_path / "closed", clients=1)
    assert hidden["max"] >= 1900
    assert hidden["p90"] < 500, "one slow answer among the few that a waiting client asks for"
