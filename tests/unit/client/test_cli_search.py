"""`radrank search` and `radrank archive`, through the command's own entry point."""

from __future__ import annotations

import json

import grpc
import pytest
from PIL import Image

from radrank.client import cli
from radrank.v1 import types_pb2


@pytest.fixture
def radrank(address, monkeypatch, capsys):
    """Runs a command line in this process: its exit status, what it printed, and what it complained."""
    monkeypatch.setenv("RADRANK_SERVER", address)
    monkeypatch.setenv("COLUMNS", "150")

    def run(*words):
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


def test_the_table_shows_ranks_moves_scores_and_reports(radrank, fake):
    code, out, err = radrank("search", "--text", "left pleural effusion", "-k", 6)
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if "CXR" in line]
    assert len(rows) == 6
    assert "▲1" in rows[0]
    assert "0.912" in rows[0]
    assert "pleural effusion, atelectasis" in rows[0]
    assert "Moderate left" in rows[0]
    assert "▼2" in rows[2]
    assert "normal" in rows[2]
    assert "12.3 ms = decode 1.2 · encode 8.1" in out
    assert "re-ranked by sage (fp32, onnxruntime-cpu 1.31.1)" in out
    assert fake.asked.include_labels
    assert not fake.asked.include_preview


def test_every_option_reaches_the_server(radrank, fake, chest, tmp_path):
    image = tmp_path / "chest.png"
    image.write_bytes(chest)
    words = (
        f"search --image {image} --target report -k 4 --candidates 40 --reranker off --view pa,lateral --view ap "
        "--label opacity --label nodule --all-labels edema --abnormal --from 2150-01-02 --to 2151-01-02 "
        "--exclude A,1 --exclude B --one-per-patient --allow-degraded --timeout 5"
    )
    code, _, err = radrank(*words.split())
    assert (code, err) == (0, "")
    asked = fake.asked
    assert asked.query.image == chest
    assert (asked.target, asked.k, asked.candidates, asked.reranker) == (types_pb2.MODALITY_REPORT, 4, 40, "off")
    assert list(asked.filters.views) == [types_pb2.VIEW_PA, types_pb2.VIEW_LATERAL, types_pb2.VIEW_AP]
    assert list(asked.filters.labels_any) == ["opacity", "nodule"]
    assert list(asked.filters.labels_all) == ["edema"]
    assert asked.filters.normal is False
    assert getattr(asked.filters, "from").year == 2150
    assert asked.filters.to.year == 2151
    assert list(asked.exclude_studies) == ["A,1", "B"]
    assert asked.one_per_patient
    assert asked.allow_degraded


def test_json_is_the_whole_reply_for_programs(radrank):
    code, out, _ = radrank("search", "--study", "CXR5", "-k", 2, "--json")
    reply = json.loads(out)
    assert code == 0
    assert set(reply) == {"hits", "times", "provenance", "query_modality", "target", "degraded"}
    assert reply["hits"][0]["candidate_rank"] == 2
    assert "preview" not in reply["hits"][0]
    assert reply["times"]["total_us"] == 12300
    assert reply["provenance"]["archive_sequence"] == 7


@pytest.mark.parametrize("by", ["image", "text", "study"])
def test_the_sheet_is_drawn(radrank, chest, tmp_path, by):
    image, sheet = tmp_path / "chest.png", tmp_path / "hits.png"
    image.write_bytes(chest)
    asked = {"image": image, "text": "left pleural effusion", "study": "CXR5"}[by]
    code, out, err = radrank("search", f"--{by}", asked, "-k", 6, "--save-sheet", sheet)
    assert (code, err) == (0, "")
    assert f"sheet: {sheet}" in out
    with Image.open(sheet) as drawn:
        assert drawn.width > 1200
        assert drawn.height > 900


def test_a_query_that_pillow_cannot_read_still_gets_a_sheet(radrank, tmp_path):
    dicom, sheet = tmp_path / "chest.dcm", tmp_path / "hits.png"
    dicom.write_bytes(bytes(128) + b"DICM")
    assert radrank("search", "--image", dicom, "-k", 1, "--save-sheet", sheet)[0] == 0
    assert sheet.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search"], "exactly one of --image, --text and --study"),
        (["search", "--text", "a", "--study", "b"], "exactly one of"),
        (["search", "--image", "absent.png"], "'absent.png' does not exist"),
        (["search", "--text", "a", "-k", "0"], "Invalid value for '-k'"),
        (["search", "--text", "a", "--from", "yesterday"], "a day such as 2024-06-30"),
        (["search", "--text", "a", "--save-sheet", "absent/folder/a.png"], "there is no folder absent/folder"),
        (["search", "--text", "a", "--save-sheet", "a.gif"], "must end in .png"),
        (["archive", "upsert", "--study-id", "a", "--view", "pa"], "one --view for each --image"),
    ],
)
def test_a_wrong_command_line_is_explained_before_anything_is_sent(radrank, fake, words, said):
    code, out, err = radrank(*words)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert fake.asked is None


def test_the_servers_refusal_is_one_line(radrank, fake):
    fake.fails = (grpc.StatusCode.INVALID_ARGUMENT, "text: must not be blank")
    assert radrank("search", "--text", " ") == (1, "", "error: text: must not be blank\n")


def test_the_token_comes_from_a_file(radrank, fake, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    assert radrank("archive", "stats", "--token-file", token)[0] == 0
    assert fake.metadata["authorization"] == "Bearer s3cret"
    token.write_text("\n")
    code, _, err = radrank("archive", "stats", "--token-file", token)
    assert code == 2
    assert "one token" in err


def test_reports_cannot_drive_the_terminal(radrank, fake):
    reply = fake.answer

    def hostile(request):
        answer = reply(request)
        answer.hits[0].report = "red \x1b[31mtext\r\nand [bold]markup[/bold]"
        answer.hits[0].study_id = "CXR\x07\x1b[2J1"
        return answer

    fake.answer = hostile
    _, out, _ = radrank("search", "--text", "a", "-k", 1)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "and [bold]markup[/bold]" in out


def test_archive_stats_show_delete_and_upsert(radrank, fake, chest, tmp_path):
    image = tmp_path / "pa.png"
    image.write_bytes(chest)
    code, out, _ = radrank("archive", "stats")
    assert code == 0
    assert "3,851" in out
    assert "sage (default), gat" in out
    assert "pleural effusion" in out
    code, out, _ = radrank("archive", "show", "CXR9")
    assert code == 0
    assert "2168-02-29" in out
    assert "0 (lateral)" in out
    assert json.loads(radrank("archive", "show", "CXR9", "--json")[1])["date"] == "2168-02-29"
    assert radrank("archive", "show", "nobody") == (1, "", "error: no such study\n")
    assert radrank("archive", "delete", "A", "B")[:2] == (0, "deleted 1, unknown 1 (archive sequence 9)\n")
    code, out, _ = radrank(
        "archive", "upsert", "--study-id", "N1", "--image", image, "--view", "pa", "--impression", "Clear.",
        "--label", "a,b", "--normal", "--patient", "P1", "--date", "2024-05-06",
    )  # fmt: skip
    assert (code, out) == (0, "added 1, replaced 0 (archive sequence 8)\n")
    (study,) = fake.asked
    assert (study.study_id, study.patient_id, study.impression, study.normal) == ("N1", "P1", "Clear.", True)
    assert (list(study.labels), study.date.day, study.images[0].view) == (["a", "b"], 6, types_pb2.VIEW_PA)
    assert json.loads(radrank("archive", "upsert", "--study-id", "N2", "--findings", "x", "--json")[1])["added"] == 1
