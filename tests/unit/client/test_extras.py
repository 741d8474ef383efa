"""The package's extras: what each brings, and what the documents tell to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BUILDS = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "triton" / "README.md"]


def brought(extra: str) -> set[str]:
    """Names of the packages that an extra asks for, by other extras too."""
    found: set[str] = set()
    for requirement in EXTRAS[extra]:
        own = re.match(r"radrank\[([\w,-]+)\]", requirement)
        names = own[1].split(",") if own else []
        found |= set().union(*map(brought, names)) if own else {re.split(r"[^\w-]", requirement)[0]}
    return found


def test_no_extra_but_cpu_and_gpu_brings_a_build_of_onnxruntime():
    assert {extra: brought(extra) & {*BUILDS.values()} for extra in BUILDS} == {k: {v} for k, v in BUILDS.items()}
    bring = {extra for extra in EXTRAS if brought(extra) & {*BUILDS.values()}}
    assert bring == {*BUILDS, "dev"}, "both are one import package, and overwrite each other"
    assert brought("dev") & {*BUILDS.values()} == {"onnxruntime"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_the_documents_install_are_extras_that_go_together(page):
    for said in re.findall(r"radrank\[([\w,-]+)\]", page.read_text()):
        extras = said.split(",")
        assert set(extras) <= set(EXTRAS), said
        builds = set().union(*map(brought, extras)) & {*BUILDS.values()}
        assert len(builds) <= 1, said
        if "server" in extras:
            assert builds, f"{said} can't run a model"
