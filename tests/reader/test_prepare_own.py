"""`prepare.py own`: labelled texts of the user's own."""

import gzip
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from reader.batching import Example
from reader.classification import read_classification
from reader.task_files import read_label_map, read_languages
from scripts.data.own import prepare_own
from tests.launching import ROOT, error_of
from tests.reader.conftest import files

TRAINING = "Good.\tnice\nBad.\tnasty\nFine.\tnice\nAwful.\tnasty\n"


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


def test_texts_with_a_header_or_without(folder_with, tmp_path):
    source = folder_with(**{"train.en.tsv": f"text_a\tlabel\n{TRAINING}", "dev-de.tsv": "Gut.\tnice\r\n\n"})
    out = tmp_path / "out"
    prepare_own([source], out)
    labels = read_label_map(out / "label_map.json", 2)
    assert labels == {"nasty": 0, "nice": 1}
    (example,) = read_classification(out / "dev/dev.de.tsv", labels)
    assert example == Example("Gut.", text_b=None, label=1)
    training = read_classification(out / "train/train.en.tsv", labels)
    assert training[0] == Example("Good.", text_b=None, label=1) and len(training) == 4


def test_pairs_in_two_languages(folder_with, tmp_path):
    source = folder_with(
        **{"train.en.tsv": "a\tb\tyes: c\nd\te\tno\n", "train.de.tsv": "f\tg\tno\nh\ti\tyes: c\n"}
    )
    prepare_own([source], tmp_path / "out")
    joint = read_classification(tmp_path / "out/train/train.all.tsv", {"no": 0, "yes: c": 1})
    assert [example[:3] for example in joint] == [("a", "b", 1), ("d", "e", 0), ("f", "g", 0), ("h", "i", 1)]


def test_dev_files_alone_decide_which_languages_are_evaluated(folder_with, tmp_path):
    splits = ("dev.fr", "dev.en", "dev.de", "test.fr", "test.de")
    source = folder_with(**{f"{name}.tsv": "x\tnice\n" for name in splits}, **{"train.en.tsv": TRAINING})
    prepare_own([source], tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en", "de", "fr"]
    assert read_languages(tmp_path / "out/test/lang_map.json") == ["de", "fr"]


def test_labels_are_counted(folder_with, tmp_path, capsys):
    source = folder_with(**{"train.en.tsv": TRAINING + "x\tnice\n", "dev.de.tsv": "x\tnasty\n"})
    folder_with(**{"a/dev.de.tsv": "y\tnice\ny\tnice\n"})
    prepare_own([source], tmp_path / "out")
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["nasty", "2", "0"] in rows and ["nice", "3", "2"] in rows  # train, and dev of a/
    assert f"not used: {source}/dev.de.tsv; dev de is {source}/a/dev.de.tsv" in printed
    assert "--do_val false" not in printed


@pytest.mark.parametrize(
    "header, row",
    [("sentence\tlabel", "{}\t{}"), ("\tLabels\tText", "7\t{1}\t{0}"), ("id\tpremise\tclass", "7\t{}\t{}")],
)
def test_a_header_with_usual_names(folder_with, tmp_path, capsys, header, row):
    """In any order, with other columns, and in capitals; pandas writes an index below an empty name."""
    rows = [row.format(*line.split("\t")) for line in TRAINING.splitlines()]
    prepare_own([folder_with(**{"train.en.tsv": "\n".join([header, *rows])})], tmp_path / "out")
    assert (tmp_path / "out/train/train.en.tsv").read_text() == f"text_a\tlabel\n{TRAINING}"
    assert ("columns not read: " in capsys.readouterr().out) == (header.count("\t") == 2)


def test_compressed_files_and_csv(folder_with, tmp_path):
    """Cells of a .csv may be quoted, and hold separators, tabs and line ends."""
    commas = b'\xef\xbb\xbftext,label\r\n"So, ""good"".",nice\r\n"Bad\r\n\tindeed.",nasty\r\n'
    semicolons = "Fein, gut.;nice\n".replace(",", "").encode()
    source = folder_with(
        **{
            "train.en.tsv.gz": gzip.compress(TRAINING.encode()),
            "dev.en.csv": commas,
            "dev.de.csv.gz": gzip.compress(semicolons),
        }
    )
    prepare_own([source], tmp_path / "out")
    assert (tmp_path / "out/train/train.en.tsv").read_text() == f"text_a\tlabel\n{TRAINING}"
    english = (tmp_path / "out/dev/dev.en.tsv").read_text()
    assert english == 'text_a\tlabel\nSo, "good".\tnice\nBad indeed.\tnasty\n'
    assert (tmp_path / "out/dev/dev.de.tsv").read_text() == "text_a\tlabel\nFein gut.\tnice\n"


def test_semicolons_separate_although_the_first_text_has_a_comma(folder_with, tmp_path):
    content = "Fine, good.;nice\nBad.;nasty\nGood.;nice\nAwful.;nasty\n"
    prepare_own([folder_with(**{"train.en.csv": content})], tmp_path / "out")
    written = (tmp_path / "out/train/train.en.tsv").read_text()
    assert written == f"text_a\tlabel\n{content}".replace(";", "\t")


def test_files_that_are_not_read_have_a_reason(folder_with, tmp_path, capsys):
    faults = dict.fromkeys(
        ("train.engl.tsv", "dev.zh-CN.tsv", "dev.EN.tsv"), "a language has two or three small letters"
    )
    faults |= dict.fromkeys(("train.tsv", "xnli-dev-de.tsv"), "a name is train, dev or test with a language")
    faults["train.en.old.tsv"] = "a name is train, dev or test with a language"
    faults |= dict.fromkeys(("test.de.xlsx", "all.xlsx"), "a name ends in .tsv, .csv")
    source = folder_with(**{"train.en.tsv": TRAINING}, **dict.fromkeys(faults, ""))
    prepare_own([source], tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    for name, fault in faults.items():
        (line,) = (line for line in lines if f"{source}/{name}" in line)
        assert fault in line


def test_labels_that_may_be_slips_are_warned_of(folder_with, tmp_path, capsys):
    rows = ["a\tentailment"] * 3 + ["b\tneutral"] * 3 + ["c\tentailmnet", "d\tNeutral", "d\tNeutral"]
    contents = {"train.en.tsv": "\n".join(rows), "dev.en.tsv": "x\tentailment\nx\tNeutral\nx\tneutral\n"}
    prepare_own([folder_with(**contents)], tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    case, absent, neutral, misspelt = warnings
    assert "'Neutral', 'neutral'" in case
    assert "no dev row has one of these labels" in absent and absent.endswith(": 'entailmnet'")
    assert "'Neutral' occurs twice in the training files; did you mean 'neutral'?" in neutral
    assert "'entailmnet' occurs once in the training files; did you mean 'entailment'?" in misspelt


def test_a_label_that_only_dev_rows_have_is_warned_of(tmp_path, capsys):
    """Three labels have three texts each, of which one becomes a dev row; only these have label d, too."""
    rows = [f"text {label} {number}\t{label}" for label in ("a", "b", "c") for number in range(3)]
    for out in ("first", "second"):
        source = tmp_path / f"{out}.tsv"
        source.write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
        prepare_own([source], tmp_path / out, multi_label=True)
        dev = (tmp_path / out / "dev/dev.all.tsv").read_text(encoding="utf-8")
        rows = [f"{row},d" if row.split("\t")[0] in dev else row for row in rows]
    assert "the label 'd' never occurs in the training files" in capsys.readouterr().out


def test_quoted_cells_are_warned_of(folder_with, tmp_path, capsys):
    source = folder_with(**{"train.en.tsv": TRAINING + '"Fine"\tnice\nSo "so"\tnasty\n'})
    prepare_own([source], tmp_path / "out")
    assert (
        f"warning: {source}/train.en.tsv: 1 of 6 rows have a cell in quotation marks"
        in capsys.readouterr().out
    )


def test_space_around_a_label_is_left_out(folder_with, tmp_path):
    prepare_own([folder_with(**{"train.en.tsv": TRAINING + "x\t nice \n"})], tmp_path / "out")
    assert read_label_map(tmp_path / "out/label_map.json") == {"nasty": 0, "nice": 1}
    assert (tmp_path / "out/train/train.en.tsv").read_text().endswith("x\tnice\n")


def test_many_other_files_are_counted(folder_with, tmp_path, capsys):
    source = folder_with(**{"train.en.tsv": TRAINING}, **{f"{i}.txt": "" for i in range(10, 22)})
    prepare_own([source], tmp_path / "out")
    printed = capsys.readouterr().out
    assert printed.count(".txt") == 10 and "19.txt, and 2 more (a name " in printed


def test_without_a_dev_file(folder_with, tmp_path):
    """lang_map.json is written all the same, because own.sh reads it unless it is given --do_val false."""
    prepare_own([folder_with(**{"train.en.tsv": TRAINING})], tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]


def test_what_it_wrote_itself_is_not_read(folder_with, tmp_path, monkeypatch, capsys):
    """The output is in a folder of the sources, which is named in another way."""
    source = folder_with(**{"train.en.tsv": TRAINING, "dev.en.tsv": "x\tnice\ny\tnasty\n"})
    monkeypatch.chdir(source)
    printed = []
    for _ in range(2):
        prepare_own([source], Path("deep/out"))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "not used" not in printed[0]


def test_labels_on_a_console_that_is_not_utf_8(folder_with, tmp_path):
    """They are shown as escapes; a control character reaches no terminal."""
    source = folder_with(**{"train.en.tsv": TRAINING.replace("nasty", "böse\x1b[2J\0")})
    command = [sys.executable, ROOT / "scripts/data/prepare.py", "own", source, "--output", tmp_path / "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert rb"b\xf6se[2J" in process.stdout and b"\x1b" not in process.stdout + process.stderr


@pytest.mark.parametrize(
    "names, output, commands",
    [
        (["train.en", "dev.en"], "data/own", ["sh scripts/base/own.sh "]),
        (["train.de"], "data/own", ["sh scripts/base/own.sh --do_val false "]),
        (
            ["train.sw", "train.de", "dev.de"],
            "my out",
            [
                "OWN_DATA='my out' sh scripts/base/own.sh ",
                "OWN_DATA='my out' sh scripts/base/own.sh --train_set 'my out/train/train.all.tsv' ",
            ],
        ),
    ],
)
def test_the_next_commands(folder_with, tmp_path, monkeypatch, capsys, names, output, commands):
    """The first one gets the weights, which are not there."""
    monkeypatch.chdir(tmp_path)
    prepare_own([folder_with(**{f"{name}.tsv": TRAINING for name in names})], Path(output))
    _, _, printed = capsys.readouterr().out.partition("next:\n")
    weights, *lines = printed.splitlines()
    assert weights.startswith("sh scripts/data/get_weights.sh vocab base ")
    assert [line.partition("   #")[0] for line in lines] == commands


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
}


@pytest.mark.parametrize("form", AS_PEOPLE_HAVE_THEM)
def test_one_file_as_people_have_it(folder_with, tmp_path, capsys, form):
    """A tenth of each label is held out, and the last line is the command that trains."""
    name, content, rows = AS_PEOPLE_HAVE_THEM[form]
    prepare_own([folder_with(**{name: content}) / name], tmp_path / "out")
    written = {}
    for split in ("train", "dev"):
        header, *lines = (tmp_path / f"out/{split}/{split}.all.tsv").read_text().splitlines()
        assert header == "text_a\tlabel"
        written[split] = [tuple(line.split("\t")) for line in lines]
    assert sorted(written["train"] + written["dev"]) == sorted(rows)
    counts = Counter(label for _, label in rows)
    assert Counter(label for _, label in written["dev"]) == {
        label: round(count / 10) for label, count in counts.items()
    }
    assert list(read_label_map(tmp_path / "out/label_map.json")) == sorted(counts)
    assert read_languages(tmp_path / "out/lang_map.json") == ["all"]
    command = capsys.readouterr().out.splitlines()[-1]
    assert command.startswith(f"OWN_DATA={tmp_path}/out sh scripts/base/own.sh    # trains on all")


def test_the_named_columns_are_read(folder_with, tmp_path):
    content = joined("{label}\t{text}\tB {text}\t{i}", header="Label\tTitle\tBody\tkind")
    source = folder_with(**{"all.tsv": content})
    prepare_own([source / "all.tsv"], tmp_path / "out", ["Title", "Body", "Label"], dev_share=0.5)
    training = (tmp_path / "out/train/train.all.tsv").read_text().splitlines()
    assert training[0] == "text_a\ttext_b\tlabel" and len(training) == 16
    assert {tuple(line.split("\t")) for line in training[1:]} < {
        (text, f"B {text}", label) for text, label in ROWS
    }


def test_a_text_that_occurs_twice_is_no_label(folder_with, tmp_path):
    content = joined("{label},{text}", [*NUMBERED, NUMBERED[0]], "stars,review")
    prepare_own([folder_with(**{"all.csv": content}) / "all.csv"], tmp_path / "out")
    header, *rows = (tmp_path / "out/train/train.all.tsv").read_text().splitlines()
    assert header == "text_a\tlabel" and set(rows) < {"\t".join(row) for row in NUMBERED}


def test_rows_with_the_same_text_stay_together(folder_with, tmp_path):
    """Also in a file with a language. A label with two texts alone stays in the training file."""
    rows = [(f"text {i % 10}", "ab"[i % 2]) for i in range(40)] + [("rare", "c"), ("rarer", "c")]
    prepare_own([folder_with(**{"train.de.tsv": joined("{text}\t{label}", rows)})], tmp_path / "out")
    held_out = (tmp_path / "out/dev/dev.de.tsv").read_text().splitlines()[1:]
    assert Counter(held_out).most_common() == [(line, 4) for line in held_out[:1] + held_out[1:2]]
    training = (tmp_path / "out/train/train.de.tsv").read_text().splitlines()[1:]
    assert len(training) == 34 and not set(training) & set(held_out)


def test_several_labels(folder_with, tmp_path, capsys):
    """The rarest label of a row decides: of 10 rows with b, and of 10 with a or none, 1 each is held out."""
    rows = [(f"text {i}", ("a", "a, b", "")[i % 3]) for i in range(30)]
    source = folder_with(**{"all.csv": joined('{text},"{label}"', rows, "text,label")})
    prepare_own([source / "all.csv"], tmp_path / "out", multi_label=True)
    assert read_label_map(tmp_path / "out/label_map.json") == {"a": 0, "b": 1}
    held_out = (tmp_path / "out/dev/dev.all.tsv").read_text().splitlines()[1:]
    assert Counter(line.partition("\t")[2] for line in held_out) == {"a": 1, "a, b": 1, "": 1}
    printed = capsys.readouterr().out
    assert "own.sh --multi_label true    #" in printed
    counts = [line.split() for line in printed.splitlines()]
    assert ["a", "18", "2"] in counts and ["b", "9", "1"] in counts


def test_several_labels_without_the_flag_are_warned_of(folder_with, tmp_path, capsys):
    rows = [(f"text {i}", ("a", "b,a", "b", "c, d")[i % 4]) for i in range(40)]
    prepare_own([folder_with(**{"train.en.tsv": joined("{text}\t{label}", rows)})], tmp_path / "out")
    assert read_label_map(tmp_path / "out/label_map.json").keys() == {"a", "b,a", "b", "c, d"}
    assert "warning: if 'b,a' are several labels of a text, add --multi_label true" in capsys.readouterr().out


def test_translations_are_divided_at_the_same_rows(folder_with, tmp_path):
    german = [(f"Text {i}", label) for i, (_, label) in enumerate(ROWS)]
    contents = {"train.en.tsv": joined("{text}\t{label}"), "train.de.tsv": joined("{text}\t{label}", german)}
    prepare_own([folder_with(**contents)], tmp_path / "out")
    english, *others = (
        [
            re.findall(r"\d+", line)[0]
            for line in (tmp_path / f"out/dev/dev.{language}.tsv").open()
            if "label" not in line
        ]
        for language in ("en", "de")
    )
    assert [english] == others and len(english) == 3


def test_files_of_an_earlier_call_are_refused(folder_with, tmp_path):
    out = tmp_path / "out"
    source = folder_with(**{"train.en.tsv": TRAINING, "train.de.tsv": TRAINING, "test.de.tsv": "x\tnice\n"})
    prepare_own([source], out)
    prepare_own([source], out)  # the same files again
    before = files(out)
    (source / "train.de.tsv").unlink()
    (source / "test.de.tsv").unlink()
    leftovers = f"{out}/train/train.all.tsv, {out}/train/train.de.tsv, {out}/test/test.de.tsv"
    message = f"{leftovers}: written by an earlier call, and not"
    assert message in error_of(prepare_own, [source], out)
    assert files(out) == before


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"train.en.tsv": ""}, "train.en.tsv: "),
        ({"train.en.tsv": "text_a\tlabel\n"}, "train.en.tsv: "),
        ({"train.en.tsv": "a\tyes\n\tno\n"}, "train.en.tsv, line 2: the text_a is empty"),
        ({"train.en.tsv": "a\tyes\nb\t \nc\t\n"}, "train.en.tsv, line 2: "),
        ({"train.en.tsv": "text_a\tlabel\na\tb\tc\n"}, "train.en.tsv, line 2: 3 columns, but line 1 has 2"),
        ({"train.en.tsv": "a yes\n"}, "train.en.tsv, line 1: "),
        ({"train.en.csv": "1,2,a,yes\n"}, "train.en.csv, line 1: 4 columns"),
        ({"train.en.csv": 'a,yes\n"b,no\n'}, "train.en.csv, line 3: not CSV"),
        ({"train.en.tsv.gz": b"\x1f\x8b\x08"}, "train.en.tsv.gz: "),
        ({"train.en.tsv": "text\tsentence\tlabel\n"}, "train.en.tsv, line 1: "),
        ({"train.en.tsv": "a\tyes\nb\tyes\n"}, "train.en.tsv: the only label is 'yes'"),
        (
            {"train.en.tsv": TRAINING, "dev.en.tsv": "review\trating\nx\tnice\n"},
            "dev.en.tsv, line 1: the label 'rating'",
        ),
        ({"train.tsv": TRAINING, "dev.en.tsv": TRAINING}, "my: "),
        ({"train.en.tsv": TRAINING, "dev.de.tsv": "a\tb\tnice\n"}, "dev.de.tsv: 3 columns, but "),
        (
            {"train.en.tsv": TRAINING, "dev.de.tsv": "text_a\tlabel\nx\tnice\nx\tNice\n"},
            "dev.de.tsv, line 3: label 'Nice'",
        ),
        (
            {"train.en.tsv": "nice\tGood.\nnasty\tBad.\nnice\tFine.\n"},
            "train.en.tsv: 3 labels in 3 rows",
        ),
    ],
)
def test_bad_files(folder_with, tmp_path, contents, message):
    assert message in error_of(prepare_own, [folder_with(**contents)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "contents, columns, message",
    [
        (
            {"a.csv": joined('{i},"{text}",{i},"{label}"', header="id,,a,a")},
            ["b", "a"],
            "a.csv, line 1: --columns b",
        ),
        (
            {"a.csv": joined("{text},{label},t{i}", NUMBERED, "title,stars,body")},
            [],
            "may be 'title' or 'body', and the label may be 'stars'; say which, as in --columns title,stars",
        ),
        (
            {"a.csv": joined("{i},{label},{label}", NUMBERED, "id,stars,votes")},
            [],
            "the label may be 'stars' or 'votes'",
        ),
        ({"a.txt": TRAINING}, [], "a.txt: "),
        ({"a.tsv": TRAINING, "b.tsv": TRAINING}, [], "b.tsv: "),
        ({"a.tsv": TRAINING, "train.en.tsv": TRAINING}, [], "a.tsv: "),
        (
            {"a.csv": joined('"{text}",{label}', NUMBERED, "text,label").encode("utf-16")},
            [],
            "a.csv, line 1: not UTF-8",
        ),
        ({"a.csv": joined("{text},{i}", header="text,label")}, [], "a.csv: 30 labels in 30 rows"),
    ],
)
def test_one_file_is_refused(folder_with, tmp_path, contents, columns, message):
    sources = [folder_with(**contents) / name for name in contents]
    assert message in error_of(prepare_own, sources, tmp_path / "out", columns)
    assert not (tmp_path / "out").exists()


def test_no_such_source(tmp_path):
    assert "none: " in error_of(prepare_own, [tmp_path / "none"], tmp_path / "out")
