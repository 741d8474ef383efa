"""A Triton model repository from a bundle and a snapshot: whole in itself, so that it may be moved to another host.

TO/repository.json          what it was made from; Triton does not read it
   image_encoder/, text_encoder/, reranker_<name>/     config.pbtxt, 1/model.…
   radrank_search/          config.pbtxt, warmup/, 1/ (see radrank.engines.kserve.exported)

Files of the bundle and the snapshot, which never change, are hard links where the file system allows it, else copies.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrank.core.archive import Archive
from radrank.core.errors import Corrupt, InvalidQuery, Mismatch, NotFound
from radrank.core.files import check_files, publish, write_json
from radrank.core.layout import VectorLayout
from radrank.core.snapshot import SCHEMA_VERSION, located
from radrank.engines.encoder import Tokens
from radrank.engines.kserve.config import model_config_pb2
from radrank.engines.kserve.exported import BUNDLE, MODELS, SEARCH, SNAPSHOT, TUNING, VERSION, write_models
from radrank.engines.manifest import MANIFEST, BundleManifest, read_manifest
from radrank.engines.models import models
from radrank.engines.plans import plans_of
from radrank.export.triton_config import Placed, place
from radrank.export.triton_models import Source, TritonSettings, source_of
from radrank.export.triton_search import search_config, warm_up_files

MARK = "repository.json"
_CODE = '''"""Written by `radrank export triton`. Triton's Python needs: pip install "radrank[server,cpu]"."""

from radrank.server.triton.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

Step = Callable[[str], None]
"""Told the name of each step as it begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """models: as they were placed; behind: changes of the archive that came after its snapshot, and are not in it."""

    path: Path
    models: Sequence[Placed]
    behind: int


def write_repository(
    bundle: Path, snapshot: Path, to: Path, settings: TritonSettings, *, plans: Path | None = None, step: Step
) -> Written:
    """Writes the repository, which appears whole or not at all. One that stands at `to` is replaced.

    snapshot: its directory, or an archive's home; plans: of TensorRT, None for BUNDLE.plans beside the bundle

    Raises MissingExtra, NotFound, Corrupt, Mismatch where bundle and snapshot do not belong together, InvalidQuery
    where something else stands at `to`.
    """
    model_config_pb2()  # what is missing should be said before anything is done
    _check_place(to)
    step("checking the bundle")
    manifest, sha256 = read_manifest(bundle)
    step("checking the snapshot")
    source = located(snapshot)
    behind = _behind(source, _checked(source, manifest))
    placed = [place(one, settings) for one in _sources(bundle, manifest, sha256, settings, plans, step)]
    to.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=to.parent))
    try:
        step("writing")
        for one in placed:
            _write_model(building, one)
        _write_search(building, bundle, manifest, sha256, source, placed, settings.instances)
        made = {"bundle": manifest.name, "bundle_sha256": sha256, "snapshot": source.name, "created": manifest.created}
        write_json(building / MARK, {**made, "models": {one.source.name: one.runtime for one in placed}})
        _exchange(building, to)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Written(path=to, models=placed, behind=behind)


def _sources(
    bundle: Path, manifest: BundleManifest, sha256: str, settings: TritonSettings, plans: Path | None, step: Step
) -> list[Source]:
    many = models(bundle, manifest, batches=(settings.batch,))
    single = models(bundle, manifest, batches=(1,))
    vocabulary = Tokens(bundle / manifest.text.tokenizer, manifest.text).vocabulary
    found = []
    for name, model in many.items():
        step(name)
        found.append(
            source_of(
                model,
                single[name],
                bundle_sha256=sha256,
                vocabulary=vocabulary if model.path.name == manifest.text.file else 0,
                plans=plans or plans_of(bundle),
                precision=settings.precision,
            )
        )
    return found


def _write_model(root: Path, placed: Placed) -> None:
    folder = root / placed.source.name
    version = folder / VERSION
    version.mkdir(parents=True)
    _write_config(folder, placed.config)
    if placed.python:
        (version / "model.py").write_text(_CODE.format(module="model"), encoding="utf-8")
    for name, path in placed.files.items():
        _link(path, version / name)


def _write_search(
    root: Path,
    bundle: Path,
    manifest: BundleManifest,
    sha256: str,
    snapshot: Path,
    placed: Sequence[Placed],
    instances: int,
) -> None:
    folder = root / SEARCH
    version = folder / VERSION
    version.mkdir(parents=True)
    _write_config(folder, search_config(manifest, sha256, bundle / manifest.golden, snapshot.name, instances))
    (folder / "warmup").mkdir()
    for name, content in warm_up_files(bundle / manifest.golden).items():
        (folder / "warmup" / name).write_bytes(content)
    (version / "model.py").write_text(_CODE.format(module="search"), encoding="utf-8")
    write_models(version / MODELS, {one.source.name: one.exported for one in placed})
    for name in (MANIFEST, *(name for name in manifest.files if name not in manifest.model_files)):
        _link(bundle / name, version / BUNDLE / name)
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            _link(path, version / SNAPSHOT / path.relative_to(snapshot))
    tuning = snapshot.parents[1] / TUNING
    if tuning.is_file():
        shutil.copyfile(tuning, version / TUNING)  # not linked: tuning replaces it


def _write_config(folder: Path, config: Any) -> None:
    from google.protobuf import text_format

    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")


def _checked(snapshot: Path, bundle: BundleManifest) -> Mapping[str, Any]:
    """What the snapshot says of itself, after checking every hash. Raises Mismatch where it is not this bundle's."""
    source = snapshot / "manifest.json"
    try:
        said = json.loads(source.read_text(encoding="utf-8"))
        found = {name: said[name] for name in ("schema", "encoder", "table_width")}
        layout, files = VectorLayout.from_json(said["layout"]), said["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(str(source), "a snapshot's manifest", type(error).__name__) from error
    wanted = {"schema": SCHEMA_VERSION, "encoder": bundle.encoder_id, "table_width": bundle.graph.table_width}
    cure = "make one with: radrank index build --bundle …"
    for name, value in wanted.items():
        if found[name] != value:
            raise Mismatch(f"{snapshot}: {name}; {cure}", str(value)[:12], str(found[name])[:12])
    if layout != bundle.layout:
        raise Mismatch(f"{snapshot}: layout; {cure}", "the bundle's", "another")
    check_files(snapshot, files)
    return dict(said)


def _behind(snapshot: Path, said: Mapping[str, Any]) -> int:
    """Changes in the archive of the snapshot's home that it does not hold; 0 where it lies alone."""
    database = snapshot.parents[1] / "archive.sqlite"
    if not database.is_file():
        return 0
    archive = Archive(database)
    try:
        return max(0, archive.sequence - int(said["sequence"]))
    finally:
        archive.close()


def _check_place(to: Path) -> None:
    if to.exists() and not (to / MARK).is_file() and not (to.is_dir() and not any(to.iterdir())):
        raise InvalidQuery("to", f"{to} exists and is no exported repository; choose another directory")


def _exchange(building: Path, to: Path) -> None:
    """Puts what was built at its place; what stood there goes when the new one is there."""
    if not to.exists():
        publish(building, to)
        return
    old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=to.parent)) / to.name
    to.rename(old)
    try:
        publish(building, to)
    except BaseException:
        old.rename(to)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise NotFound(f"file {source}")
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
