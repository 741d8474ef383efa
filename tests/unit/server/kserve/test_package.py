"""The rest of the server serves on where tritonclient is not installed."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from helpers.serving import STUDIES, error_of, serving
from radrank.server import kserve

LAZY = """
import sys
import radrank.server.app
assert not any(name.startswith("tritonclient") for name in sys.modules), "tritonclient is imported before it is needed"
"""


def test_without_the_extra_the_rest_serves_on_and_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    monkeypatch.setattr(kserve, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, logger="radrank"), serving(tmp_path / "home", STUDIES[:3]) as running:
        assert len(running.search().hits) == 3
        method = running.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(Exception, match="not found") as caught:
            method(b"", timeout=10)
        assert error_of(caught.value)[0] == "UNIMPLEMENTED"
    said = [record.getMessage() for record in caplog.records if "KServe" in record.getMessage()]
    assert len(said) == 1
    assert 'pip install "radrank[triton]"' in said[0]


def test_the_server_module_does_not_import_tritonclient():
    subprocess.run([sys.executable, "-c", LAZY], check=True, timeout=60)
