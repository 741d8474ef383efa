"""What stands in deploy/ is what the server takes."""

from __future__ import annotations

from pathlib import Path

from radrank.engines.plans import plans_of
from radrank.server.settings import load

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_the_example_settings_load():
    settings = load(DEPLOY / "radrank.toml")
    assert settings.archive == Path("/srv/radrank/archive")
    assert settings.limits.workers == 8
    assert settings.logs.format == "json"


def test_the_service_serves_those_settings():
    unit = (DEPLOY / "radrank.service").read_text()
    assert "radrank serve --config /etc/radrank/radrank.toml" in unit
    settings = load(DEPLOY / "radrank.toml")
    assert f"ReadWritePaths={settings.archive}" in unit
    assert f"ReadWritePaths=-{plans_of(settings.bundle)}" in unit
