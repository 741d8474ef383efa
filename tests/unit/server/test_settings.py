from __future__ import annotations

import tomllib

import pytest

from radrank.core.errors import InvalidQuery, NotFound
from radrank.engines.runtimes import EngineSettings
from radrank.server.settings import lines, load


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch):
    import os

    for name in os.environ:
        if name.startswith("RADRANK_"):
            monkeypatch.delenv(name)


def test_the_defaults_listen_on_this_machine_only():
    settings = load()
    assert (settings.listen, settings.limits.message_bytes) == ("127.0.0.1:50051", 64 << 20)
    assert not settings.is_exposed


def test_the_defaults_follow_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert (load().limits.workers, load().limits.in_flight, load().limits.helpers) == (16, 128, 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert (load().limits.workers, load().limits.in_flight, load().limits.helpers) == (1, 8, 0)


def test_the_command_line_comes_before_the_environment_before_the_file(tmp_path, monkeypatch):
    file = tmp_path / "radrank.toml"
    file.write_text('listen = "a:1"\nbundle = "from-file"\narchive = "from-file"\n[limits]\nworkers = 3\nstreams = 5\n')
    monkeypatch.setenv("RADRANK_ARCHIVE", "from-environment")
    monkeypatch.setenv("RADRANK_LISTEN", "b:2")
    monkeypatch.setenv("RADRANK_LIMITS__WORKERS", "4")
    settings = load(file, listen="c:3", bundle=None)
    assert (settings.listen, str(settings.archive), str(settings.bundle)) == ("c:3", "from-environment", "from-file")
    assert (settings.limits.workers, settings.limits.streams) == (4, 5)
    monkeypatch.setenv("RADRANK_CONFIG", str(file))
    assert load().limits.streams == 5


def test_what_is_shown_can_be_loaded_again(tmp_path):
    settings = load(listen="unix:/tmp/radrank.sock", limits={"workers": 2}, token_file="token")
    file = tmp_path / "shown.toml"
    file.write_text("\n".join(lines(settings)))
    assert tomllib.loads(file.read_text())["limits"]["workers"] == 2
    assert load(file).model_dump() == settings.model_dump()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"listen": "50051"}, "listen must be host:port"),
        ({"listen": "host:99999"}, "listen must be host:port"),
        ({"worker": 3}, "worker there is no such setting"),
        ({"limits": {"workers": 0}}, "limits.workers should be greater than or equal to 1"),
        ({"limits": {"wokers": 1}}, "limits.wokers there is no such setting"),
        ({"index": "ivf"}, "index should be 'hnsw' or 'exact'"),
        ({"tls": {"key": "k"}}, "tls needs both certificate and key"),
        ({"engines": {"batch": 0}}, "engines.batch should be greater than or equal to 1"),
        ({"engines": {"batch_delay": -1}}, "engines.batch_delay should be greater than or equal to 0"),
        ({"engines": {"runtime": "triton"}}, 'engines needs both runtime = "triton" and triton = "host:port"'),
        ({"engines": {"triton": "host:8001"}}, 'engines needs both runtime = "triton" and triton = "host:port"'),
        ({"engines": {"runtime": "triton", "triton": "host"}}, "engines.triton must be the host:port of its gRPC"),
        ({"engines": {"triton_ca": "ca.pem"}}, 'engines needs triton = "host:port" for triton_ca'),
    ],
)
def test_what_is_wrong_is_said_plainly(given, told):
    with pytest.raises(InvalidQuery) as caught:
        load(**given)
    assert told in str(caught.value)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"none\.toml"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("listen = ")
    with pytest.raises(InvalidQuery, match=r"bad\.toml: is not TOML"):
        load(tmp_path / "bad.toml")


def test_what_is_said_of_engines_reaches_them(tmp_path):
    said = {
        "runtime": "triton",
        "precision": "fp16",
        "plans": tmp_path,
        "threads": 3,
        "batch": 4,
        "batch_delay": 0.002,
        "triton": "triton.example:8001",
        "triton_ca": tmp_path / "ca.pem",
    }
    assert load(engines=said).engines.settings() == EngineSettings(**said)
    assert load().engines.settings() == EngineSettings()


@pytest.mark.parametrize("content", ["", " \n", "two words", "one\ntwo", "ümlaut"])
def test_a_token_file_holds_one_token(tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidQuery) as caught:
        load(token_file=tmp_path / "token").token()
    assert caught.value.field == "token_file"
    assert "mlaut" not in str(caught.value)


def test_a_token_is_read_and_never_shown(tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    settings = load(token_file=tmp_path / "token")
    assert settings.token() == "s3cret"
    assert "s3cret" not in "\n".join(lines(settings)) + repr(settings)


def test_files_that_can_not_be_read_are_named(tmp_path):
    with pytest.raises(InvalidQuery, match=r"^token_file: .*none"):
        load(token_file=tmp_path / "none").token()
    with pytest.raises(InvalidQuery, match=r"^tls\.key: "):
        load(tls={"key": tmp_path / "none", "certificate": tmp_path / "none"}).certificates()
    engines = {"runtime": "triton", "triton": "host:8001", "triton_ca": tmp_path / "none"}
    with pytest.raises(InvalidQuery, match=r"^engines\.triton_ca: "):
        load(engines=engines).engines.check()


def test_an_open_door_is_noticed(tmp_path):
    assert load(listen="0.0.0.0:1").is_exposed
    assert load(listen="0.0.0.0:1", token_file="t").is_exposed
    assert not load(
        listen="0.0.0.0:1",
        token_file="t",
        tls={"key": "k", "certificate": "c"},
    ).is_exposed
    assert not load(listen="localhost:1").is_exposed
