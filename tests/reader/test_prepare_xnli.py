"""The public NLI releases, in small, become ./data/xnli."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reader.classification import expand, read_classification, read_label_map, read_languages
from scripts.data import prepare_xnli
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HEADER = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\tpromptID\tpairID\tlabel1\n"


def xnli_1_0(folder: Path, splits=("dev", "test"), languages=("ar", "en", "fr")) -> Path:
    """XNLI-1.0: one table for all languages, the same as JSON lines beside it, and a file of no interest."""
    folder.mkdir(parents=True)
    for split in splits:
        rows, objects = [], []
        for language in languages:
            for i, label in enumerate(prepare_xnli.LABELS):
                a, b = f"{language} {split} premise {i}", f'"{language}" hypothesis {i}'
                rows.append(f"{language}\t{label}\tx\t{a}\t{b}\t1\t{i}\t{label}\n")
                objects.append(
                    {"language": language, "gold_label": label, "sentence1": a, "sentence2": b, "pairID": i}
                )
        (folder / f"xnli.{split}.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")
        (folder / f"xnli.{split}.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n")
    (folder / "README.md").write_text("read me")
    return folder


def xnli_mt(folder: Path, languages=("en", "sw")) -> Path:
    """XNLI-MT-1.0: translated training pairs; test sets translated into English, which are not used."""
    (folder / "multinli").mkdir(parents=True)
    for language in languages:
        rows = [
            f"{language} p{i}\t{language} h{i}\t{label}\n"
            for i, label in enumerate(["contradictory", "neutral"])
        ]
        (folder / "multinli" / f"multinli.train.{language}.tsv").write_text(
            "premise\thypo\tlabel\n" + "".join(rows)
        )
    xnli_1_0(folder / "xnli").joinpath("xnli.test.tsv").rename(folder / "xnli" / "xnli.test.en.tsv")
    return folder


def prepare(*arguments) -> None:
    prepare_xnli.main([str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_both_releases(tmp_path, capsys):
    out = tmp_path / "data/xnli"
    prepare(xnli_1_0(tmp_path / "XNLI-1.0"), xnli_mt(tmp_path / "XNLI-MT-1.0"), "--output", out)
    assert files(out) == [
        *(f"dev/dev.{language}.tsv" for language in ("ar", "en", "fr")),
        "label_map.json",
        "lang_map.json",
        *(f"test/test.{language}.tsv" for language in ("ar", "en", "fr")),
        *(f"train/train.{language}.tsv" for language in ("all", "en", "sw")),
    ]
    label_map = read_label_map(out / "label_map.json", 3)
    assert label_map == {"contradiction": 0, "entailment": 1, "neutral": 2}
    languages = read_languages(out / "lang_map.json")
    assert languages == ["en", "fr", "ar"]  # the order of the paper's tables
    for paths in expand(f"{out}/dev/dev.%s.tsv,{out}/test/test.%s.tsv", languages, "--dev_set").values():
        for language, path in paths.items():
            examples = list(read_classification(path, label_map))
            assert [example.label for example in examples] == [0, 1, 2]
            assert examples[1].text_b == f'"{language}" hypothesis 1' and examples[1].qid == "1"
    joint = list(read_classification(out / "train/train.all.tsv", label_map))
    assert [(e.text_a, e.text_b, e.label) for e in joint] == [
        ("en p0", "en h0", 0),
        ("en p1", "en h1", 2),
        ("sw p0", "sw h0", 0),
        ("sw p1", "sw h1", 2),
    ]
    printed = capsys.readouterr().out
    assert "train  sw                    1             0             1         2        0" in printed
    assert "xnli.test.en.tsv" not in printed


def test_the_first_source_counts(tmp_path, capsys):
    original = tmp_path / "multinli_1.0"
    original.mkdir()
    rows = [
        {"gold_label": "entailment", "sentence1": "a\tb", "sentence2": "c\n d ", "pairID": "1e"},
        {"gold_label": "-", "sentence1": "a", "sentence2": "b"},
        {"gold_label": "neutral", "sentence1": "n/a", "sentence2": " "},
        {"gold_label": "neutral", "sentence1": "a"},
    ]
    (original / "multinli_1.0_train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(original, xnli_mt(tmp_path / "mt"), "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "multinli.train.en.tsv (train en is taken from" in printed
    for reason in ("1 without a gold label", "1 with an empty text", "1 malformed"):
        assert f"dropped from train en: {reason}" in printed
    text = (tmp_path / "out/train/train.en.tsv").read_text()
    assert text == "text_a\ttext_b\tlabel\tqid\na b\tc  d\tentailment\t1e\n"
    # train.all.tsv has the columns that all have
    assert (tmp_path / "out/train/train.all.tsv").read_text().splitlines()[:2] == [
        "text_a\ttext_b\tlabel",
        "a b\tc  d\tentailment",
    ]
    assert "lang_map.json is not written" in printed and not (tmp_path / "out/lang_map.json").exists()


@pytest.mark.parametrize(
    "name",
    ["train-en.tsv", "train.en.tsv", "xnli-dev-sw.tsv", "dev_zh.tsv", "valid.fr.tsv", "xnli-test-ur.tsv"],
)
def test_plain_files(tmp_path, name):
    source = tmp_path / "in" / name
    source.parent.mkdir()
    source.write_text("premise one\tthe hypothesis\tentailment\na\tb\tneutral\n")
    prepare(source.parent, "--output", tmp_path / "out")
    *_, split, language, _ = name.replace("-", ".").replace("_", ".").replace("valid", "dev").split(".")
    examples = read_classification(
        tmp_path / f"out/{split}/{split}.{language}.tsv", {"entailment": 1, "neutral": 2}
    )
    assert [example.label for example in examples] == [1, 2] and examples[0].text_a == "premise one"
    assert "all" not in " ".join(files(tmp_path / "out"))


def test_its_own_output_is_a_source(tmp_path):
    prepare(xnli_1_0(tmp_path / "XNLI-1.0"), xnli_mt(tmp_path / "mt"), "--output", tmp_path / "first")
    prepare(tmp_path / "first", "--output", tmp_path / "second")
    for name in files(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_a_language_of_dev_only_is_left_out_of_the_map(tmp_path, capsys):
    xnli_1_0(tmp_path / "a", ["dev"], ["en", "fr"])
    xnli_1_0(tmp_path / "b", ["test"], ["en"])
    prepare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]
    assert "lang_map.json leaves out fr: not in both dev and test" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("notes.tsv", b"a\tb\tneutral\n", "no file there has a known name"),
        ("train-en.tsv", b"", r"train-en.tsv: no usable row \(the file is empty\)"),
        ("train-en.tsv", b"a\tb\n", "train-en.tsv, line 1: 2 columns that are neither"),
        ("train-en.tsv", b"a\tb\tneutral\n\xff\tb\tneutral\n", "train-en.tsv, line 2: not UTF-8"),
        (
            "train-en.tsv",
            b"a\tb\tyes\na\tb\tyes\n",
            r"no usable row \(train en: 2 with the unknown label 'yes'\)",
        ),
        ("multinli_1.0_train.jsonl", b"{\n", "multinli_1.0_train.jsonl, line 1: not JSON"),
    ],
)
def test_bad_sources(tmp_path, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "in", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []


def test_a_language_must_be_a_code(tmp_path):
    xnli_1_0(tmp_path / "in", ["dev"], ["../x", "en"])
    prepare(tmp_path / "in", "--output", tmp_path / "out")
    assert files(tmp_path / "out") == ["dev/dev.en.tsv", "label_map.json", "lang_map.json"]


def test_an_error_leaves_the_previous_files(tmp_path):
    source = tmp_path / "in" / "train-en.tsv"
    source.parent.mkdir()
    source.write_text("a\tb\tneutral\n")
    prepare(source, "--output", tmp_path / "out")
    before = (tmp_path / "out/train/train.en.tsv").read_bytes()
    source.write_bytes(b"c\td\tneutral\n\xff\n")
    with pytest.raises(UserError):
        prepare(source, "--output", tmp_path / "out")
    assert (tmp_path / "out/train/train.en.tsv").read_bytes() == before
    assert files(tmp_path / "out") == ["label_map.json", "train/train.en.tsv"]


@pytest.mark.data
def test_the_real_folder_as_a_command(data_dir, tmp_path):
    """As a user runs it; the imports of the repository are found from any folder."""
    command = [sys.executable, ROOT / "scripts/data/prepare_xnli.py", data_dir / "nli"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "data/xnli"
    label_map = read_label_map(out / "label_map.json", 3)
    assert len(read_classification(out / "train/train.en.tsv", label_map)) == 39302
    assert read_languages(out / "lang_map.json") == ["en", "fr", "es", "de", "ar", "zh", "hi", "sw"]
    for language in read_languages(out / "lang_map.json"):
        assert len(read_classification(out / f"dev/dev.{language}.tsv", label_map)) == 2490
    assert not (out / "test").exists()


def test_errors_as_a_command(tmp_path):
    command = [sys.executable, ROOT / "scripts/data/prepare_xnli.py", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: no such file or folder\n")
