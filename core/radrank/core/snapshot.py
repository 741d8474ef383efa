"""An immutable directory built from an archive: vectors, indexes, neighbour tables, columns, and a manifest of hashes.

SNAPSHOTS/CURRENT                    the name of the directory in use
SNAPSHOTS/00000042-1f3a…/manifest.json
                         studies/    ids, patients, normal, dates, labels
                         image/      vectors, facts, study, view, views, positions, kNN tables, messages, index
                         report/     the same, without view, views and positions

A study is at most one item of each modality: its images are searched as one vector, made of all of them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radrank.core.columns import StudyColumns
from radrank.core.errors import Mismatch, NotFound
from radrank.core.files import check_files, file_table, publish, replace_text, sha256_of, write_json
from radrank.core.graph import GraphBuilder, GraphSettings
from radrank.core.layout import VectorLayout
from radrank.core.nodes import Column, Neighbours, Nodes, facts_of, neighbour_table, paired_rows
from radrank.core.pages import MappedFiles
from radrank.core.ports import ArchiveMessages, CandidateIndex, IndexFactory, Progress
from radrank.core.records import Record
from radrank.core.studies import Modality, Study
from radrank.core.vectors import Matrix, Vector, exact_neighbours

SCHEMA_VERSION = 4  # 1 held an item for each image, 2 had no beliefs, 3 had them apart from pairs and findings
_CURRENT = "CURRENT"
_IMAGE_COLUMNS: Mapping[str, type[np.integer]] = {"positions": np.int32, "view": np.int8, "views": np.uint8}
_MESSAGES = "messages-"
_BLOCK = 1_000  # items whose messages are made at once
_EXACT_TABLES = 20_000  # up to here a full scan makes the tables in seconds, and they are exact


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """The items of one modality in a snapshot, one a study, by study.

    positions: int32 [n], place of the primary image among the study's; view: int8 [n], code of its view; views:
    uint8 [n], columns.view_bits of all the study's images. All are zero for reports.
    """

    nodes: Nodes
    positions: NDArray[np.int32]
    view: NDArray[np.int8]
    views: NDArray[np.uint8]
    index: CandidateIndex

    @property
    def vectors(self) -> Matrix:
        """float32 [n, d], unit, memory-mapped."""
        return self.nodes.vectors.base

    @property
    def study(self) -> NDArray[np.int32]:
        """int32 [n], index of each item's study."""
        return self.nodes.study


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """An opened snapshot. files: what its arrays are mapped from."""

    path: Path
    manifest: Mapping[str, Any]
    sha256: str
    columns: StudyColumns
    items: Mapping[Modality, Items]
    files: MappedFiles

    @property
    def sequence(self) -> int:
        """The archive's last change that is in it."""
        return int(self.manifest["sequence"])

    @property
    def layout(self) -> VectorLayout:
        """Of its vectors."""
        return VectorLayout.from_json(self.manifest["layout"])


def current(home: Path) -> Path:
    """The snapshot directory in use below `home`. Raises NotFound."""
    pointer = home / _CURRENT
    if not pointer.is_file():
        raise NotFound(f"snapshot in {home}", "build one: radrank index build --help")
    return home / pointer.read_text(encoding="utf-8").strip()


def located(path: Path) -> Path:
    """The snapshot directory that is meant: this one, or the one in use here or in its `snapshots`. Raises NotFound."""
    if (path / "manifest.json").is_file():
        return path
    homes = [home for home in (path, path / "snapshots") if (home / _CURRENT).is_file()]
    if not homes:
        raise NotFound(f"snapshot in {path}", "build one: radrank index build --help")
    return current(homes[0])


def open_snapshot(path: Path, *, factory: IndexFactory, encoder: str | None = None) -> Snapshot:
    """Opens a snapshot after checking every hash. `encoder`: the identity its vectors must come from."""
    source = path / "manifest.json"
    if not source.is_file():
        raise NotFound(f"snapshot {path}", "it has no manifest.json")
    manifest = json.loads(source.read_text(encoding="utf-8"))
    if manifest["schema"] != SCHEMA_VERSION:
        raise Mismatch(
            f"{path} was laid out by another version; build it anew with: radrank index build",
            f"schema {SCHEMA_VERSION}",
            f"schema {manifest['schema']}",
        )
    if encoder is not None and manifest["encoder"] != encoder:
        raise Mismatch(f"{path}: encoder of its vectors", encoder[:12], str(manifest["encoder"])[:12])
    if manifest["index"] != factory.name:
        raise Mismatch(f"{path}: index", factory.name, str(manifest["index"]))
    check_files(path, manifest["files"])
    files = MappedFiles()
    nodes = open_nodes(path, files)
    return Snapshot(
        path=path,
        manifest=manifest,
        sha256=sha256_of(source),
        columns=_load_columns(path / "studies", files),
        items={m: _load_items(path / m.value, nodes[m], factory) for m in Modality},
        files=files,
    )


def open_nodes(path: Path, files: MappedFiles) -> Mapping[Modality, Nodes]:
    """What the graph reads of a snapshot, memory-mapped; hashes are not checked."""
    normal = np.load(path / "studies" / "normal.npy")
    return {m: _load_nodes(path / m.value, m, normal, files) for m in Modality}


def build_snapshot(
    home: Path,
    records: Iterable[Record],
    *,
    sequence: int,
    encoder: str,
    layout: VectorLayout,
    graph: GraphSettings,
    factory: IndexFactory,
    messages: Iterable[ArchiveMessages] = (),
    progress: Progress | None = None,
) -> Path:
    """Builds a snapshot and makes it the current one. Returns its directory.

    records: sorted by the UTF-8 bytes of their study ids; sequence: the archive's last change that is in them
    messages: the kinds that it is to hold for its items; what it lacks is made for every search
    """
    home.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=home))
    try:
        counts = _write_items(building, records, layout)
        for step, m in enumerate(Modality):
            _index(building / m.value, factory)
            if progress:
                progress(step + 1, 5)
        for step, m in enumerate(Modality):
            _write_tables(building, m, factory, graph)
            if progress:
                progress(step + 3, 5)
        for make in messages:
            _write_messages(building, layout, make)
        if progress:
            progress(5, 5)
        manifest = {
            "schema": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "sequence": sequence,
            "encoder": encoder,
            "layout": asdict(layout),
            "index": factory.name,
            "table_width": graph.table_width,
            "counts": counts,
            "files": file_table(building),
        }
        write_json(building / "manifest.json", manifest)
        final = home / f"{sequence:08d}-{sha256_of(building / 'manifest.json')[:12]}"
        if final.exists():
            shutil.rmtree(building)  # the same content was built before
        else:
            publish(building, final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    replace_text(home / _CURRENT, final.name + "\n")
    return final


def prune(home: Path, keep: Iterable[Path]) -> None:
    """Removes snapshots that nothing uses any more, and what an interrupted build left."""
    kept = {path.name for path in keep}
    for path in home.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


# -- writing ----------------------------------------------------------------------------------------------------------


class _GrowingFile:
    """A .npy of float32 [n, width] that grows by some rows at a time: the header has room for the final n."""

    def __init__(self, path: Path, width: int) -> None:
        self._file = path.open("wb")
        self._width = width
        self.rows = 0
        self._header()

    def append(self, rows: Vector | Matrix) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
        self.rows += rows.size // self._width

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()

    def _header(self) -> None:
        shape = (self.rows, self._width)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _write_items(building: Path, records: Iterable[Record], layout: VectorLayout) -> dict[str, int]:
    studies: list[Study] = []
    owners: dict[Modality, list[int]] = {m: [] for m in Modality}
    places: list[tuple[int, int, int]] = []
    files: dict[Modality, _GrowingFile] = {}
    with ExitStack() as stack:
        for m in Modality:
            (building / m.value).mkdir()
            files[m] = stack.enter_context(closing(_GrowingFile(building / m.value / "vectors.npy", layout.dimensions)))
        for row, record in enumerate(records):
            studies.append(record.study)
            item = record.image_item
            if item is not None:
                files[Modality.IMAGE].append(item.vector)
                owners[Modality.IMAGE].append(row)
                places.append((item.position, item.view, item.views))
            if record.report_vector is not None:
                files[Modality.REPORT].append(record.report_vector)
                owners[Modality.REPORT].append(row)
    for m in Modality:
        np.save(building / m.value / "study.npy", np.array(owners[m], dtype=np.int32))
    columns = np.array(places, dtype=np.int64).reshape(-1, len(_IMAGE_COLUMNS))
    for (name, dtype), column in zip(_IMAGE_COLUMNS.items(), columns.T, strict=True):
        np.save(building / "image" / f"{name}.npy", column.astype(dtype))
    about = StudyColumns.of(studies)
    _save_columns(building / "studies", about)
    _write_facts(building, about, layout)
    return {"studies": len(studies)} | {f"{m}_items": len(owners[m]) for m in Modality}


def _write_facts(building: Path, columns: StudyColumns, layout: VectorLayout) -> None:
    """What the graph tells of items, side by side: it need not read whole vectors, nor look into several columns."""
    findings = columns.findings(layout.groups)
    study = {m: np.load(building / m.value / "study.npy") for m in Modality}
    beliefs = {m: layout.beliefs(_mapped(building / m.value / "vectors.npy")) for m in Modality}
    for m in Modality:
        pairs = paired_rows(study[m], study[m.other])
        np.save(building / m.value / "facts.npy", facts_of(beliefs[m], beliefs[m.other], pairs, findings[study[m]]))


def _index(folder: Path, factory: IndexFactory) -> None:
    index = factory.build(_mapped(folder / "vectors.npy"))
    factory.save(index, folder / "index.bin")
    index.close()


def _write_tables(building: Path, m: Modality, factory: IndexFactory, graph: GraphSettings) -> None:
    queries, own = _mapped(building / m.value / "vectors.npy"), np.load(building / m.value / "study.npy")
    for name, among in (("same", m), ("cross", m.other)):
        folder = building / among.value
        gallery, studies = _mapped(folder / "vectors.npy"), np.load(folder / "study.npy")
        wanted = graph.table_width + 1  # the own study is among them
        if len(gallery) <= _EXACT_TABLES:
            rows, cosines = exact_neighbours(queries, gallery, wanted)
        else:
            index = factory.load(folder / "index.bin", gallery)
            rows, cosines = index.search(queries, wanted)
            index.close()
        table = neighbour_table(rows, cosines, own, studies, graph.table_width)
        np.save(building / m.value / f"{name}_rows.npy", table[0])
        np.save(building / m.value / f"{name}_cosines.npy", table[1])


def _write_messages(building: Path, layout: VectorLayout, make: ArchiveMessages) -> None:
    """A block at a time, from disk to disk: a server builds snapshots beside its searches, and its memory counts."""
    files = MappedFiles()
    nodes = open_nodes(building, files)
    builder = GraphBuilder(gallery=nodes, archive=nodes, layout=layout, settings=make.settings)
    for m, found in nodes.items():
        with ExitStack() as stack:
            table: _GrowingFile | None = None
            for at in range(0, len(found), _BLOCK):
                rows = np.arange(at, min(at + _BLOCK, len(found)))
                told = make(builder.around(m, rows))[0, : len(rows)]
                if table is None:
                    path = building / m.value / f"{_MESSAGES}{make.key}.npy"
                    table = stack.enter_context(closing(_GrowingFile(path, told.shape[1])))
                table.append(told)
                files.trim()


def _save_columns(folder: Path, columns: StudyColumns) -> None:
    folder.mkdir()
    for name in ("ids", "patients", "normal", "dates"):
        np.save(folder / f"{name}.npy", getattr(columns, name))
    names = list(columns.labels)
    lengths = [len(columns.labels[name]) for name in names]
    write_json(folder / "labels.json", {"labels": names})
    np.save(folder / "label_offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
    np.save(folder / "label_rows.npy", np.concatenate([np.empty(0, np.int32), *columns.labels.values()]))


# -- reading ----------------------------------------------------------------------------------------------------------


def _mapped(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def _load_columns(folder: Path, files: MappedFiles) -> StudyColumns:
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["labels"]
    offsets, rows = np.load(folder / "label_offsets.npy"), np.load(folder / "label_rows.npy")
    return StudyColumns(
        ids=files.open(folder / "ids.npy"),
        patients=np.load(folder / "patients.npy"),
        normal=np.load(folder / "normal.npy"),
        dates=np.load(folder / "dates.npy"),
        labels={name: rows[offsets[i] : offsets[i + 1]] for i, name in enumerate(names)},
    )


def _load_items(folder: Path, nodes: Nodes, factory: IndexFactory) -> Items:
    shown = {
        name: np.load(folder / f"{name}.npy") if (folder / f"{name}.npy").exists() else np.zeros(len(nodes), dtype)
        for name, dtype in _IMAGE_COLUMNS.items()
    }
    index = factory.load(folder / "index.bin", nodes.vectors.base, target=nodes.modality)
    return Items(nodes=nodes, **shown, index=index)


def _load_nodes(folder: Path, m: Modality, normal: NDArray[np.int8], files: MappedFiles) -> Nodes:
    study = np.load(folder / "study.npy")
    return Nodes(
        modality=m,
        vectors=Column(files.open(folder / "vectors.npy")),
        facts=Column(files.open(folder / "facts.npy", keep=True)),
        study=study,
        same=_load_table(folder, "same", files),
        cross=_load_table(folder, "cross", files),
        normal=normal[study],
        alive=np.ones(len(study), dtype=np.bool_),
        messages={path.stem.removeprefix(_MESSAGES): files.open(path) for path in folder.glob(f"{_MESSAGES}*.npy")},
    )


def _load_table(folder: Path, name: str, files: MappedFiles) -> Neighbours:
    return Neighbours(
        rows=Column(files.open(folder / f"{name}_rows.npy")), cosines=Column(files.open(folder / f"{name}_cosines.npy"))
    )
