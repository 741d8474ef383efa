"""What stands in deploy/triton is what the server and the export take."""

from __future__ import annotations

import re
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from radrank.export import commands
from radrank.server.settings import load

ROOT = Path(__file__).parents[3]
TRITON = ROOT / "deploy" / "triton"
CHART = TRITON / "chart"
DOCKERFILE = (TRITON / "Dockerfile").read_text()


def parsed(name: str) -> Any:
    return yaml.safe_load((TRITON / name).read_text())


def test_the_server_takes_the_settings_of_the_compose_file(monkeypatch):
    services = parsed("compose.yaml")["services"]
    for name, value in services["radrank"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    settings = load()
    assert (settings.engines.runtime, settings.engines.triton) == ("triton", "triton:8001")
    inside = {volume.rpartition("}:")[2].split(":")[0] for volume in services["radrank"]["volumes"]}
    assert inside == {str(settings.bundle), str(settings.archive)}
    assert settings.listen.endswith(":50051")


def test_the_compose_files_name_what_is_there():
    services = parsed("compose.yaml")["services"]
    for service in services.values():
        build = service["build"]
        assert (TRITON / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert re.search(rf"^FROM \S+ AS {build['target']}$", DOCKERFILE, re.MULTILINE)
        assert service["healthcheck"]["test"][0] == "CMD"
    assert set(parsed("compose.gpu.yaml")["services"]) <= set(services)


def test_the_images_install_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert len(named) == 2
    assert all(set(found.split(",")) <= set(extras) for found in named)
    assert {"server", "cpu"} <= set(named[0].split(","))
    assert {"server", "triton"} <= set(named[1].split(","))


def test_the_cache_of_the_images_is_where_the_export_says():
    (option,) = (o for o in get_command(commands.export).commands["triton"].params if o.name == "cache")
    mounted = next(v.split(":")[1] for v in parsed("compose.yaml")["services"]["triton"]["volumes"] if "built" in v)
    assert Path(str(option.default)).is_relative_to(mounted)
    assert mounted in DOCKERFILE
    assert mounted in (CHART / "templates" / "triton.yaml").read_text()


def test_every_value_that_the_chart_reads_has_a_default():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    read = set(re.findall(r"\.Values((?:\.\w+)+)", "".join(t.read_text() for t in (CHART / "templates").iterdir())))
    assert read
    for path in read:
        found = values
        for name in path.strip(".").split("."):
            assert name in found, path
            found = found[name]


def rendered(**values: Any) -> dict[tuple[str, str], Any]:
    """The chart's objects by kind and name, rendered by Helm's own engine."""
    helm = pytest.importorskip("helm_python", reason="Helm's engine is not installed: pip install helm-python-sdk")
    assert not helm.lint(str(CHART), values, strict=True)["errors"]
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="radrank", namespace="test").values()
    found = [one for text in texts for one in yaml.safe_load_all(text)]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_chart_renders_a_server_whose_engines_are_its_triton(monkeypatch, gpus):
    objects = rendered(triton={"gpus": gpus}, radrank={"environment": {"RADRANK_LIMITS__WORKERS": "8"}})
    assert set(objects) == set(product(("Deployment", "Service"), ("radrank", "radrank-triton")))
    pods = {name: objects["Deployment", name]["spec"]["template"]["spec"] for name in ("radrank", "radrank-triton")}
    server, triton = (pod["containers"][0] for pod in pods.values())
    assert pods["radrank"]["enableServiceLinks"] is False  # else RADRANK_PORT and others are in the environment
    for variable in server["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = load()
    host, _, port = str(settings.engines.triton).partition(":")
    assert int(port) in {one["port"] for one in objects["Service", host]["spec"]["ports"]}
    assert settings.limits.workers == 8
    assert triton["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus


def test_a_token_and_tls_reach_the_rendered_server():
    objects = rendered(radrank={"tokenSecret": "token", "tlsSecret": "tls"})
    pod = objects["Deployment", "radrank"]["spec"]["template"]["spec"]
    names = {variable["name"] for variable in pod["containers"][0]["env"]}
    assert {"RADRANK_TOKEN_FILE", "RADRANK_TLS__CERTIFICATE", "RADRANK_TLS__KEY"} <= names
    assert {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume} == {"token", "tls"}
