"""What `radrank index tune` finds for an archive, and keeps in its home for `radrank serve`.

index.json: {"hnsw m=32 ef_construction=200": {"k": 100, "recall": 0.95, "directions": {"image → report": {"ef": 161, …
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from radrank.core.errors import Corrupt, InvalidQuery
from radrank.core.files import replace_text
from radrank.core.graph import DIRECTIONS
from radrank.core.ports import IndexFactory
from radrank.core.snapshot import Snapshot
from radrank.core.studies import Modality
from radrank.engines.index import Direction, HnswFactory, HnswIndex
from radrank.engines.tuning import RECALL, K, Tuned, smallest_ef, steps
from radrank.server.home import tuning_of

QUERIES = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedDirection:
    """One direction. rows: of what is searched."""

    source: Modality
    target: Modality
    rows: int
    found: Tuned

    @property
    def name(self) -> str:
        return _name((self.source, self.target))


def tune(
    snapshot: Snapshot,
    *,
    k: int = K,
    recall: float = RECALL,
    queries: int = QUERIES,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> Iterator[TunedDirection]:
    """The smallest ef of every direction that has items on both sides, found with the archive's own as queries.

    queries: at most, drawn by the seed; step: called at most `tuning_steps` times. Raises InvalidQuery where the index
    has no ef.
    """
    chosen: dict[Modality, Any] = {}
    for m, items in snapshot.items.items():
        drawn = np.random.default_rng(seed).choice(len(items.vectors), min(queries, len(items.vectors)), replace=False)
        chosen[m] = items.vectors[np.sort(drawn)]
    for source, target in DIRECTIONS:
        items = snapshot.items[target]
        if not isinstance(items.index, HnswIndex):
            raise InvalidQuery(
                "index", "an exact scan has nothing to tune; build with: radrank index build --index hnsw"
            )
        if len(items.vectors) and len(chosen[source]):
            before = items.index.ef_of(source)
            found = smallest_ef(
                items.index, chosen[source], items.vectors, before=before, k=k, recall=recall, step=step
            )
            yield TunedDirection(source=source, target=target, rows=len(items.vectors), found=found)
        snapshot.files.trim()


def tuning_steps(snapshot: Snapshot, k: int = K) -> int:
    """The most often that `tune` calls `step`."""
    return sum(steps(len(snapshot.items[target].vectors), k) for _, target in DIRECTIONS)


def save_tuning(root: Path, index: str, directions: list[TunedDirection], *, k: int, recall: float) -> Path:
    """Keeps what was found for an index of this name in the home; what stands there for other kinds stays."""
    path = tuning_of(root)
    kept = _read(path)
    kept[index] = {
        "tuned": datetime.now(UTC).isoformat(timespec="seconds"),
        "k": k,
        "recall": recall,
        "directions": {
            one.name: {"rows": one.rows, "queries": one.found.queries, **_rounded(asdict(one.found.after))}
            for one in directions
        },
    }
    replace_text(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    return path


def tuned(factory: IndexFactory, root: Path) -> IndexFactory:
    """The factory whose indexes look as far as the home's tuning says; the same one where that does not speak of it.

    Raises Corrupt where the file is not what `radrank index tune` writes.
    """
    path = tuning_of(root)
    kept = _read(path)
    if not isinstance(factory, HnswFactory) or not kept:
        return factory
    if factory.name not in kept:
        _log.warning("%s was written for another index than %s: radrank index tune", path, factory.name)
        return factory
    try:
        found = kept[factory.name]["directions"]
        names: Mapping[str, Direction] = {_name(direction): direction for direction in DIRECTIONS}
        efs = {names[name]: int(one["ef"]) for name, one in found.items()}
        asked = int(kept[factory.name]["k"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _corrupt(path, type(error).__name__) from error
    _log.info("index: %s", ", ".join(f"{_name(direction)} ef {ef}" for direction, ef in efs.items()))
    return HnswFactory(factory.settings, efs=efs, asked=asked)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _corrupt(path, "no JSON") from error
    if not isinstance(kept, dict):
        raise _corrupt(path, type(kept).__name__)
    return kept


def _corrupt(path: Path, found: str) -> Corrupt:
    return Corrupt(f"{path}; remove it, or write it anew with: radrank index tune", "what that writes", found)


def _name(direction: Direction) -> str:
    return f"{direction[0]} → {direction[1]}"


def _rounded(effort: Mapping[str, float]) -> dict[str, float]:
    return {name: value if name == "ef" else round(value, 4) for name, value in effort.items()}
