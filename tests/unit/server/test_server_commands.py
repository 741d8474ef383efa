from __future__ import annotations

import json

import pytest

from helpers.blas import blas_threads, two_blas_threads
from helpers.doubles import DIMENSIONS, DoubleBundle, HashingEncoder, picture
from radrank.client.cli import main
from radrank.core.archive import Archive
from radrank.server import commands


@pytest.fixture
def bundle(monkeypatch):
    """What every bundle directory opens as."""
    double = DoubleBundle()
    monkeypatch.setattr("radrank.engines.bundle.open_bundle", lambda path: double)
    return double


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder; returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def go(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return go


@pytest.fixture
def table(tmp_path):
    """A CSV data set with three good rows and a broken image."""
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [f"A{n},{n}.png,PA,report number {n}" for n in range(3)] + ["B,broken.png,PA,its report"]
    (tmp_path / "studies.csv").write_text("\n".join(["study_id,image,view,report", *rows]) + "\n")
    return tmp_path / "studies.csv"


def test_build_imports_lists_what_it_skipped_and_counts(run, bundle, table):
    code, out, _ = run("index", "build", "--archive", "home", "--dataset", "csv", "--root", table, "--index", "exact")
    assert code == 0, out
    assert "4 studies added, 0 replaced, 1 skipped" in out
    assert "broken.png" in out
    assert "4 studies, 3 images, 4 reports" in out
    code, out, _ = run("index", "info", "--archive", "home")
    assert (code, "4 studies, 3 images" in out) == (0, True)
    assert f"{DIMENSIONS} dimensions" in out
    code, out, _ = run("index", "verify", "--archive", "home", "--at-least", "1.0")
    assert code == 0
    assert out.count("1.0000") == 12
    assert "image → report" in out


def test_a_snapshot_that_another_version_laid_out_is_described_too(run, bundle, table, tmp_path):
    run("index", "build", "--archive", "home", "--dataset", "csv", "--root", table, "--index", "exact")
    manifest = next((tmp_path / "home" / "snapshots").glob("*/manifest.json"))
    found = json.loads(manifest.read_text())
    del found["layout"]
    manifest.write_text(json.dumps(found | {"schema": 2, "dimensions": 32, "pairs": 2}))
    code, out, err = run("index", "info", "--archive", "home")
    assert (code, "unknown dimensions" in out) == (0, True), err


def test_a_strict_build_stops_at_the_first_fault(run, bundle, table):
    code, _, err = run("index", "build", "--archive", "home", "--dataset", "csv", "--root", table, "--strict")
    assert code == 1
    assert "broken.png" in err


def test_building_again_with_another_bundle_encodes_everything_anew(run, bundle, table, monkeypatch, tmp_path):
    run("index", "build", "--archive", "home", "--dataset", "csv", "--root", table, "--index", "exact")
    other = DoubleBundle(encoder=HashingEncoder(seed=3), encoder_id="f" * 64)
    monkeypatch.setattr("radrank.engines.bundle.open_bundle", lambda path: other)
    code, out, _ = run("index", "build", "--archive", "home")
    assert code == 0
    assert "exact" in out
    archive = Archive(tmp_path / "home" / "archive.sqlite")
    assert archive.encoder == "f" * 64
    assert archive.counts().studies == 4
    archive.close()


def test_a_home_in_use_is_refused(run, bundle, tmp_path):
    from radrank.server.home import Home

    with Home(tmp_path / "home"):
        code, _, err = run("index", "build", "--archive", "home")
    assert (code, "in use by process" in err) == (1, True)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_without_an_archive_the_cure_is_named(run, command):
    code, _, err = run("index", command, "--archive", "nowhere")
    assert (code, "radrank index build" in err) == (1, True)


def test_a_changed_snapshot_does_not_verify(run, bundle, table, tmp_path):
    run("index", "build", "--archive", "home", "--dataset", "csv", "--root", table, "--index", "exact")
    path = next((tmp_path / "home" / "snapshots").glob("*/image/vectors.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = run("index", "verify", "--archive", "home")
    assert (code, "vectors.npy is not what its manifest says" in err) == (1, True)


def test_config_shows_what_is_in_force(run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv("RADRANK_TOKEN_FILE", "token")
    code, out, _ = run("config", "show", "--archive", "elsewhere")
    assert code == 0
    assert 'archive = "elsewhere"' in out
    assert 'token_file = "token"' in out
    assert "s3cret" not in out


def test_config_check_names_what_is_missing(run, tmp_path):
    code, _, err = run("config", "check")
    assert (code, "radrank export" in err) == (1, True)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    assert run("config", "check")[:2] == (0, "ok\n")
    (tmp_path / "c.toml").write_text("worker = 3")
    code, _, err = run("config", "check", "--config", "c.toml")
    assert (code, "worker there is no such setting" in err) == (1, True)


def test_serve_without_a_bundle_says_how_to_get_one(run):
    code, _, err = run("serve", "--listen", "127.0.0.1:0")
    assert (code, "radrank export" in err) == (1, True)


def test_what_serves_computes_with_one_blas_thread(run, monkeypatch):
    seen: list[set[int]] = []
    monkeypatch.setattr("radrank.server.app.run", lambda *_: seen.append(blas_threads()))
    with two_blas_threads():
        assert run("serve", "--listen", "127.0.0.1:0")[0] == 0
    assert seen == [{1}]


@pytest.mark.parametrize(
    ("called", "path", "typed"),
    [
        (".venv/bin/radrank", "/nowhere", ".venv/bin/radrank"),
        ("/somewhere/cli.py", "/nowhere", "radrank"),
    ],
)
def test_the_line_to_paste_names_the_program_where_no_environment_is_activated(monkeypatch, called, path, typed):
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setenv("PATH", path)
    assert commands.program() == typed
