"""`bench peers --with triton`: NVIDIA's perf_analyzer on our server and on a real Triton, both on the demo archive."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest

from helpers.triton import LAUNCHER, installed, needs_triton
from radrank.bench.side_by_side import OURS, TRITON
from radrank.client.cli import main

ANALYZER = Path(os.environ.get("RADRANK_PERF_ANALYZER") or LAUNCHER.with_name("perf_analyzer.sh"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_triton,
    pytest.mark.skipif(not ANALYZER.is_file(), reason=f"there is no load generator: {ANALYZER.name} is not there"),
]


def analyzer_work() -> Path:
    """perf_analyzer.sh's WORK_DIR, some 50 MB, kept for the next session. RADRANK_PERF_ANALYZER_WORK names it."""
    kept = os.environ.get("RADRANK_PERF_ANALYZER_WORK")
    return Path(kept or Path(tempfile.gettempdir()) / f"radrank-perf-analyzer-{os.getuid()}")


def test_both_answer_alike_and_both_are_measured(demo_bundle, demo_home, tmp_path, capsys):
    home = Path(shutil.copytree(demo_home, tmp_path / "home", ignore=shutil.ignore_patterns(".lock")))
    words = {
        "--bundle": demo_bundle,
        "--archive": home,
        "--out": tmp_path / "out",
        "--tritonserver": shlex.join(["bash", str(LAUNCHER), str(installed()), "{repository}"]),
        "--perf-analyzer": shlex.join(["bash", str(ANALYZER), str(analyzer_work())]),
        "--rounds": 1,
        "--seconds": 1.5,
        "--queries": 4,
    }
    kinds = ["--kind", "text", "--kind", "image"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "peers", "--with", "triton", *kinds, *(str(word) for pair in words.items() for word in pair)])
    assert not ended.value.code
    found = json.loads((tmp_path / "out" / "peers-triton.json").read_text())
    assert found["compared"] == 8
    assert found["scores"] <= 1e-5
    assert [(row["kind"], row["concurrency"]) for row in found["rows"]][:4] == [("text", n) for n in (1, 4, 16, None)]
    readings = [row["readings"][side] for row in found["rows"] for side in (OURS, TRITON)]
    stable = [one for one in readings if one is not None]
    assert len(stable) >= len(readings) / 2, "a busy machine may spoil some turns, but not most"
    assert all(one["throughput"] > 1 and one["p99"] >= one["p50"] > 1 for one in stable)
    assert (tmp_path / "out" / "peers-triton.md").read_text() in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"peers-triton.{kind}" for kind in ("json", "md", "png")),
        "triton.log",
    ]
