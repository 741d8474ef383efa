from __future__ import annotations

import gzip
from datetime import date

import pytest

from radrank.core.errors import BadStudy, NotFound
from radrank.core.studies import Split, View
from radrank.datasets import open_dataset
from radrank.datasets.mimic import MimicCXR


def test_studies_come_by_subject_then_study_with_everything_the_indexes_say(mimic):
    bare, first, effusion = MimicCXR(mimic.root)
    assert [bare.study_id, first.study_id, effusion.study_id] == ["9", "50414267", "50000001"]
    assert first.patient_id == "10000032"
    assert first.date == date(2180, 5, 6)
    assert [(image.image_id, image.view) for image in first.images] == [("aa-1", View.PA), ("aa-2", View.LATERAL)]
    assert (first.findings, first.impression) == ("Clear lungs.", "Normal.")
    assert first.split is Split.TRAIN


def test_no_finding_may_stand_beside_support_devices(mimic):
    studies = {study.study_id: study for study in MimicCXR(mimic.root)}
    assert (studies["50414267"].normal, studies["50414267"].labels) == (True, ("support_devices",))
    assert (studies["9"].normal, studies["9"].labels) == (None, ())
    last = studies["50000001"]
    assert last.normal is False
    assert last.labels == ("atelectasis", "pleural_effusion", "support_devices")
    assert last.uncertain == ("edema",)


def test_dicom_images_reports_in_their_own_folder_and_empty_views_are_read(mimic):
    studies = {study.study_id: study for study in open_dataset("mimic-cxr", mimic.root)}
    assert studies["50000001"].images[0].content.suffix == ".dcm"
    assert studies["50000001"].impression == "Effusion."
    assert studies["50000001"].split is Split.VALIDATION
    assert studies["9"].images[0].view is View.UNKNOWN
    assert studies["9"].report == ""


def test_unpacked_indexes_read_the_same_and_labels_and_split_may_be_absent(mimic):
    packed = list(MimicCXR(mimic.root))
    for path in mimic.root.glob("*.csv.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert list(MimicCXR(mimic.root)) == packed
    (mimic.root / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    (mimic.root / "mimic-cxr-2.0.0-split.csv").unlink()
    assert {(study.normal, study.labels, study.split) for study in MimicCXR(mimic.root)} == {(None, (), None)}


def test_a_part_of_the_collection_reads(mimic):
    for path in (mimic.root / "files/p10").rglob("*.*"):
        path.unlink()
    reader = MimicCXR(mimic.root)
    assert [study.study_id for study in reader] == ["50000001"]
    assert reader.left_out == {"neither report nor image": 2, "image file is missing": 3}


def test_broken_rows_are_skipped_by_line(mimic):
    header = "dicom_id,subject_id,study_id,ViewPosition,StudyDate\n"
    mimic.put(
        "mimic-cxr-2.0.0-metadata.csv.gz",
        header
        + "aa-1,10000032,50414267,PA,21800506\n,10000032,50414267,PA,21800506\naa-2,10000032,50414267,LL,someday\n"
        + "cc-1,11000011,50414267,PA,21800506\nx,../../etc,50414267,PA,21800506\n",
    )
    mimic.put(
        "mimic-cxr-2.0.0-chexpert.csv.gz", "subject_id,study_id,Edema\n10000032,50414267,maybe\n10000032,50414267\n"
    )
    mimic.put("mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split\naa-1,50414267,10000032,dev\n")
    reader = MimicCXR(mimic.root)
    (study,) = reader
    assert [image.image_id for image in study.images] == ["aa-1"]
    assert [bad.where.removeprefix("mimic-cxr-2.0.0-") for bad in reader.skipped] == [
        "chexpert.csv.gz, line 2", "chexpert.csv.gz, line 3", "split.csv.gz, line 2",
        "metadata.csv.gz, line 3", "metadata.csv.gz, line 4", "metadata.csv.gz, line 5", "metadata.csv.gz, line 6",
    ]  # fmt: skip
    with pytest.raises(BadStudy, match="chexpert"):
        list(MimicCXR(mimic.root, strict=True))


def test_a_report_that_is_not_text_costs_its_study(mimic):
    mimic.put("files/p10/p10000032/s50414267.txt", b"\xff\xfe\x00")
    reader = MimicCXR(mimic.root)
    assert "50414267" not in {study.study_id for study in reader}
    assert [str(bad) for bad in reader.skipped] == ["p10/p10000032/s50414267.txt: is not UTF-8"]


def test_a_truncated_index_is_no_data_set(mimic):
    path = mimic.root / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadStudy, match=r"metadata\.csv\.gz: is not a whole gzip file"):
        len(MimicCXR(mimic.root))


def test_without_metadata_the_error_says_where_it_comes_from(mimic):
    (mimic.root / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(NotFound, match="MIMIC-CXR-JPG brings it"):
        MimicCXR(mimic.root)
