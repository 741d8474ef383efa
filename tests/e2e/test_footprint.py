"""`bench footprint`: a real server over made-up studies."""

from __future__ import annotations

from contextlib import contextmanager

from radrank.bench._scale_report import footprint_markdown
from radrank.bench.footprint import footprint, make_home
from radrank.engines.index import HnswFactory


@contextmanager
def silent(label, total):
    yield lambda done: None


def test_made_up_studies_are_served_and_measured(demo_bundle, tmp_path, monkeypatch):
    home = tmp_path / "home"
    make_home(home, demo_bundle, 150, threads=1, bar=silent)
    monkeypatch.setattr(HnswFactory, "build", None)  # a second call uses what is there
    make_home(home, demo_bundle, 150, threads=1, bar=silent)
    found = footprint(home, demo_bundle, searches=20, bar=silent)
    assert (found.studies, found.vectors, found.searches) == (150, 300, 20)
    assert [start.disk for start in found.starts] == ["cold", "warm"]
    for start in found.starts:
        assert 0 < start.seconds < 120
        assert start.memory.peak >= start.memory.resident > 100e6
    assert 0 < found.p50 <= found.p99
    assert "| after 20 searches |" in footprint_markdown(found, "radrank bench footprint")
