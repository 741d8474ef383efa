from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from radrank.core.errors import BadStudy, NotFound
from radrank.core.studies import Split, View
from radrank.datasets.table import Table

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "covid_chestxray" / "studies.csv"


def test_rows_of_one_study_id_are_one_study(files):
    files.image("images/a.jpg")
    files.image("images/b.jpg")
    files.put(
        "studies.csv",
        "study_id,image,view,report,labels,date,patient_id,split,license\n"
        "s1,images/a.jpg,pa,Large heart.,Cardiomegaly;Pleural Effusion,2020-01-31,p1,train,CC BY\n"
        's1,images/b.jpg,Lateral,Large heart.,"Edema,Cardiomegaly",,,,CC BY\n',
    )
    (study,) = Table(files.root)
    assert [(image.image_id, image.view) for image in study.images] == [
        ("images/a.jpg", View.PA),
        ("images/b.jpg", View.LATERAL),
    ]
    assert study.report == "Large heart."
    assert study.labels == ("cardiomegaly", "edema", "pleural_effusion")
    assert (study.patient_id, study.split, study.date, study.normal) == ("p1", Split.TRAIN, date(2020, 1, 31), False)


@pytest.mark.parametrize(
    ("labels", "normal", "found"),
    [
        ("No Finding", True, ()),
        ("normal", True, ()),
        ("No Finding|Support Devices", True, ("support_devices",)),
        ("Edema/COVID-19", False, ("covid_19", "edema")),
        ("normal;Edema", False, ("edema",)),
        ("", None, ()),
    ],
)
def test_a_labels_cell_names_findings_or_says_normal(files, labels, normal, found):
    (study,) = Table(files.put("t.csv", f"study_id,report,labels\ns1,text,{labels}\n"))
    assert (study.normal, study.labels) == (normal, found)


def test_a_column_normal_outdoes_the_labels(files):
    (study,) = Table(files.put("t.csv", "study_id,report,labels,normal\ns1,text,Old scar,yes\n"))
    assert study.normal is True


def test_sections_outdo_the_report(files):
    (study,) = Table(files.put("t.csv", "study_id,report,findings,impression\ns1,all of it,Clear.,Normal.\n"))
    assert study.report == "Clear.\nNormal."


def test_bad_rows_are_skipped_and_named_without_their_text(files):
    files.image("a.jpg")
    table = files.put(
        "t.csv",
        b"study_id,image,report,date,normal,split,patient_id\n"
        b"s1,a.jpg,secret,,,train,p1\n"
        b"s2,gone.jpg,secret,,,,\n"
        b"s3,,secret,31.1.2020,,,\n"
        b"s4,,secret,,perhaps,,\n"
        b"s5,,secret,,,dev,\n"
        b"s6,,secret\n"
        b"s7,,\xff\xfe,,,,\n"
        b"s1,,secret,,,test,p1\n"
        b"s1,,secret,,,,p2\n"
        b"\n"
        b"s8,,fine,,,,\n",
    )
    reader = Table(table)
    assert [study.study_id for study in reader] == ["s1", "s8"]
    assert [str(bad) for bad in reader.skipped] == [
        "t.csv, line 3: the image file gone.jpg is missing",
        "t.csv, line 4: the date is neither YYYY-MM-DD nor YYYYMMDD",
        "t.csv, line 5: normal is none of true, 1, 1.0, yes, false, 0, 0.0, no",
        "t.csv, line 6: split is none of train, validation, test, validate, val",
        "t.csv, line 7: has 3 cells, the header 7",
        "t.csv, line 8: is not UTF-8",
        "t.csv, line 9: its split is not that of the study's earlier rows",
        "t.csv, line 10: its patient_id is not that of the study's earlier rows",
    ]


def test_a_table_without_its_columns_is_no_data_set(files):
    with pytest.raises(BadStudy, match="lacks the column study_id"):
        list(Table(files.put("t.csv", "id,report\ns1,text\n")))
    with pytest.raises(NotFound, match="header has study_id and image or report"):
        list(Table(files.put("u.csv", "study_id,labels\ns1,edema\n")))


def test_a_spreadsheet_s_byte_order_mark_is_no_part_of_the_header(files):
    (study,) = Table(files.put("t.csv", "\ufeffStudy_ID, Report\r\ns1,text\r\n"))
    assert study.study_id == "s1"


@pytest.mark.skipif(not REAL.is_file(), reason=f"the COVID set is not at {REAL}")
def test_the_real_covid_set():
    reader = Table(REAL)
    studies = list(reader)
    assert len(studies) == len(reader) == 136
    assert sum(len(study.images) for study in studies) == 284
    assert (reader.skipped, reader.left_out) == ([], {})
    assert {"covid_19", "ards"} <= {label for study in studies for label in study.labels}
