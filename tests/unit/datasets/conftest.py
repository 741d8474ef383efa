"""Made-up collections in the layouts that their users have, and encoded images of every kind."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    """uint8 [height, width], black at the left, white at the right."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def dicom(pixels: np.ndarray | None = None, *, syntax: str = "1.2.840.10008.1.2.1", **tags: Any) -> bytes:
    """A DICOM file of 16-bit (or 8-bit) monochrome pixels; tags override what is usual."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = tags.get("SOPInstanceUID", "1.2.3")
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = np.tile(np.arange(0, 4000, 100, dtype=np.uint16), (30, 1)) if pixels is None else pixels
    bits = pixels.dtype.itemsize * 8
    usual = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2",
        "PatientID": "p1",
        "Modality": "DX",
        "ViewPosition": "PA",
        "StudyDate": "20200131",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    for name, value in (usual | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


class Files:
    """A folder to fill: `files.put("a/b.csv", "text")`; names that end in .gz are packed."""

    encoded = staticmethod(encoded)
    ramp = staticmethod(ramp)
    png_header = staticmethod(png_header)
    dicom = staticmethod(dicom)

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    def image(self, name: str) -> Path:
        return self.put(name, encoded(ramp()))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


Report = Callable[..., str]


def openi_report(
    number: int, *, major: tuple[str, ...] = ("normal",), findings: str = "", impression: str = "", images: Any = ()
) -> str:
    terms = "".join(f"<major>{term}</major>" for term in major)
    named = "".join(f'<parentImage id="{image}"><caption>x</caption></parentImage>' for image in images)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id=" CXR{number} "/><MedlineCitation><Article><Abstract>
  <AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Cough</AbstractText>
  <AbstractText Label="FINDINGS"> {findings}
  </AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{terms}<automatic>lung</automatic></MeSH>{named}</eCitation>"""


@pytest.fixture
def openi(files: Files) -> Files:
    """Open-i's layout: reports 1 and 10 and 2, whole; to be filled with awkward ones."""
    files.put(
        "projections.csv",
        "uid,filename,projection\n"
        "1,CXR1_1_IM-0001-3001.jpg,Lateral\n1,CXR1_1_IM-0001-4001.jpg,Frontal\n2,2_IM-7-1.dcm.png,Frontal\n",
    )
    files.image("images/CXR1_1_IM-0001-3001.jpg")
    files.image("images/CXR1_1_IM-0001-4001.jpg")
    files.image("images/CXR2_IM-7-1.jpg")
    both = ("CXR1_1_IM-0001-3001", " CXR1_1_IM-0001-4001 ")
    files.put("ecgen-radiology/1.xml", openi_report(1, findings="Clear lungs.", impression="Normal.", images=both))
    files.put("ecgen-radiology/10.xml", openi_report(10, major=("Cardiomegaly/mild",), impression="Large heart."))
    files.put("ecgen-radiology/2.xml", openi_report(2, major=("Opacity/lung/base",), images=("CXR2_IM-7-1",)))
    return files


@pytest.fixture
def report() -> Report:
    return openi_report


@pytest.fixture
def mimic(files: Files) -> Files:
    """MIMIC-CXR-JPG's layout: two subjects, three studies, the second without a report."""
    files.put(
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime\n"
        "aa-1,10000032,50414267,CHEST,PA,3056,2544,21800506,213014.531\n"
        "aa-2,10000032,50414267,CHEST,LL,3056,2544,21800506,213014.531\n"
        "bb-1,10000032,9,CHEST,,3056,2544,21800626,165500.312\n"
        "cc-1,11000011,50000001,CHEST,AP,2544,3056,21910101,1.0\n",
    )
    files.put(
        "mimic-cxr-2.0.0-chexpert.csv.gz",
        "subject_id,study_id,Atelectasis,Edema,No Finding,Pleural Effusion,Support Devices\n"
        "10000032,50414267,,,1.0,0.0,1.0\n10000032,9,,,,,\n11000011,50000001,1.0,-1.0,,1.0,1.0\n",
    )
    files.put(
        "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split\n"
        "aa-1,50414267,10000032,train\naa-2,50414267,10000032,train\ncc-1,50000001,11000011,validate\n",
    )
    files.image("files/p10/p10000032/s50414267/aa-1.jpg")
    files.image("files/p10/p10000032/s50414267/aa-2.jpg")
    files.image("files/p10/p10000032/s9/bb-1.jpg")
    files.put("files/p11/p11000011/s50000001/cc-1.dcm", b"not read here")
    text = "                                 FINAL REPORT\n FINDINGS:  Clear\n lungs.\n \n IMPRESSION:  Normal.\n"
    files.put("files/p10/p10000032/s50414267.txt", text)
    files.put("mimic-cxr-reports/files/p11/p11000011/s50000001.txt", text.replace("Normal", "Effusion"))
    return files
