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

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.asked import asked_table
from ernie_m.reader.files.table.labelled import LabelledTable, read_table
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


def choice_of_label_studio(n: int) -> dict:
    value = {"choices": [SENTIMENT[n % 3]]}
    result = {"value": value, "id": f"r{n}", "from_name": "mood", "to_name": "text", "type": "choices"}
    annotation = {"id": 50 + n, "completed_by": 1, "was_cancelled": False, "result": [result]}
    return {"id": n, "annotations": [annotation], "data": {"text": A[n]}, "meta": {}, "project": 3}


def choice_of_prodigy(n: int) -> dict:
    options = [{"id": label, "text": label.title()} for label in SENTIMENT]
    answer = {"accept": [SENTIMENT[n % 3]], "answer": "reject" if n == 3 else "accept"}
    hashes = {"_input_hash": 77 * n, "_task_hash": -n, "_view_id": "choice", "_timestamp": 1600000000 + n}
    return {"text": A[n], **hashes, "options": options, "config": {"choice_style": "single"}, **answer}


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


# name of the file -> content, and what the row of each number is: texts and label; None: it is left out
LABELLED = {
    "qqp.tsv": (
        tabs(
            lambda n: [n, 2 * n + 1, 2 * n + 2, A[n], B[n], n % 2],
            "id qid1 qid2 question1 question2 is_duplicate",
        ),
        lambda n: [A[n], B[n], str(n % 2)],
    ),
    "paws.tsv": (
        tabs(lambda n: [n + 1, A[n], B[n], n % 2], "id sentence1 sentence2 label"),
        lambda n: [A[n], B[n], str(n % 2)],
    ),
    "mnli.tsv": (
        tabs(
            lambda n: [n, 31193 + n, f"{31193 + n}n", "fiction", f"( {A[n]} )", A[n], B[n], NLI[n % 3]],
            "index promptID pairID genre sentence1_parse sentence1 sentence2 gold_label",
        ),
        lambda n: [A[n], B[n], NLI[n % 3]],
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
    ),
    "massive.jsonl": (
        objects(utterance_of_massive),
        lambda n: [B[n], ("alarm_set", "iot_hue_lightoff")[n % 2]],
    ),
    "sib200.tsv": (
        tabs(
            lambda n: [100 + 3 * n, ("science/technology", "travel", "politics")[n % 3], A[n]],
            "index_id category text",
        ),
        lambda n: [A[n], ("science/technology", "travel", "politics")[n % 3]],
    ),
    "afrisenti.tsv": (
        tabs(lambda n: sentiment(n, f"@user {A[n]} 😂 https://t.co/x{n}"), "tweet label"),
        lambda n: sentiment(n, f"@user {A[n]} 😂 https://t.co/x{n}"),
    ),
    "tatoeba_sentences.csv": (
        tabs(lambda n: [1276 + 7 * n, ("eng", "deu")[n % 2], (A, B)[n % 2][n]]),
        lambda n: [(A, B)[n % 2][n], ("eng", "deu")[n % 2]],
    ),
    "label_studio.json": (
        json.dumps([choice_of_label_studio(n) for n in NUMBERS], indent=2),
        lambda n: sentiment(n, A[n]),
    ),
    "label_studio.csv": (
        commas(
            lambda n: [50 + n, 1, f"2023-01-01T00:00:{n:02d}Z", n, n + 0.5, SENTIMENT[n % 3], A[n]],
            "annotation_id annotator created_at id lead_time sentiment text",
        ),
        lambda n: sentiment(n, A[n]),
    ),
    "doccano.jsonl": (
        objects(lambda n: {"id": n, "text": A[n], "label": [SENTIMENT[n % 3]], "Comments": []}),
        lambda n: sentiment(n, A[n]),
    ),
    "prodigy.jsonl": (objects(choice_of_prodigy), lambda n: None if n == 3 else sentiment(n, A[n])),
    "lines.jsonl": (
        objects(lambda n: {"text": A[n], "label": SENTIMENT[n % 3]}),
        lambda n: sentiment(n, A[n]),
    ),
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def read(path: Path, **how) -> LabelledTable:
    return read_table(path, say=lambda _: None, **how)


@pytest.mark.parametrize("name", LABELLED)
def test_texts_and_labels(tmp_path, name):
    content, row_of = LABELLED[name]
    table = read(write(tmp_path / name, content))
    assert table.rows == [row for row in map(row_of, NUMBERS) if row]


def test_annotators_who_chose_differently_are_counted_once(tmp_path, caplog):
    """The first choice is taken."""
    tasks = [choice_of_label_studio(n) for n in NUMBERS]
    for n in (4, 5, 6):
        tasks[n]["annotations"] += choice_of_label_studio(n // 5 * 5)["annotations"]  # 5 agrees
    path = write(tmp_path / "a.json", ",\n".join(map(json.dumps, tasks)).join("[]"))
    assert read(path).rows == [sentiment(n, A[n]) for n in NUMBERS]
    (said,) = [message for message in caplog.messages if "annotators" in message]
    assert said.startswith(f"{path}: ") and " 2 tasks" in said and "line 5, id 4" in said


def test_what_a_form_says_beside_texts_and_labels(tmp_path):
    """MASSIVE has the language and the split of each row. Those for dev and test are not trained on."""
    table = read(write(tmp_path / "massive.jsonl", LABELLED["massive.jsonl"][0]))
    assert table.languages == ["de-DE"] * len(A) and table.splits == ["train", "dev", "test"] * 4
    train = table.meant_for("train", lambda _: None, tmp_path / "massive.jsonl")
    assert [cells[0] for cells in train.rows] == B[::3]


def test_jigsaw_has_a_column_for_each_label(tmp_path):
    """One that no row has is a label, too. Without --multi_label the columns are asked about."""
    header = " ".join(["id", "comment_text", *TOXIC])
    content = commas(lambda n: [f"{7919 * n:016x}", A[n], *toxic_labels(n)], header)
    path = write(tmp_path / "jigsaw.csv", content)
    assert "jigsaw.csv, line 1: " in error_of(read, path)
    table = read(path, multi_label=True)
    expected = [[name for name, bit in zip(TOXIC, toxic_labels(n)) if bit] for n in NUMBERS]
    assert table.labels() == expected and [cells[0] for cells in table.rows] == A


def test_the_name_of_a_label_column_is_one_label(tmp_path):
    """In a cell this one would be two."""
    header = " ".join(["comment_text", *TOXIC[1:], "delivery;shipping"])
    path = write(tmp_path / "own.csv", commas(lambda n: [A[n], *toxic_labels(n)], header))
    assert "own.csv, line 1: the label 'delivery;shipping'" in error_of(read, path, multi_label=True)


def test_sts_b(tmp_path):
    """In the form of GLUE, and as it is published, without a header: there the columns are asked about."""
    beside = ["main-captions", "MSRvid", "2012test"]
    header = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
    row = [[*beside, f"{n:04d}", "none", "none", A[n], B[n], f"{n % 6}.{n % 10}00"] for n in NUMBERS]
    table = read(write(tmp_path / "sts.tsv", tabs(lambda n: [n, *row[n]], header)), regression=True)
    assert [[*cells[:2], float(cells[2])] for cells in table.rows] == [
        [A[n], B[n], n % 6 + n % 10 / 10] for n in NUMBERS
    ]
    published = tabs(lambda n: [*beside, f"{n:04d}", row[n][-1], A[n], B[n]])
    path = write(tmp_path / "sts-train.csv", published)
    assert "sts-train.csv, line 1: " in error_of(read, path, regression=True)
    table = read(path, regression=True, options=TableOptions(columns="6,7,5"))
    assert [cells[:2] for cells in table.rows] == [list(pair) for pair in zip(A, B)]


def test_germeval_has_a_coarse_and_a_fine_label(tmp_path):
    """Which of them is meant is asked; the one that is named is read."""
    coarse, fine = ("OTHER", "OFFENSE"), ("OTHER", "INSULT", "OTHER", "ABUSE")
    path = write(tmp_path / "germeval.txt", tabs(lambda n: [f"@u {B[n]} |LBR|", coarse[n % 2], fine[n % 4]]))
    assert "germeval.txt, line 1: " in error_of(read, path)
    for columns, labels in (("1,2", coarse), ("1,3", fine)):
        table = read(path, options=TableOptions(columns=columns))
        assert table.rows == [[f"@u {B[n]} |LBR|", labels[n % len(labels)]] for n in NUMBERS]


def test_an_excel_sheet(tmp_path):
    """The first sheet with rows. Numbers are those of the sheet."""
    pytest.importorskip("python_calamine")
    rows = [["Nr", "Text", "Kategorie"], *([n, *sentiment(n, A[n])] for n in NUMBERS)]
    path = tmp_path / "my.xlsx"
    write_sheet(path, rows)
    assert read(path).rows == [sentiment(n, A[n]) for n in NUMBERS]
    write_sheet(path, [*rows, [99, "", "positive"]])
    assert "my.xlsx, line 14: " in error_of(read, path)


def test_sheets_that_are_not_read_are_named(tmp_path):
    pytest.importorskip("python_calamine")
    rows = [["Nr", "Text", "Kategorie"], *([n, *sentiment(n, A[n])] for n in NUMBERS)]
    path = tmp_path / "my.xlsx"
    for first, expected in (((), []), (rows, [f"{path}: only the sheet 'a' is read, not b"])):
        write_sheet(path, rows, first)
        said = []
        assert len(read_table(path, say=said.append).rows) == len(A)
        assert [line for line in said if "the sheet" in line] == expected


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


@pytest.mark.parametrize("header", ["", "meinung\tnote\n", "text\tlabel\n"])
def test_fit_and_label_see_the_same_header(tmp_path, header):
    """What is trained on is what is answered: no row is lost to the one or the other."""
    path = write(tmp_path / "my.tsv", header + tabs(lambda n: sentiment(n, A[n])))
    trained = [cells[0] for cells in read(path).rows]
    faults = Faults(path)
    answered = [values["text_a"] for _, _, values in asked_table(path, TableOptions(), faults).rows]
    assert trained == answered == A and not faults.count
