from __future__ import annotations

import sys
from datetime import date

import pytest

from radrank.core.errors import BadStudy, MissingExtra
from radrank.core.studies import View
from radrank.datasets import _pydicom
from radrank.datasets.dicom import DicomFolder


@pytest.fixture
def archive(files):
    files.put("b/one.dcm", files.dicom(StudyInstanceUID="1.10", SOPInstanceUID="1.10.1"))
    files.put("b/deep/two", files.dicom(StudyInstanceUID="1.9", SOPInstanceUID="1.9.1", ViewPosition="LL"))
    files.put("a/three.dcm", files.dicom(StudyInstanceUID="1.9", SOPInstanceUID="1.9.2", Modality="CR", StudyDate=""))
    return files


def test_headers_say_which_files_are_one_study(archive):
    first, second = DicomFolder(archive.root)
    assert (first.study_id, second.study_id) == ("1.9", "1.10")
    assert [(image.image_id, image.view) for image in first.images] == [("1.9.2", View.PA), ("1.9.1", View.LATERAL)]
    assert (second.patient_id, second.date, second.report) == ("p1", date(2020, 1, 31), "")


def test_pixels_are_not_read(archive):
    path = archive.root / "b/one.dcm"
    path.write_bytes(path.read_bytes()[:-1000])
    assert len(DicomFolder(archive.root)) == 2


def test_other_modalities_copies_and_foreign_files_are_left_out(archive):
    archive.put("ct.dcm", archive.dicom(Modality="CT"))
    archive.put("copy.dcm", archive.dicom(StudyInstanceUID="1.9", SOPInstanceUID="1.9.2"))
    archive.put("unnamed.dcm", archive.dicom(StudyInstanceUID="1.11", SOPInstanceUID="1.11.1", Modality=None))
    archive.put("README.txt", "read me")
    archive.put("DICOMDIR", "an index")
    reader = DicomFolder(archive.root)
    assert [study.study_id for study in reader] == ["1.9", "1.10", "1.11"]
    assert reader.left_out == {"modality CT": 1, "a copy of another file": 1, "not a DICOM file": 1}


def test_broken_files_are_skipped(archive):
    archive.put("empty.dcm", b"")
    archive.put("cut.dcm", archive.dicom()[:200])
    archive.put("orphan.dcm", archive.dicom(StudyInstanceUID=None))
    reader = DicomFolder(archive.root)
    assert len(list(reader)) == 2
    assert sorted(bad.where for bad in reader.skipped) == ["cut.dcm", "empty.dcm", "orphan.dcm"]
    with pytest.raises(BadStudy):
        list(DicomFolder(archive.root, strict=True))


def test_without_pydicom_the_cure_is_named(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    _pydicom.pydicom.cache_clear()
    with pytest.raises(MissingExtra, match=r'pip install "radrank\[dicom\]"'):
        DicomFolder(archive.root)
