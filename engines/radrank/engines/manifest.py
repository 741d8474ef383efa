"""What stands in a bundle's `bundle.json`.

BUNDLE/bundle.json            this manifest, with the sha256 of every other file
       image_encoder.onnx     pixels uint8 [B, S, S] → vectors float32 [B, d], unit
       text_encoder.onnx      ids int64 [B, T] → vectors float32 [B, d], unit
       tokenizer.json         of the tokenizers library
       classifier.npz         <modality>_weight [d], <modality>_bias: logit of an abnormal study
       reranker_<name>.onnx   a GraphBatch's arrays → scores float32 [B, K]
       messages_<name>.onnx   those of what candidates hear from the archive → messages float32 [B, K, w], where the
                              re-ranker reads these instead
       golden.npz             made-up queries and what the trained model answers
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.files import check_files, sha256_of
from radrank.core.graph import GraphSettings
from radrank.core.layout import VectorLayout

MANIFEST = "bundle.json"
SCHEMA_VERSION = 3  # 1 did not tell the layout of its vectors, 2 had nothing for its golden queries to rank


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoderEntry:
    """size: side of the square gray image in pixels."""

    file: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderEntry:
    """buckets: token counts that a batch is padded to, ascending; max_tokens: longer texts are cut."""

    file: str
    tokenizer: str
    pad_id: int
    max_tokens: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MessagesEntry:
    """inputs: as a re-ranker's; width: numbers that each candidate is told."""

    file: str
    inputs: tuple[str, ...]
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerEntry:
    """inputs: names of GraphBatch arrays, in the order of the ONNX inputs; shuffled: reads a graph whose edges are;
    messages: what makes those that it reads."""

    file: str
    inputs: tuple[str, ...]
    shuffled: bool = False
    messages: MessagesEntry | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Of its models."""
        return (self.file,) if self.messages is None else (self.file, self.messages.file)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RerankerEntry:
        """Raises KeyError or TypeError where fields are missing or unknown."""
        told = found.get("messages")
        messages = MessagesEntry(**{**told, "inputs": tuple(told["inputs"])}) if told else None
        return cls(**{**found, "inputs": tuple(found["inputs"]), "messages": messages})


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleManifest:
    """training: data set, split, counts, settings and versions; quality: validation metrics, by model."""

    name: str
    created: str
    layout: VectorLayout
    precision: str
    image: ImageEncoderEntry
    text: TextEncoderEntry
    classifier: str
    rerankers: Mapping[str, RerankerEntry]
    default_reranker: str
    graph: GraphSettings
    golden: str
    training: Mapping[str, Any]
    quality: Mapping[str, Any]
    files: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)

    @property
    def encoder_id(self) -> str:
        """Identity of the vector space: vectors of bundles with equal ids may stand in one index."""
        import hashlib

        parts = [self.files[name]["sha256"] for name in (self.image.file, self.text.file, self.text.tokenizer)]
        return hashlib.sha256(json.dumps([*parts, self.image.size, self.text.max_tokens]).encode()).hexdigest()

    @property
    def named_files(self) -> list[str]:
        """Files that opening the bundle reads."""
        return [*self.model_files, self.text.tokenizer, self.classifier, self.golden]

    @property
    def model_files(self) -> list[str]:
        """Those that a runtime opens; the others are read here."""
        return [self.image.file, self.text.file, *(file for entry in self.rerankers.values() for file in entry.files)]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> BundleManifest:
        """Raises KeyError or TypeError where fields are missing or unknown."""
        values = {name: value for name, value in found.items() if name != "schema"}
        rerankers = {name: RerankerEntry.from_json(entry) for name, entry in values["rerankers"].items()}
        text = TextEncoderEntry(**{**values["text"], "buckets": tuple(values["text"]["buckets"])})
        return cls(
            **{
                **values,
                "layout": VectorLayout.from_json(values["layout"]),
                "image": ImageEncoderEntry(**values["image"]),
                "text": text,
                "rerankers": rerankers,
                "graph": GraphSettings.from_json(values["graph"]),
            }
        )


def read_manifest(bundle: Path, *, models: bool = True) -> tuple[BundleManifest, str]:
    """The manifest of a bundle directory and its own sha256, after checking the hash of every file.

    models: False where the model files lie elsewhere. Raises NotFound, Corrupt or Mismatch.
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise NotFound(f"bundle {bundle}", "it has no bundle.json; make one: radrank export --help")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(str(path), "a bundle's manifest", type(error).__name__) from error
    if schema != SCHEMA_VERSION:
        raise Mismatch(f"{path}: schema", str(SCHEMA_VERSION), str(schema))
    try:
        manifest = BundleManifest.from_json(found)
    except (KeyError, TypeError, AttributeError) as error:
        names = ", ".join(entry.name for entry in fields(BundleManifest))
        raise Corrupt(str(path), f"the fields {names}", str(error)) from error
    for name in manifest.named_files:
        if name not in manifest.files:
            raise Corrupt(str(path), "the hash of every file it names", "a file without one")
    elsewhere = () if models else manifest.model_files
    check_files(bundle, {name: file for name, file in manifest.files.items() if name not in elsewhere})
    return manifest, sha256_of(path)
