"""Tables in the forms in which data sets and annotation tools are published: what comes out of each.

The texts are made up. Where a form has a header, it is that of its makers.
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ernie_m.reader.files.rows import LabelOptions
from ernie_m.reader.files.tables import LabelledTable, read_labelled
from tests.launching import error_of

A = [
    "The waiter brought cold soup again.",
    "A wonderful evening with kind people.",
    "They closed before we came, sadly.",
    "Great bread and quiet music.",
    "The room smelled of old paint.",
    'Nobody told us about the "strike".',
    "I would come back any day.",
    "It took an hour to find the key.",
    "The view alone is worth it.",
    "Our guide knew every stone there.",
    "Rain fell through the roof at night.",
    "Breakfast was rich and fresh.",
]
B = [
    "Der Kellner brachte wieder kalte Suppe.",
    "Ein wunderbarer Abend mit lieben Menschen.",
    "Leider schlossen sie, bevor wir kamen.",
    "Tolles Brot und leise Musik.",
    "Das Zimmer roch nach alter Farbe.",
    'Niemand sagte uns etwas vom "Streik".',
    "Ich käme jeden Tag wieder.",
    "Es dauerte eine Stunde, den Schlüssel zu finden.",
    "Allein die Aussicht lohnt sich.",
    "Unser Führer kannte dort jeden Stein.",
    "Nachts regnete es durch das Dach.",
    "Das Frühstück war reich und frisch.",
]
NUMBERS = range(len(A))
SENTIMENT = ("positive", "negative", "neutral")
NLI = ("entailment", "neutral", "contradiction")
TOXIC = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")


def tabs(row_of, header: str = "") -> str:
    rows = [header.split()] * bool(header) + list(map(row_of, NUMBERS))
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def commas(row_of, header: str) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header.split(), *map(row_of, NUMBERS)])
    return file.getvalue()


def objects(row_of) -> str:
    return "".join(json.dumps(row_of(n), ensure_ascii=False) + "\n" for n in NUMBERS)


def utterance_of_massive(n: int) -> dict:
    intent = ("alarm_set", "iot_hue_lightoff")[n % 2]
    slots = f"[thing : {B[n]}]"
    row = {"id": str(n), "locale": "de-DE", "partition": ("train", "dev", "test")[n % 3]}
    scenario = intent.partition("_")[0]
    return {**row, "scenario": scenario, "intent": intent, "utt": B[n], "annot_utt": slots, "worker_id": "5"}


def sentiment(n: int, text: str) -> list[str]:
    return [text, SENTIMENT[n % 3]]


def toxic_labels(n: int) -> list[int]:
    return [int(n % divisor == 0) for divisor in (2, 4, 3, 100, 5, 7)]


# name of the file -> content, what the row of each number is (texts and label; None: left out), and flags
LABELLED = {
    "qqp.tsv": (
        tabs(
            lambda n: [n, 2 * n + 1, 2 * n + 2, A[n], B[n], n % 2],
            "id qid1 qid2 question1 question2 is_duplicate",
        ),
        lambda n: [A[n], B[n], str(n % 2)],
        {"text": "question1", "text_b": "question2", "label": "is_duplicate"},
    ),
    "paws.tsv": (
        tabs(lambda n: [n + 1, A[n], B[n], n % 2], "id sentence1 sentence2 label"),
        lambda n: [A[n], B[n], str(n % 2)],
        {},
    ),
    "mnli.tsv": (
        tabs(
            lambda n: [n, 31193 + n, f"{31193 + n}n", "fiction", f"( {A[n]} )", A[n], B[n], NLI[n % 3]],
            "index promptID pairID genre sentence1_parse sentence1 sentence2 gold_label",
        ),
        lambda n: [A[n], B[n], NLI[n % 3]],
        {"label": "gold_label", "group": "promptID"},
    ),
    "snli.jsonl": (
        objects(
            lambda n: {
                "annotator_labels": [NLI[n % 3]],
                "captionID": f"{n}.jpg#4",
                "gold_label": "-" if n == 3 else NLI[n % 3],
                "sentence1": A[n],
                "sentence1_parse": f"(ROOT {A[n]})",
                "sentence2": B[n],
            }
        ),
        lambda n: None if n == 3 else [A[n], B[n], NLI[n % 3]],
        {"label": "gold_label"},
    ),
    "massive.jsonl": (
        objects(utterance_of_massive),
        lambda n: [B[n], ("alarm_set", "iot_hue_lightoff")[n % 2]],
        {"text": "utt", "label": "intent", "language": "locale", "split": "partition"},
    ),
    "sib200.tsv": (
        tabs(
            lambda n: [100 + 3 * n, ("science/technology", "travel", "politics")[n % 3], A[n]],
            "index_id category text",
        ),
        lambda n: [A[n], ("science/technology", "travel", "politics")[n % 3]],
        {"label": "category"},
    ),
    "tatoeba_sentences.csv": (
        tabs(lambda n: [1276 + 7 * n, ("eng", "deu")[n % 2], (A, B)[n % 2][n]]),
        lambda n: [(A, B)[n % 2][n], ("eng", "deu")[n % 2]],
        {"text": "3", "label": "2"},
    ),
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def read(path: Path, several: bool = False, **flags) -> LabelledTable:
    return read_labelled(path, LabelOptions(**flags), several)


@pytest.mark.parametrize("name", LABELLED)
def test_texts_and_labels(tmp_path, name):
    content, row_of, flags = LABELLED[name]
    rows = read(write(tmp_path / name, content), **flags).rows
    assert [[*row.texts, row.label] for row in rows] == [row for row in map(row_of, NUMBERS) if row]


def test_what_a_form_says_beside_texts_and_labels(tmp_path):
    """MASSIVE has the language and the split of each row. Those for dev and test are not trained on."""
    content, _, flags = LABELLED["massive.jsonl"]
    table = read(write(tmp_path / "massive.jsonl", content), **flags)
    assert {row.language for row in table.rows} == {"de-DE"}
    assert [row.split for row in table.rows] == ["train", "dev", "test"] * 4
    assert [row.texts for row in table.meant_for("train").rows] == [[text] for text in B[::3]]
    assert table.columns == flags


def test_jigsaw_has_a_column_for_each_label(tmp_path):
    """One that no row has is a label, too."""
    header = " ".join(["id", "comment_text", *TOXIC])
    content = commas(lambda n: [f"{7919 * n:016x}", A[n], *toxic_labels(n)], header)
    path = write(tmp_path / "jigsaw.csv", content)
    flags = {"text": "comment_text", "label": ",".join(TOXIC)}
    assert "--multi_label" in error_of(read, path, **flags)
    table = read(path, several=True, **flags)
    expected = [[name for name, bit in zip(TOXIC, toxic_labels(n)) if bit] for n in NUMBERS]
    assert [row.label for row in table.rows] == expected and table.label_columns == list(TOXIC)


@pytest.mark.parametrize("first", [False, True])
def test_an_excel_sheet(tmp_path, caplog, first):
    """The first sheet with rows. Numbers are those of the sheet; another one with rows is named."""
    pytest.importorskip("python_calamine")
    rows = [["Nr", "Text", "Kategorie"], *([n, *sentiment(n, A[n])] for n in NUMBERS)]
    path = tmp_path / "my.xlsx"
    write_sheet(path, rows, rows * first)
    table = read(path, label="Kategorie")
    assert [[*row.texts, row.label] for row in table.rows] == [sentiment(n, A[n]) for n in NUMBERS]
    assert (f"{path}: only the sheet 'a' is read, not b" in caplog.messages) == first
    write_sheet(path, [*rows, [99, "", "positive"]])
    assert "my.xlsx, line 14: " in error_of(read, path, label="Kategorie")


def test_a_sheet_that_would_fill_the_memory_is_refused_before(tmp_path, monkeypatch):
    pytest.importorskip("python_calamine")
    monkeypatch.setattr("ernie_m.reader.files.tables._LARGEST", 1000)
    write_sheet(tmp_path / "my.xlsx", [["text", "label"], ["a", "b"]])
    assert "my.xlsx: unpacked, " in error_of(read, tmp_path / "my.xlsx")


def write_sheet(path: Path, rows: list[list], first: Sequence[list] = ()) -> None:
    """An Excel file with two sheets, of which the first is empty, unless it has rows, too."""
    kinds = "http://schemas.openxmlformats.org"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{kinds}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{kinds}/package/2006/relationships"><Relationship Id="r" '
        f'Type="{kinds}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{kinds}/spreadsheetml/2006/main" '
        f'xmlns:r="{kinds}/officeDocument/2006/relationships"><sheets><sheet name="a" sheetId="1" r:id="r1"/>'
        '<sheet name="b" sheetId="2" r:id="r2"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{kinds}/package/2006/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="{kinds}/officeDocument/2006/relationships/worksheet" '
            f'Target="worksheets/sheet{n}.xml"/>'
            for n in (1, 2)
        )
        + "</Relationships>",
    }
    sheet = f'<worksheet xmlns="{kinds}/spreadsheetml/2006/main"><sheetData>{{}}</sheetData></worksheet>'
    for sheet_number, rows_of_sheet in enumerate((first, rows), 1):
        xml = ""
        for number, row in enumerate(rows_of_sheet, 1):
            cells = "".join(
                f'<c r="{"ABC"[place]}{number}"><v>{cell}</v></c>'
                if isinstance(cell, int)
                else f'<c r="{"ABC"[place]}{number}" t="inlineStr"><is><t>{cell}</t></is></c>'
                for place, cell in enumerate(row)
            )
            xml += f'<row r="{number}">{cells}</row>'
        parts[f"xl/worksheets/sheet{sheet_number}.xml"] = sheet.format(xml)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
