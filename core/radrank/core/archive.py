"""The studies, kept in SQLite: a write is acknowledged when it is durable."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from radrank.core.errors import Mismatch, NotFound
from radrank.core.records import Record
from radrank.core.studies import Split, Study, StudyImage, View

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE studies (
    study_id TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    patient_id TEXT NOT NULL,
    findings TEXT NOT NULL,
    impression TEXT NOT NULL,
    labels TEXT NOT NULL,
    uncertain TEXT NOT NULL,
    normal INTEGER,
    date TEXT,
    split TEXT,
    report_vector BLOB
);
CREATE INDEX studies_by_sequence ON studies (sequence);
CREATE TABLE images (
    study_id TEXT NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    image_id TEXT NOT NULL,
    view TEXT NOT NULL,
    vector BLOB NOT NULL,
    preview BLOB NOT NULL,
    PRIMARY KEY (study_id, position)
);
CREATE TABLE deletions (study_id TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE INDEX deletions_by_sequence ON deletions (sequence);
"""
_STUDY_FIELDS = (
    "study_id, patient_id, findings, impression, labels, uncertain, normal, date, split, report_vector, sequence"
)
_AT_ONCE = 400  # rows of one VALUES clause: SQLite takes 999 variables wherever it was built


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveCounts:
    """Rows in the archive; labels, most frequent first."""

    studies: int
    images: int
    reports: int
    normal: int
    abnormal: int
    labels: tuple[tuple[str, int], ...]


class Archive:
    """Studies with their vectors, in one SQLite file in WAL mode. Thread-safe; one writer at a time.

    Every change takes the next sequence number; `changes_since` replays what a snapshot has not seen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._writer = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._create()

    @property
    def sequence(self) -> int:
        """Number of the last change; 0 for an archive that has seen none."""
        return int(self._meta("sequence") or 0)

    @property
    def encoder(self) -> str | None:
        """Identity of the encoder whose space the vectors are in, or None while the archive is empty."""
        return self._meta("encoder")

    def upsert(self, records: Sequence[Record], *, encoder: str) -> tuple[int, int, int]:
        """Adds or replaces studies in one durable transaction. Returns (added, replaced, sequence)."""
        with self._transaction() as db:
            found = self._meta("encoder")
            if found is not None and found != encoder:
                raise Mismatch("the archive's vectors", f"encoder {encoder[:12]}", f"encoder {found[:12]}")
            self._set_meta(db, "encoder", encoder)
            sequence = self._next_sequence(db)
            replaced = 0
            for record in records:  # one by one: of several with one id the last stays
                replaced += self._remove(db, record.study.study_id)
                self._insert(db, record, sequence)
        return len(records) - replaced, replaced, sequence

    def delete(self, study_ids: Iterable[str]) -> tuple[int, int]:
        """Removes studies in one durable transaction. Returns (deleted, sequence)."""
        with self._transaction() as db:
            sequence = self._next_sequence(db)
            deleted = 0
            for study_id in dict.fromkeys(study_ids):
                if self._remove(db, study_id):
                    deleted += 1
                    db.execute("INSERT OR REPLACE INTO deletions VALUES (?, ?)", (study_id, sequence))
        return deleted, sequence

    def clear(self) -> None:
        """Removes every study, as before an import that replaces the archive. The sequence goes on."""
        with self._transaction() as db:
            sequence = self._next_sequence(db)
            db.execute("INSERT OR REPLACE INTO deletions SELECT study_id, ? FROM studies", (sequence,))
            db.execute("DELETE FROM studies")
            db.execute("DELETE FROM meta WHERE key = 'encoder'")

    def replace_vectors(self, records: Iterable[Record], *, encoder: str) -> int:
        """Gives every study the vectors of another encoder, in one durable transaction. Returns the sequence.

        records: every study of the archive, such as `records()` yields; only their vectors are read. Raises Mismatch
        where they are not as many as the archive's.
        """
        with self._transaction() as db:
            sequence, given = self._next_sequence(db), 0
            self._set_meta(db, "encoder", encoder)
            for record in records:
                given += 1
                study_id, vector = record.study.study_id, record.report_vector
                report = None if vector is None else _blob(vector)
                db.execute(
                    "UPDATE studies SET report_vector = ?, sequence = ? WHERE study_id = ?",
                    (report, sequence, study_id),
                )
                db.executemany(
                    "UPDATE images SET vector = ? WHERE study_id = ? AND position = ?",
                    [(_blob(vector), study_id, position) for position, vector in enumerate(record.image_vectors)],
                )
            held = db.execute("SELECT COUNT(*) FROM studies").fetchone()[0]
            if held != given:
                raise Mismatch("studies with new vectors", str(held), str(given))
        return sequence

    def record(self, study_id: str, *, previews: bool = False) -> Record:
        """One study. Raises NotFound."""
        row = self._db.execute(f"SELECT {_STUDY_FIELDS} FROM studies WHERE study_id = ?", (study_id,)).fetchone()  # noqa: S608
        if row is None:
            raise NotFound("study")
        return self._record(self._db, row, previews=previews)

    def records(self, *, since: int = 0, previews: bool = False) -> Iterator[Record]:
        """Studies changed after this sequence number, in the order of their ids' UTF-8 bytes."""
        db = self._connect()  # a reader of its own: the iteration sees one state, whatever is written meanwhile
        try:
            db.execute("BEGIN")
            query = f"SELECT {_STUDY_FIELDS} FROM studies WHERE sequence > ? ORDER BY study_id"  # noqa: S608
            for row in db.execute(query, (since,)):
                yield self._record(db, row, previews=previews)
        finally:
            db.close()

    def changes_since(self, sequence: int) -> tuple[list[tuple[int, Record]], list[str], int]:
        """What happened after `sequence`, in one consistent read.

        Returns changed studies with their sequence numbers, in the order of change; ids of the deleted; and the
        number of the last change.
        """
        db = self._connect()
        try:
            db.execute("BEGIN")
            query = f"SELECT {_STUDY_FIELDS} FROM studies WHERE sequence > ? ORDER BY sequence, rowid"  # noqa: S608
            rows = db.execute(query, (sequence,)).fetchall()
            changed = [(int(row[10]), self._record(db, row, previews=False)) for row in rows]
            gone = [row[0] for row in db.execute("SELECT study_id FROM deletions WHERE sequence > ?", (sequence,))]
            last = db.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()
            return changed, gone, int(last[0]) if last else 0
        finally:
            db.close()

    def forget_deletions(self, sequence: int) -> None:
        """Drops the marks of deletions that every snapshot in use has seen."""
        with self._transaction() as db:
            db.execute("DELETE FROM deletions WHERE sequence <= ?", (sequence,))

    def preview(self, study_id: str, position: int) -> bytes:
        """The stored JPEG of one image. Raises NotFound."""
        query = "SELECT preview FROM images WHERE study_id = ? AND position = ?"
        row = self._db.execute(query, (study_id, position)).fetchone()
        if row is None:
            raise NotFound("image")
        return bytes(row[0])

    def image_ids(self, items: Sequence[tuple[str, int]]) -> list[str | None]:
        """Ids of images, given by study and position, in one read; None for an image that is no more."""
        found: dict[tuple[str, int], str] = {}
        for start in range(0, len(items), _AT_ONCE):
            some = items[start : start + _AT_ONCE]
            query = (
                f"WITH wanted (study_id, position) AS (VALUES {', '.join(['(?, ?)'] * len(some))}) "  # noqa: S608
                "SELECT study_id, position, image_id FROM wanted JOIN images USING (study_id, position)"
            )
            rows = self._db.execute(query, [value for item in some for value in item])
            found |= {(study_id, position): image_id for study_id, position, image_id in rows}
        return [found.get(item) for item in items]

    def counts(self) -> ArchiveCounts:
        """How much the archive holds."""
        one = "SELECT COUNT(*), COUNT(report_vector), SUM(normal = 1), SUM(normal = 0) FROM studies"
        studies, reports, normal, abnormal = self._db.execute(one).fetchone()
        images = self._db.execute("SELECT COUNT(*) FROM images").fetchone()[0]
        labels = self._db.execute(
            "SELECT value, COUNT(*) AS n FROM studies, json_each(labels) GROUP BY value ORDER BY n DESC, value"
        ).fetchall()
        return ArchiveCounts(
            studies=studies,
            images=images,
            reports=reports,
            normal=normal or 0,
            abnormal=abnormal or 0,
            labels=tuple((label, n) for label, n in labels),
        )

    def close(self) -> None:
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _insert(self, db: sqlite3.Connection, record: Record, sequence: int) -> None:
        study = record.study
        db.execute("DELETE FROM deletions WHERE study_id = ?", (study.study_id,))
        db.execute(
            "INSERT INTO studies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                study.study_id,
                sequence,
                study.patient_id,
                study.findings,
                study.impression,
                json.dumps(study.labels),
                json.dumps(study.uncertain),
                None if study.normal is None else int(study.normal),
                study.date.isoformat() if study.date else None,
                study.split,
                None if record.report_vector is None else _blob(record.report_vector),
            ),
        )
        db.executemany(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)",
            [
                (study.study_id, position, image.image_id, image.view.value, _blob(vector), image.read())
                for position, (image, vector) in enumerate(zip(study.images, record.image_vectors, strict=True))
            ],
        )

    def _remove(self, db: sqlite3.Connection, study_id: str) -> bool:
        return db.execute("DELETE FROM studies WHERE study_id = ?", (study_id,)).rowcount > 0

    def _record(self, db: sqlite3.Connection, row: tuple[object, ...], *, previews: bool) -> Record:
        study_id, patient, findings, impression, labels, uncertain, normal, day, split, vector, _ = row
        preview = "preview" if previews else "x''"
        query = f"SELECT image_id, view, vector, {preview} FROM images WHERE study_id = ? ORDER BY position"  # noqa: S608
        images = db.execute(query, (study_id,)).fetchall()
        study = Study(
            study_id=str(study_id),
            patient_id=str(patient),
            findings=str(findings),
            impression=str(impression),
            images=tuple(StudyImage(image_id=i, view=View(v), content=bytes(p)) for i, v, _, p in images),
            labels=tuple(json.loads(str(labels))),
            uncertain=tuple(json.loads(str(uncertain))),
            normal=None if normal is None else bool(normal),
            date=date.fromisoformat(str(day)) if day else None,
            split=Split(str(split)) if split else None,
        )
        vectors = [np.frombuffer(image[2], dtype="<f4") for image in images]
        return Record(
            study=study,
            image_vectors=np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32),
            report_vector=np.frombuffer(vector, dtype="<f4") if isinstance(vector, bytes) else None,
        )

    # -- connections --------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise Mismatch(f"{self.path}: schema", str(_SCHEMA_VERSION), str(version))

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's own connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            with self._guard:
                self._connections.append(connection)
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=30.0)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writer:
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _set_meta(self, db: sqlite3.Connection, key: str, value: str) -> None:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _next_sequence(self, db: sqlite3.Connection) -> int:
        sequence = self.sequence + 1
        self._set_meta(db, "sequence", str(sequence))
        return sequence


def _blob(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()
