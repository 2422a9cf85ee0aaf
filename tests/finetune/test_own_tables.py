"""run_classifier.py --train_set: labelled tables of the user's own, in a folder or as one file."""

import gzip
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ernie_m.commands import run_classifier
from ernie_m.data.prepare.command import main as prepare_main
from ernie_m.finetune.flags import ClassifierFlags
from ernie_m.finetune.own_tables import OwnTables, check_rows, read_own_tables
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.finetune.tasks.multi_label import MultiLabelClassification
from ernie_m.finetune.tasks.regression import Regression
from ernie_m.reader.batching import Example
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.command_line import parse_args
from tests.launching import ROOT, call_main, clean_environment, error_of, read_log
from tests.toys import train_pieces

TRAINING = "Good.\tnice\nBad.\tnasty\nFine.\tnice\nAwful.\tnasty\n"
DEV = "x\tnice\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(piece_model_path=train_pieces(tmp_path_factory.mktemp("pieces") / "piece.model"))


@pytest.fixture
def folder_with(tmp_path):
    """folder_with(name=text, ...) writes files into the folder `my` and returns it."""

    def write(**contents: str | bytes) -> Path:
        for name, content in contents.items():
            path = tmp_path / "my" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "my"

    return write


class Read:
    """What a run reads of own tables, with the names of the labels.

    Attributes:
        labels: in the order of their ids.
        training: the rows that are trained on.
        dev: name of a file's pattern and language -> its rows.
    """

    def __init__(self, labels: Sequence[str], own: OwnTables):
        self.labels = labels
        self.training = [self.named(row) for row in own.train_set]
        self.dev = {
            (file.pattern.rpartition("/")[2], file.language): [self.named(row) for row in file.data]
            for file in own.dev_files
        }

    def named(self, row: Example) -> tuple:
        """The text, or the pair, and the label, or those of several with commas between them."""
        texts = [text for text in row[:2] if text is not None]
        if isinstance(row.label, float):
            return (*texts, row.label)
        ids = [row.label] if isinstance(row.label, int) else [i for i, has in enumerate(row.label) if has]
        return (*texts, ",".join(self.labels[id_] for id_ in ids))

    @property
    def held_out(self) -> list[tuple]:
        """The rows that are held out, of all files."""
        return [row for (_, _), rows in self.dev.items() for row in rows]


@pytest.fixture
def read(tokenizer, tmp_path, caplog):
    """read(source, *flags) -> what run_classifier.py reads with --train_set source."""
    caplog.set_level(logging.INFO, logger="ernie_m")

    def call(source: Path, *line: str) -> Read:
        flags = parse_args(
            ClassifierFlags, ["--train_set", str(source), "--checkpoints", str(tmp_path / "out"), *line]
        )
        task_class = MultiLabelClassification if flags.multi_label else Classification
        if flags.is_regression:
            task_class = Regression
        task = task_class.from_flags(flags, tokenizer)
        own = read_own_tables(task, flags)
        check_rows(task, str(source), own.train_set, own.dev_files, [])
        return Read(task.labels, own)

    return call


def test_texts_with_a_header_or_without(folder_with, read):
    source = folder_with(**{"train.en.tsv": f"text_a\tlabel\n{TRAINING}", "dev-de.tsv": "Gut.\tnice\r\n\n"})
    found = read(source)
    assert found.labels == ["nasty", "nice"]
    assert found.dev == {("dev.%s", "de"): [("Gut.", "nice")]}
    assert found.training[0] == ("Good.", "nice") and len(found.training) == 4


def test_pairs_in_two_languages(folder_with, read):
    """English comes first."""
    source = folder_with(
        **{"train.en.tsv": "a\tb\tyes: c\nd\te\tno\n", "train.de.tsv": "f\tg\tno\nh\ti\tyes: c\n"}
    )
    found = read(source, "--do_val", "false", "--columns", "1,2,3")
    assert found.training == [
        ("a", "b", "yes: c"),
        ("d", "e", "no"),
        ("f", "g", "no"),
        ("h", "i", "yes: c"),
    ]


def test_dev_files_come_before_test_files(folder_with, read):
    splits = ("dev.fr", "dev.en", "dev.de", "test.fr", "test.de")
    source = folder_with(**{f"{name}.tsv": DEV for name in splits}, **{"train.en.tsv": TRAINING})
    assert [*read(source).dev] == [
        ("dev.%s", "en"),
        ("dev.%s", "de"),
        ("dev.%s", "fr"),
        ("test.%s", "de"),
        ("test.%s", "fr"),
    ]


def test_labels_are_counted(folder_with, read, caplog):
    source = folder_with(**{"train.en.tsv": TRAINING + "x\tnice\n", "dev.de.tsv": "x\tnasty\n"})
    folder_with(**{"a/dev.de.tsv": "y\tnice\ny\tnice\n"})
    read(source)
    (table,) = [message for message in caplog.messages if message.startswith("labels\n")]
    rows = [line.split() for line in table.splitlines()[1:]]
    assert rows == [["label", "train", f"{source}/dev.%s"], ["nasty", "2", "0"], ["nice", "3", "2"]]
    assert f"not used: {source}/dev.de.tsv; dev de is {source}/a/dev.de.tsv" in caplog.messages


@pytest.mark.parametrize(
    "header, row",
    [("sentence\tlabel", "{}\t{}"), ("\tLabels\tText", "7\t{1}\t{0}"), ("id\tpremise\tclass", "7\t{}\t{}")],
)
def test_a_header_with_usual_names(folder_with, read, caplog, header, row):
    """In any order, with other columns, and in capitals; pandas writes an index below an empty name."""
    rows = [row.format(*line.split("\t")) for line in TRAINING.splitlines()]
    found = read(folder_with(**{"train.en.tsv": "\n".join([header, *rows]), "dev.en.tsv": DEV}))
    assert found.training == [tuple(line.split("\t")) for line in TRAINING.splitlines()]
    assert ("columns not read: " in caplog.text) == (header.count("\t") == 2)


def test_compressed_files_and_csv(folder_with, read):
    """Cells of a .csv may be quoted, and hold separators, tabs and line ends."""
    commas = b'\xef\xbb\xbftext,label\r\n"So, ""good"".",nice\r\n"Bad\r\n\tindeed.",nasty\r\n'
    source = folder_with(
        **{
            "train.en.tsv.gz": gzip.compress(TRAINING.encode()),
            "dev.en.csv": commas,
            "dev.de.csv.gz": gzip.compress(b"Fein gut.;nice\n"),
        }
    )
    found = read(source)
    assert found.training == [tuple(line.split("\t")) for line in TRAINING.splitlines()]
    assert found.dev["dev.%s", "en"] == [('So, "good".', "nice"), ("Bad indeed.", "nasty")]
    assert found.dev["dev.%s", "de"] == [("Fein gut.", "nice")]


def test_semicolons_separate_although_the_first_text_has_a_comma(folder_with, read):
    content = "Fine, good.;nice\nBad.;nasty\nGood.;nice\nAwful.;nasty\n"
    found = read(folder_with(**{"train.en.csv": content}), "--do_val", "false")
    assert found.training == [tuple(line.split(";")) for line in content.splitlines()]


def test_files_that_are_not_read_have_a_reason(folder_with, read, caplog):
    faults = dict.fromkeys(
        ("train.engl.tsv", "dev.zh-CN.tsv", "dev.EN.tsv"), "a language has two or three small letters"
    )
    faults |= dict.fromkeys(("train.tsv", "xnli-dev-de.tsv"), "a name is train, dev or test with a language")
    faults["train.en.old.tsv"] = "a name is train, dev or test with a language"
    faults |= dict.fromkeys(("test.de.docx", "all.pdf"), "a name ends in .tsv, .csv")
    source = folder_with(**{"train.en.tsv": TRAINING, "dev.en.tsv": DEV}, **dict.fromkeys(faults, ""))
    read(source)
    for name, fault in faults.items():
        (line,) = (line for line in caplog.messages if f"{source}/{name}" in line)
        assert fault in line


def warnings_of(caplog, source: Path) -> list[str]:
    """What the log says of all files of a source, without its name."""
    found = [line for line in caplog.messages if line.startswith(f"{source}: ") and "vocabulary" not in line]
    return [line.removeprefix(f"{source}: ") for line in found]


def test_labels_that_may_be_slips_are_warned_of(folder_with, read, caplog):
    rows = ["a\tentailment"] * 3 + ["b\tneutral"] * 3 + ["c\tentailmnet", "d\tNeutral", "d\tNeutral"]
    contents = {"train.en.tsv": "\n".join(rows), "dev.en.tsv": "x\tentailment\nx\tNeutral\nx\tneutral\n"}
    source = folder_with(**contents)
    read(source)
    case, absent, neutral, misspelt = warnings_of(caplog, source)
    assert "'Neutral', 'neutral'" in case
    assert "no dev row has one of these labels" in absent and absent.endswith(": 'entailmnet'")
    assert "'Neutral' occurs twice in the training rows; did you mean 'neutral'?" in neutral
    assert "'entailmnet' occurs once in the training rows; did you mean 'entailment'?" in misspelt


def test_many_warnings_are_counted(folder_with, read, caplog):
    """Of 12 labels with one row each; the other two have many."""
    rows = [f"text {i}\t{'ab'[i % 2]}" for i in range(40)] + [f"rare {i}\tr{i}" for i in range(12)]
    source = folder_with(**{"train.en.tsv": "\n".join(rows)})
    read(source, "--do_val", "false")
    found = warnings_of(caplog, source)
    assert (
        sum("occurs once" in line for line in found) == 10
        and "2 more labels have fewer than 3 training rows" in found
    )


def test_a_label_that_only_dev_rows_have_is_warned_of(tmp_path, read, caplog):
    """Three labels have three texts each, of which one is held out; only these have label d, too."""
    rows = [f"text {label} {number}\t{label}" for label in ("a", "b", "c") for number in range(3)]
    for name in ("first", "second"):
        source = tmp_path / f"{name}.tsv"
        source.write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
        held_out = {text for text, _ in read(source, "--multi_label", "true").held_out}
        assert len(held_out) == 3
        rows = [f"{row},d" if row.split("\t")[0] in held_out else row for row in rows]
    assert "the label 'd' never occurs in the training rows" in caplog.text


def test_the_draw_follows_the_ids_of_the_labels(tmp_path, read):
    """Not their names: 10 is behind 9."""
    drawn = []
    for names in ([*map(str, range(13))], "abcdefghijklm"):
        source = tmp_path / "rows.tsv"
        rows = (f"text {i}\t{names[i % 13]}" for i in range(200))
        source.write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
        drawn.append({text for text, _ in read(source).held_out})
    assert drawn[0] == drawn[1]


def test_rows_that_are_odd_are_warned_of(folder_with, read, caplog):
    """A text with two labels, and cells in quotation marks."""
    source = folder_with(**{"train.en.tsv": TRAINING + '"Fine"\tnice\nFine.\tnasty\n'})
    read(source, "--do_val", "false")
    message = f"{source}: 1 text has two labels, as in line 3 and line 6; no model can learn both"
    assert message in caplog.messages
    assert f"{source / 'train.en.tsv'}: 1 of 6 rows have a cell in quotation marks" in caplog.text


def test_space_around_a_label_is_left_out(folder_with, read):
    found = read(folder_with(**{"train.en.tsv": TRAINING + "x\t nice \n"}), "--do_val", "false")
    assert found.labels == ["nasty", "nice"] and found.training[-1] == ("x", "nice")


def test_rows_whose_label_stands_for_none_are_left_out(folder_with, read):
    """Also below the official header."""
    source = folder_with(**{"train.en.tsv": f"text_a\tlabel\n{TRAINING}x\t-\ny\tnan\n"})
    found = read(source, "--do_val", "false")
    assert found.labels == ["nasty", "nice"] and len(found.training) == 4


def test_many_other_files_are_counted(folder_with, read, caplog):
    others = {f"{i}.txt": "" for i in range(10, 22)}
    read(folder_with(**{"train.en.tsv": TRAINING, "dev.en.tsv": DEV}, **others))
    (line,) = [line for line in caplog.messages if line.startswith("not read: ")]
    assert line.count(".txt") == 10 and "19.txt and 2 more (a name " in line


def test_what_a_run_wrote_is_not_read(folder_with, read, monkeypatch, caplog):
    """--checkpoints is in the folder, which is named in another way."""
    source = folder_with(**{"train.en.tsv": TRAINING, "dev.en.tsv": DEV, "deep/out/train.en.tsv": "x\ty\n"})
    monkeypatch.chdir(source)
    assert len(read(source, "--checkpoints", "deep/out").training) == 4
    assert "not used" not in caplog.text


def test_ids_keep_their_meaning(folder_with, read):
    """0 to n - 1 are ids; other numbers are names."""
    ids = [f"text {i}\t{i % 11}" for i in range(44)]
    assert read(folder_with(**{"ids.tsv": "\n".join(ids)}) / "ids.tsv").labels == [str(i) for i in range(11)]
    stars = [f"text {i}\t{1 + i % 5}" for i in range(40)]
    found = read(folder_with(**{"stars.tsv": "\n".join(stars)}) / "stars.tsv")
    assert found.labels == ["1", "2", "3", "4", "5"]


ROWS = [(f"text {i}; it's so", ("nice", "nasty", "so, so")[i % 3]) for i in range(30)]


def joined(row: str, rows=ROWS, header: str = "", end: str = "\n") -> str:
    """The lines of a file. `row`: its form, with {i}, {text} and {label}."""
    lines = [row.format(i=i, text=text, label=label) for i, (text, label) in enumerate(rows)]
    if header:
        lines.insert(0, header)
    return end.join([*lines, ""])


NUMBERED = [(text, str(1 + i % 3)) for i, (text, _) in enumerate(ROWS)]
CHINESE = [(f"第{i}篇评论很短", ("好", "坏")[i % 2]) for i in range(30)]
# The form of a file as people have it -> its name, its content, and the rows in it.
AS_PEOPLE_HAVE_THEM = {
    "pandas": ("reviews.csv", joined('{i},"{text}","{label}"', header=",review,sentiment"), ROWS),
    "pandas without names": ("reviews.csv", joined('{i},"{text}",{label}', NUMBERED, ",0,1"), NUMBERED),
    "pandas without header": ("reviews.csv", joined('{i},"{text}",{label}', NUMBERED), NUMBERED),
    "Excel": (
        "Umfrage 2024.csv",
        "\ufeff" + joined('{label};"{text}";{i}', NUMBERED, "Note;Kommentar;Nr", "\r\n"),
        NUMBERED,
    ),
    "another language": ("数据.tsv", joined("{text}\t{label}", CHINESE, "评论\t类别"), CHINESE),
    "compressed": ("train.tsv.gz", gzip.compress(joined("{text}\t{label}").encode()), ROWS),
    "Windows": ("my.tsv", joined("{label}\t{text}", header="target\tbody", end="\r\n"), ROWS),
    "comma in a label": ("labels.csv", joined('"{text}","{label}"', header="text,label"), ROWS),
    "tabs in a .csv": ("data.CSV", joined("{text}\t{label}\t2024-01-01", header="Text\tTopic\tday"), ROWS),
    "as a split": ("devices.csv", joined('"{text}","{label}"', header="text,label"), ROWS),
    "more columns": ("all.csv", joined('{i},"{text}",x{i},"{label}"', header="id,text,user,kind"), ROWS),
    "all are quoted": ("q.tsv", joined('"{text}"\t"{label}"', header="Comment\tKind"), ROWS),
}


@pytest.mark.parametrize("form", AS_PEOPLE_HAVE_THEM)
def test_one_file_as_people_have_it(folder_with, read, form):
    """A tenth of each label is held out."""
    name, content, rows = AS_PEOPLE_HAVE_THEM[form]
    source = folder_with(**{name: content}) / name
    found = read(source)
    assert [*found.dev] == [(f"held out of {source}".rpartition("/")[2], "all")]
    assert sorted(found.training + found.held_out) == sorted(rows)
    counts = Counter(label for _, label in rows)
    assert Counter(label for _, label in found.held_out) == {
        label: round(count / 10) for label, count in counts.items()
    }
    assert found.labels == sorted(counts)


def test_the_named_columns_are_read(folder_with, read):
    content = joined("{label}\t{text}\tB {text}\t{i}", header="Label\tTitle\tBody\tkind")
    source = folder_with(**{"all.tsv": content}) / "all.tsv"
    found = read(source, "--columns", "Title,Body,Label", "--dev_share", "0.5")
    assert len(found.training) == 15
    assert {*found.training} < {(text, f"B {text}", label) for text, label in ROWS}


def test_a_text_that_occurs_twice_is_no_label(folder_with, read):
    content = joined("{label},{text}", [*NUMBERED, NUMBERED[0]], "stars,review")
    found = read(folder_with(**{"all.csv": content}) / "all.csv")
    assert {*found.training, *found.held_out} == {*NUMBERED}


def test_rows_with_the_same_text_stay_together(folder_with, read):
    """Also in a file with a language. A label with two texts alone stays in the training file."""
    rows = [(f"text {i % 10}", "ab"[i % 2]) for i in range(40)] + [("rare", "c"), ("rarer", "c")]
    found = read(folder_with(**{"train.de.tsv": joined("{text}\t{label}", rows)}))
    assert sorted(Counter(found.held_out).values()) == [4, 4]
    assert {label for _, label in found.held_out} == {"a", "b"}
    assert len(found.training) == 34 and not {*found.training} & {*found.held_out}


def test_several_labels(folder_with, read):
    """The rarest label of a row decides: of 10 rows with b, and of 10 with a or none, 1 each is held out."""
    rows = [(f"text {i}", ("a", "a, b", "")[i % 3]) for i in range(30)]
    source = folder_with(**{"all.csv": joined('{text},"{label}"', rows, "text,label")}) / "all.csv"
    found = read(source, "--multi_label", "true")
    assert found.labels == ["a", "b"]
    assert Counter(label for _, label in found.held_out) == {"a": 1, "a,b": 1, "": 1}


def test_several_labels_without_the_flag_are_warned_of(folder_with, read, caplog):
    rows = [(f"text {i}", ("a", "b,a", "b", "c, d")[i % 4]) for i in range(40)]
    found = read(folder_with(**{"train.en.tsv": joined("{text}\t{label}", rows)}))
    assert found.labels == ["a", "b", "b,a", "c, d"]
    assert "if 'b,a' are several labels of a text, add --multi_label true" in caplog.text


def test_numbers_to_predict(folder_with, read):
    """A tenth of all rows is held out. With --columns under any names."""
    rows = [(f"text {i}", f"{i / 10}") for i in range(30)]
    source = folder_with(**{"all.csv": joined("{text},{label},{i}", rows, "Text,Wert,Nr")}) / "all.csv"
    found = read(source, "--is_regression", "true", "--columns", "Text,Wert")
    assert len(found.held_out) == 3
    assert sorted(found.training + found.held_out) == sorted((text, float(label)) for text, label in rows)


def test_translations_are_divided_at_the_same_rows(folder_with, read):
    german = [(f"Text {i}", label) for i, (_, label) in enumerate(ROWS)]
    contents = {"train.en.tsv": joined("{text}\t{label}"), "train.de.tsv": joined("{text}\t{label}", german)}
    found = read(folder_with(**contents))
    english, german = ([re.findall(r"\d+", text)[0] for text, _ in rows] for rows in found.dev.values())
    assert english == german and len(english) == 3


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"train.en.tsv": ""}, "train.en.tsv: "),
        ({"train.en.tsv": "text_a\tlabel\n"}, "train.en.tsv: "),
        ({"train.en.tsv": "a\tyes\n\tno\n"}, "train.en.tsv, line 2: the text is empty"),
        ({"train.en.tsv": "a\tyes\nb\t \nc\t\n"}, "train.en.tsv, line 2: "),
        ({"train.en.tsv": "text_a\tlabel\na\tb\tc\n"}, "train.en.tsv, line 2: 3 columns, but line 1 has 2"),
        ({"train.en.tsv": "a yes\n"}, "train.en.tsv, line 1: "),
        ({"train.en.csv": "a,b,c,yes\n"}, "train.en.csv, line 1: "),
        ({"train.en.csv": 'a,yes\n"b,no\nc,yes\n'}, "train.en.csv, line 2: "),
        ({"train.en.tsv.gz": b"\x1f\x8b\x08"}, "train.en.tsv.gz: "),
        ({"train.en.tsv": "text\tsentence\tlabel\n"}, "train.en.tsv: "),
        ({"train.en.tsv": "comment\tsentence\tlabel\na\tb\tc\n"}, "train.en.tsv, line 1: "),
        ({"train.en.tsv": "a\tyes\nb\tyes\n"}, "train.en.tsv: the only label is 'yes'"),
        (
            {"train.en.tsv": TRAINING, "dev.en.tsv": "x\trated\nx\tnice\n"},
            "dev.en.tsv, line 1: unknown label 'rated'",
        ),
        ({"train.tsv": TRAINING, "dev.en.tsv": TRAINING}, "my: "),
        (
            {"train.en.tsv": TRAINING, "dev.de.tsv": "premise\thypothesis\tlabel\na\tb\tnice\n"},
            "dev.de.tsv: it has pairs",
        ),
        (
            {
                "train.en.tsv": TRAINING,
                "train.de.tsv": "premise\thypothesis\tlabel\na\tb\tnice\nc\td\tnasty\n",
            },
            "train.de.tsv: it has",
        ),
        (
            {"train.en.tsv": TRAINING, "dev.de.tsv": "text_a\tlabel\nx\tnice\nx\tNice\n"},
            "dev.de.tsv, line 3: unknown label 'Nice'",
        ),
        (
            {"train.en.tsv": "nice\tGood.\nnasty\tBad.\nnice\tFine.\n"},
            "train.en.tsv: 3 labels in 3 rows",
        ),
        ({"train.en.tsv": TRAINING}, "my: too few rows to hold some out"),
    ],
)
def test_bad_files(folder_with, read, contents, message):
    assert message in error_of(read, folder_with(**contents))


@pytest.mark.parametrize(
    "content, columns, message",
    [
        (joined('{i},"{text}",{i},"{label}"', header="id,,a,a"), "b,a", "a.csv, line 1: --columns b"),
        (joined('{i},"{text}",{i},"{label}"', header="id,,a,a"), "a", "--columns a: "),
        (
            joined("{text},{label},{text} too", NUMBERED, "title,stars,subject"),
            "",
            "a.csv, line 1: the text may be 'title' or 'subject', and the label may be 'stars'",
        ),
        (
            joined("{i},{label},{label}", NUMBERED, "id,stars,votes"),
            "",
            "a.csv, line 1: no column looks like texts",
        ),
        (
            joined('"é {text}",{label}', NUMBERED, "text,label").encode("latin-1"),
            "",
            "a.csv, line 2: not UTF-8: '\"é'",
        ),
        (joined("{text},{i}", header="text,label"), "", "a.csv: 30 labels in 30 rows"),
    ],
)
def test_one_file_is_refused(folder_with, read, content, columns, message):
    source = folder_with(**{"a.csv": content}) / "a.csv"
    assert message in error_of(read, source, "--columns", columns)


def test_no_such_source(tmp_path, read):
    assert "none: " in error_of(read, tmp_path / "none")


@pytest.fixture
def train(random_encoder, toy_folder, tmp_path, monkeypatch):
    """train(*flags) runs run_classifier.py for two steps; returns its results.json."""
    monkeypatch.chdir(tmp_path)

    def call(*line: str) -> dict:
        few = ["--max_steps", "2", "--max_seq_len", "16", "--use_cuda", "false", "--checkpoints", "out"]
        call_main(run_classifier, ["--init_pretraining_params", str(random_encoder), *few, *line])
        return json.loads(Path("out/results.json").read_text())

    return call


def test_a_run_on_a_folder(folder_with, train, tmp_path):
    """Nothing but the folder is needed. Dev files select the step, and test files are reported at it."""
    contents = {
        "train.en.tsv": TRAINING * 5,
        "train.de.tsv": TRAINING.replace("Good", "Gut") * 5,
        "dev.de.csv": "Schön.,nice\nBöse.,nasty\n",
        "test.fr.tsv.gz": gzip.compress(b"Beau.\tnice\nFine.\tnice\n"),
    }
    source = folder_with(**contents)
    results = train("--train_set", "my", "--learning_rate", "1e-3")
    assert [(table["title"], next(iter(table["mean"]))) for table in results["tables"]] == [
        ("acc, my/dev.%s", "de"),
        ("acc, my/test.%s", "fr"),
    ]
    config = json.loads(Path("out/best/config.json").read_text())
    assert config["labels"] == ["nasty", "nice"]
    log = read_log(tmp_path)
    assert "my/test.fr.tsv.gz: 1 of 2 rows have a text that is trained on, " in log
    assert "40 examples" in log and " 40 rows: --layerwise_lr_decay " in log  # --rates_of_start
    # What is trained on belongs to the run.
    (source / "train.de.tsv").write_text(TRAINING)
    assert "train_set" in error_of(train, "--train_set", "my", "--learning_rate", "1e-3")


def test_what_is_odd_about_the_rows(folder_with, train, tmp_path):
    """A text with two labels, a dev row and a test row that are trained on, one label nearly alone."""
    rows = [f"text {i}\tmost" for i in range(100)]
    folder_with(
        **{
            "train.en.tsv": "\n".join([*rows, "text 0\tother", "so\tother", "it\tother"]),
            "dev.en.tsv": "text  7\tmost\nnew\tother\n",
            "test.de.tsv": "new\tother\nso\tother\n",
        }
    )
    (tmp_path / "given.tsv").write_text("text_a\nit\nnew\n")
    train("--train_set", "my", "--test_set", "given.tsv")
    log = read_log(tmp_path)
    assert "my/train.en.tsv: 1 text has two labels, as in line 1 and line 101" in log
    assert "my/train.en.tsv: 97.1 % of the rows have one label" in log
    assert "my/dev.en.tsv: 1 of 2 rows have a text that is trained on" in log
    for name in ("my/test.de.tsv", "given.tsv"):
        assert f"{name}: 1 of 2 rows have a text that is trained on" in log


def test_a_run_on_one_file(folder_with, train):
    """The same rows are held out by every process, and the columns may be named."""
    folder_with(**{"all.csv": joined('"{text}","{label}",{i}', header="Was,Art,Zahl")})
    results = train("--train_set", "my/all.csv", "--columns", "Was,Art", "--dev_share", "0.2")
    (table,) = results["tables"]
    assert table["title"] == "acc, held out of my/all.csv"
    (labels,) = results["labels"]
    assert {label: counts["rows"] for label, counts in labels["labels"].items()} == dict.fromkeys(
        ("nasty", "nice", "so, so"), 2
    )


def test_labels_on_a_console_that_is_not_utf_8(folder_with, random_encoder, tmp_path):
    """They are shown as escapes; a control character reaches no terminal."""
    folder_with(**{"train.en.tsv": (TRAINING * 5).replace("nasty", "böse\x1b[2J"), "dev.en.tsv": DEV})
    command = [sys.executable, ROOT / "run_classifier.py", "--train_set", "my", "--max_steps", "1"]
    command += ["--init_pretraining_params", random_encoder, "--use_cuda", "false", "--max_seq_len", "16"]
    environment = {**clean_environment(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert rb"b\xf6se[2J" in process.stdout and b"\x1b" not in process.stdout


def test_what_closed_names_the_road(tmp_path):
    line = error_of(prepare_main, ["own", "my texts", "--output", str(tmp_path / "out")])
    assert "run_classifier --train_set 'my texts' " in line and not (tmp_path / "out").exists()
    recipe = [sys.executable, "-m", "ernie_m", "recipe", "base/own"]
    process = subprocess.run(recipe, env=clean_environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "run_classifier --train_set " in process.stderr
