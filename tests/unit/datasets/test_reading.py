"""What every reader promises, shown on tables."""

from __future__ import annotations

import pytest

from radrank.core.errors import BadStudy, InvalidQuery, NotFound
from radrank.datasets import DATASETS, open_dataset
from radrank.datasets.table import Table


@pytest.fixture
def table(files):
    return files.put("studies.csv", "study_id,report\ns1,one\n,nameless\ns10,ten\ns2,two\ns3,\n")


def test_studies_come_in_natural_order_and_what_did_not_come_is_accounted_for(table):
    reader = Table(table)
    assert [study.study_id for study in reader] == ["s1", "s2", "s10"]
    assert [str(bad) for bad in reader.skipped] == ["studies.csv, line 3: has no study_id"]
    assert reader.left_out == {"neither report nor image": 1}
    assert len(reader) == 4


def test_a_second_iteration_starts_its_account_afresh(table):
    reader = Table(table)
    first = list(reader)
    assert list(reader) == first
    assert len(reader.skipped) == 1
    assert reader.left_out == {"neither report nor image": 1}


def test_an_older_iterator_does_not_disturb_the_account_of_a_newer_one(table):
    reader = Table(table)
    older = iter(reader)
    next(older)
    list(reader)
    list(older)
    assert len(reader.skipped) == 1


def test_a_strict_reader_raises_what_another_skips(table):
    with pytest.raises(BadStudy, match="line 3"):
        list(Table(table, strict=True))


def test_opening_and_counting_read_no_image(files):
    files.put("studies.csv", "study_id,image\na,a.jpg\n")
    files.put("a.jpg", b"never decoded")
    (study,) = open_dataset("csv", files.root)
    assert study.images[0].read() == b"never decoded"


def test_an_unknown_data_set_is_answered_with_those_that_exist():
    with pytest.raises(InvalidQuery, match="openi, mimic-cxr, mimic-cxr-jpg, csv, dicom, demo"):
        open_dataset("chexpert", None)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "demo"])
def test_a_missing_root_is_answered_with_the_layout(name, tmp_path):
    with pytest.raises(NotFound, match=r"nowhere.* is missing.*; expected .*folder"):
        open_dataset(name, tmp_path / "nowhere")
    with pytest.raises(InvalidQuery, match="root: this data set needs its folder"):
        open_dataset(name, None)


def test_the_demo_archive_needs_no_folder():
    pytest.importorskip("radrank.datasets.demo")
    assert len(open_dataset("demo", None)) == 640
