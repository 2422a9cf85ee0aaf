"""The scripts that lay out public data sets: small releases become the files that the programs read."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reader.bitext import read_bitexts
from reader.classification import read_classification, read_label_map, read_languages
from reader.question_answering import read_squad
from reader.tagging import read_tagged
from scripts.data import prepare_conll, prepare_mlqa, prepare_pawsx, prepare_tatoeba, prepare_xnli
from tests.reader.conftest import files
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def prepare(script, *arguments) -> None:
    script.main([str(argument) for argument in arguments])


def write(folder: Path, **contents: str) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


XNLI, PAWSX, CONLL, MLQA = prepare_xnli.XNLI, prepare_pawsx.PAWSX, prepare_conll.CONLL, prepare_mlqa.MLQA


@pytest.mark.parametrize(
    "data_set, path, expected",
    [
        (XNLI, "xnli.dev.jsonl", ("dev", "*")),
        (XNLI, "multinli/multinli.train.sw.tsv", ("train", "sw")),
        (XNLI, "multinli_1.0_train.txt", ("train", "en")),
        (XNLI, "train-en.tsv", ("train", "en")),
        (XNLI, "xnli-dev-sw.tsv", ("dev", "sw")),
        (XNLI, "valid.fr.tsv", ("dev", "fr")),
        (XNLI, "test_zh.tsv", ("test", "zh")),
        (XNLI, "train.all.tsv", None),
        (XNLI, "notes.tsv", None),
        (PAWSX, "x-final/de/translated_train.tsv", ("train", "de")),
        (PAWSX, "x-final/zh/test_2k.tsv", ("test", "zh")),
        (PAWSX, "dev-ja.tsv", ("dev", "ja")),
        (CONLL, "eng.testa", ("dev", "en")),
        (CONLL, "ner/data/ned.train.gz", ("train", "nl")),
        (CONLL, "panx-valid.zh.txt", ("dev", "zh")),
        (CONLL, "zh/dev", ("dev", "zh")),
        (CONLL, "train.all.tsv", None),
        (MLQA, "train-v1.1.json", ("train", "en")),
        (MLQA, "dev/dev-context-zh-question-zh.json", ("dev", "zh")),
        (MLQA, "dev/dev-context-zh-question-en.json", None),
        (MLQA, "xquad.el.json", ("xquad", "el")),
        (MLQA, "train-en.tydiqa-goldp.json", ("train", "en")),
        (MLQA, "dev-v2.0.json", None),
    ],
)
def test_names(data_set, path, expected):
    found = data_set.recognise(Path(path))
    assert (found and found[1:]) == expected


# XNLI


def xnli_1_0(folder: Path, languages=("ar", "en", "fr")) -> Path:
    """XNLI-1.0: one table for all languages, the same as JSON lines beside it, and a file of no interest."""
    for split in ("dev", "test"):
        table, objects = "language\tgold_label\tsentence1\tsentence2\tpromptID\tpairID\tlabel1\n", ""
        for language in languages:
            for i, label in enumerate(prepare_xnli.LABELS):
                a, b = f"{language} {split} premise {i}", f'"{language}" hypothesis {i}'
                table += f"{language}\t{label}\t{a}\t{b}\t1\t{i}\t{label}\n"
                row = {"language": language, "gold_label": label, "sentence1": a, "sentence2": b, "pairID": i}
                objects += json.dumps(row) + "\n"
        write(folder, **{f"xnli.{split}.tsv": table, f"xnli.{split}.jsonl": objects})
    return write(folder, **{"README.md": "read me"})


def xnli_mt(folder: Path, languages=("en", "sw")) -> Path:
    """XNLI-MT-1.0: translated training pairs; test sets translated into English, which are not used."""
    for one in languages:
        rows = f"premise\thypo\tlabel\n{one} p0\t{one} h0\tcontradictory\n{one} p1\t{one} h1\tneutral\n"
        write(folder / "multinli", **{f"multinli.train.{one}.tsv": rows})
    return write(folder, **{"xnli/xnli.test.en.tsv": "a\tb\tneutral\n"})


def test_xnli_both_releases(tmp_path, capsys):
    out = tmp_path / "data/xnli"
    source = xnli_1_0(tmp_path / "XNLI-1.0")
    prepare(prepare_xnli, source, xnli_mt(tmp_path / "XNLI-MT-1.0"), "--output", out)
    assert files(out) == [
        *(f"dev/dev.{language}.tsv" for language in ("ar", "en", "fr")),
        "label_map.json",
        "lang_map.json",
        *(f"test/test.{language}.tsv" for language in ("ar", "en", "fr")),
        *(f"train/train.{language}.tsv" for language in ("all", "en", "sw")),
    ]
    label_map = read_label_map(out / "label_map.json", 3)
    assert label_map == {"contradiction": 0, "entailment": 1, "neutral": 2}
    assert read_languages(out / "lang_map.json") == ["en", "fr", "ar"]  # the order of the paper's tables
    for path in (out / "dev/dev.fr.tsv", out / "test/test.fr.tsv"):
        examples = list(read_classification(path, label_map))
        assert [example.label for example in examples] == [0, 1, 2]
        assert examples[1].text_b == '"fr" hypothesis 1' and examples[1].qid == "1"
    joint = list(read_classification(out / "train/train.all.tsv", label_map))
    assert [(e.text_a, e.text_b, e.label) for e in joint] == [
        ("en p0", "en h0", 0), ("en p1", "en h1", 2), ("sw p0", "sw h0", 0), ("sw p1", "sw h1", 2),
    ]  # fmt: skip
    assert re.search(r"train +sw +1 +0 +1 +2 +0\n", capsys.readouterr().out)


def test_xnli_the_first_source_counts(tmp_path, capsys):
    rows = [
        {"gold_label": "entailment", "sentence1": "a\tb", "sentence2": "c\n d ", "pairID": "1e"},
        {"gold_label": "-", "sentence1": "a", "sentence2": "b"},
        {"gold_label": "neutral", "sentence1": "n/a", "sentence2": " "},
        {"gold_label": "neutral", "sentence1": "a"},
    ]
    lines = "\n".join(map(json.dumps, rows))
    original = write(tmp_path / "multinli_1.0", **{"multinli_1.0_train.jsonl": lines})
    prepare(prepare_xnli, original, xnli_mt(tmp_path / "mt"), "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "multinli.train.en.tsv (train en is taken from" in printed
    for reason in ("1 without a gold label", "1 with an empty text", "1 malformed"):
        assert f"dropped from train en: {reason}" in printed
    text = (tmp_path / "out/train/train.en.tsv").read_text()
    assert text == "text_a\ttext_b\tlabel\tqid\na b\tc  d\tentailment\t1e\n"
    # train.all.tsv has the columns that all have
    joint = (tmp_path / "out/train/train.all.tsv").read_text().splitlines()
    assert joint[:2] == ["text_a\ttext_b\tlabel", "a b\tc  d\tentailment"]
    assert "lang_map.json is not written" in printed and not (tmp_path / "out/lang_map.json").exists()


# PAWS-X and Tatoeba


def pairs(path: Path) -> list[tuple]:
    return [(e.text_a, e.text_b, e.label, e.qid) for e in read_classification(path, {"0": 0, "1": 1})]


def test_pawsx_the_release(tmp_path, capsys):
    """A folder per language; the last training and development row of de is not translated."""
    for language in ("de", "en", "zh"):
        train = "train" if language == "en" else "translated_train"
        for name, count in ((train, 4), ("dev_2k", 3), ("test_2k", 2)):
            rows = [f'{i}\t{language} {name} "{i}" .\t""other"" {i}\t{i % 2}\n' for i in range(1, count + 1)]
            if language == "de" and name != "test_2k":
                rows[-1] = f"{count}\tNS\tetwas\t0\n"
            table = "id\tsentence1\tsentence2\tlabel\n" + "".join(rows)
            write(tmp_path / "x-final" / language, **{f"{name}.tsv": table})
    out = tmp_path / "data"
    prepare(prepare_pawsx, tmp_path / "x-final", "--output", out)
    assert read_label_map(out / "label_map.json", 2) == {"0": 0, "1": 1}
    assert read_languages(out / "lang_map.json") == ["en", "de", "zh"]  # the order of the paper's Table 4
    assert pairs(out / "test/test.zh.tsv") == [  # texts stay as they are, quotes and all
        ('zh test_2k "1" .', '""other"" 1', 1, "1"), ('zh test_2k "2" .', '""other"" 2', 0, "2"),
    ]  # fmt: skip
    assert len(pairs(out / "dev/dev.de.tsv")) == 3  # as XTREME counts
    joint = [row for language in ("en", "de", "zh") for row in pairs(out / f"train/train.{language}.tsv")]
    assert pairs(out / "train/train.all.tsv") == joint and len(joint) == 11
    printed = capsys.readouterr().out
    assert re.search(r"train +de +1 +2 +3 +1\n", printed) and "from train de: 1 not translated" in printed


def test_pawsx_flat_files_without_a_header(tmp_path, capsys):
    source = write(tmp_path / "in", **{"test-de.tsv": "eins\tzwei\t0\ndrei\tvier\t1\r\n"})
    prepare(prepare_pawsx, source / "test-de.tsv", "--output", tmp_path / "out")
    assert pairs(tmp_path / "out/test/test.de.tsv") == [("eins", "zwei", 0, "1"), ("drei", "vier", 1, "2")]
    assert read_languages(tmp_path / "out/lang_map.json") == ["de"]
    assert "no train data among the sources\nno dev data" in capsys.readouterr().out


def test_tatoeba(tmp_path, capsys):
    source, out = tmp_path / "v1", tmp_path / "out"
    for long, lines in (("cmn", "二\n一\n"), ("deu", "zwei\neins"), ("lat", "duo\nunum\n")):
        write(source, **{f"tatoeba.{long}-eng.{long}": lines, f"tatoeba.{long}-eng.eng": "two \none\n"})
    prepare(prepare_tatoeba, source, "--output", out)
    assert [tuple(bitext) for bitext in read_bitexts(out)] == [
        ("de", ["zwei", "eins"], ["two", "one"]), ("zh", ["二", "一"], ["two", "one"]),
    ]  # fmt: skip
    assert read_languages(out / "lang_map.json") == ["de", "zh"]
    assert "not there: af ar bg" in capsys.readouterr().out
    with pytest.raises(UserError, match="no tatoeba.<lan>-eng.eng there"):
        prepare(prepare_tatoeba, out)


# CoNLL-2002, CoNLL-2003 and PAN-X

# CoNLL-2003: four columns, IOB1; German has a fifth, the lemma
ENGLISH = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
Bonn NNP I-NP B-PER

-DOCSTART- -X- O O

BRUSSELS NNP I-NP I-LOC
"""
GERMAN = "-DOCSTART- -X- -X- -X- O\n\nMünchen München NE I-NC I-LOC\nliegt liegen VVFIN I-VC O\n"
# CoNLL-2002: two columns, or three; IOB2
SPANISH = "Niño B-PER\n, O\nB-LOC B-LOC\n\n\nMéxico B-LOC\n"
DUTCH = "-DOCSTART- -DOCSTART- O\nDe Art O\nheer N O\nJansen N B-PER\n\nGent N B-LOC\n"


@pytest.fixture
def shared_task(tmp_path):
    """The four corpora as they come."""
    folder = tmp_path / "conll"
    for split in ("train", "testa", "testb"):
        write(folder, **{f"eng.{split}": ENGLISH})
        (folder / f"deu.{split}").write_bytes(GERMAN.encode("iso-8859-1"))
        (folder / f"esp.{split}").write_bytes(SPANISH.encode("iso-8859-1"))
        (folder / f"ned.{split}.gz").write_bytes(gzip.compress(DUTCH.encode("iso-8859-1")))
    return write(folder, **{"readme.txt": "read me"})


def tagged(path: Path, labels: dict[str, int]) -> list[str]:
    """Each sentence as `word/tag word/tag`; the tags of the file are IOB2 already."""
    names = sorted(labels, key=labels.get)
    sentences = [[names[label] for label in one.labels] for one in read_tagged(path, labels)]
    rows = path.read_text(encoding="utf-8").split("\n")[1:-1]
    assert [row.split("\t")[1].split("\x02") for row in rows] == sentences
    return [
        " ".join(f"{word}/{tag}" for word, tag in zip(row.split("\t")[0].split("\x02"), tags))
        for row, tags in zip(rows, sentences)
    ]


def prepared_dev(source, out: Path, language: str = "en", *options) -> list[str]:
    prepare(prepare_conll, source, *options, "--output", out)
    return tagged(out / f"dev/dev.{language}.tsv", read_label_map(out / "label_map.json"))


def test_conll_the_shared_tasks(shared_task, tmp_path, capsys):
    out = tmp_path / "data/conll"
    prepare(prepare_conll, shared_task, "--output", out)
    labels = read_label_map(out / "label_map.json", 9)
    assert list(labels) == ["B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "O"]
    assert read_languages(out / "lang_map.json") == ["en", "nl", "es", "de"]  # the order of the paper's table
    found = {
        "en": ["EU/B-ORG rejects/O German/B-MISC call/O", "Peter/B-PER Blackburn/I-PER Bonn/B-PER",
               "BRUSSELS/B-LOC"],
        "nl": ["De/O heer/O Jansen/B-PER", "Gent/B-LOC"],
        "es": ["Niño/B-PER ,/O B-LOC/B-LOC", "México/B-LOC"],
        "de": ["München/B-LOC liegt/O"],
    }  # fmt: skip
    for language, expected in found.items():
        assert tagged(out / f"dev/dev.{language}.tsv", labels) == expected
    assert tagged(out / "train/train.all.tsv", labels) == [row for rows in found.values() for row in rows]
    printed = capsys.readouterr().out
    assert re.search(r"train +en +4 columns, UTF-8, IOB1 +3 +8 +2 +1 +1 +1\n", printed)
    assert "5 columns, ISO-8859-1, IOB1" in printed and "2 columns, ISO-8859-1, IOB2" in printed
    assert "--num_labels is 9" in printed


@pytest.mark.parametrize("name", ["dev-zh.tsv", "zh/dev"])
def test_conll_panx(tmp_path, name):
    """XTREME's form and WikiANN's, which has the language before each word. Only tabs separate columns."""
    text = "前\tB-LOC\n鎮\tI-LOC\n\n\xa0\tO\na b\tB-PER\n"
    source = write(tmp_path, **{name: re.sub(r"(?m)^(?=.)", "zh:", text) if name == "zh/dev" else text})
    out = tmp_path / "out"
    assert prepared_dev(source, out, "zh") == ["前/B-LOC 鎮/I-LOC", "\xa0/O a b/B-PER"]
    assert list(read_label_map(out / "label_map.json")) == ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]


def test_conll_broken_tags_are_read_as_conlleval_does_and_counted(tmp_path, capsys):
    write(tmp_path, x="a B-PER\nb O\nc B-LOC\n\nd O\ne I-PER\nf I-LOC\n")
    rows = prepared_dev(f"dev.en={tmp_path / 'x'}", tmp_path / "out")
    assert rows == ["a/B-PER b/O c/B-LOC", "d/O e/B-PER f/B-LOC"]
    printed = capsys.readouterr().out
    said = "dev en: 2 tags break IOB2; an entity begins at each, as for conlleval; the first: line 6, I-PER"
    assert "IOB2, broken" in printed and f"{said} ({tmp_path / 'x'})" in printed


def test_conll_lines_without_a_word_and_lower_case(tmp_path, capsys):
    source = write(tmp_path / "in", **{"dev-en.tsv": "a\tO\n\tB-PER\nÑ\tI-PER\n\n\tO\n"})
    assert prepared_dev(source, tmp_path / "out") == ["a/O Ñ/B-PER"]
    assert "dev en: 2 lines without a word are left out" in capsys.readouterr().out
    assert prepared_dev(source, tmp_path / "lower", "en", "--lower_case") == ["a/O ñ/B-PER"]


# MLQA


def squad(folder: Path, *names: str, ids=("1", "2")) -> Path:
    for name in names:
        qas = [{"id": i, "question": "Who?", "answers": [{"text": "x", "answer_start": 0}]} for i in ids]
        data = {"data": [{"paragraphs": [{"context": f"x {name}", "qas": qas}]}]}
        write(folder, **{name: json.dumps(data)})
    return folder


def test_mlqa_all_releases(tmp_path, capsys):
    source = tmp_path / "MLQA_V1"  # every pair of languages of dev and test
    for split in ("dev", "test"):
        both = [(a, b) for a in ("ar", "en", "zh") for b in ("ar", "en", "zh")]
        squad(source / split, *(f"{split}-context-{a}-question-{b}.json" for a, b in both))
    squad(tmp_path / "squad", "train-v1.1.json", "dev-v1.1.json")
    squad(tmp_path / "xquad", "xquad.en.json", "xquad.el.json")
    out = tmp_path / "data/mlqa"
    prepare(prepare_mlqa, source, tmp_path / "squad", tmp_path / "xquad", "--output", out)
    assert files(out) == [
        *(f"dev/dev.{language}.json" for language in ("ar", "en", "zh")),
        "lang_map.json",
        *(f"test/test.{language}.json" for language in ("ar", "en", "zh")),
        "train/train.en.json",
        "xquad/lang_map.json",
        "xquad/xquad.el.json",
        "xquad/xquad.en.json",
    ]
    assert read_languages(out / "lang_map.json") == ["en", "ar", "zh"]  # the order of the paper's table
    assert read_languages(out / "xquad/lang_map.json") == ["en", "el"]
    original = source / "test" / "test-context-zh-question-zh.json"
    assert (out / "test/test.zh.json").read_bytes() == original.read_bytes()
    assert read_squad(out / "train/train.en.json").contexts == ["x train-v1.1.json"]
    assert re.search(r"test +zh +1 +2 +0\n", capsys.readouterr().out)


def test_mlqa_the_first_source_counts(tmp_path, capsys):
    squad(tmp_path / "a", "train-en.tydiqa-goldp.json", ids=("1", "1"))  # TyDi QA repeats ids
    squad(tmp_path / "b", "train-v1.1.json", "dev.de.json", "dev.en.json")
    prepare(prepare_mlqa, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert "not used: " in said and "train-v1.1.json (train en is taken from" in said
    assert "no test data among the sources\npass --dev_set" in said
    assert "tydiqa" in (tmp_path / "out/train/train.en.json").read_text()


# All of them


def test_a_language_of_dev_only_is_left_out_of_the_map(tmp_path, capsys):
    write(tmp_path / "in", **dict.fromkeys(("dev-en.tsv", "dev-de.tsv", "test-en.tsv"), "a\tb\t1\n"))
    prepare(prepare_pawsx, tmp_path / "in", "--output", tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]
    assert "lang_map.json leaves out de: not in both dev and test" in capsys.readouterr().out


@pytest.mark.parametrize("script", [prepare_xnli, prepare_conll])
def test_its_own_output_is_a_source(script, shared_task, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    xnli = [xnli_1_0(tmp_path / "a"), xnli_mt(tmp_path / "b")]
    prepare(script, *([shared_task] if script is prepare_conll else xnli), "--output", first)
    prepare(script, first, "--output", second)
    assert files(first) == files(second)
    for name in files(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    "script, name, content, message",
    [
        (prepare_xnli, "notes.tsv", b"a\tb\tneutral\n", "no file there has a known name"),
        (prepare_xnli, "train-en.tsv", b"", "train-en.tsv: no usable row (the file is empty)"),
        (prepare_xnli, "train-en.tsv", b"a\tb\n", "train-en.tsv, line 1: 2 columns that are neither"),
        (prepare_xnli, "train-en.tsv", b"a\tb\tneutral\n\xff\tb\tneutral\n", "-en.tsv, line 2: not UTF-8"),
        (prepare_xnli, "train-en.tsv", b"a\tb\tyes\na\tb\tyes\n",
         "(dropped from train en: 2 with the unknown label 'yes')"),
        (prepare_xnli, "multinli_1.0_train.jsonl", b"{\n", "multinli_1.0_train.jsonl, line 1: not JSON"),
        (prepare_conll, "eng.train", b"", "eng.train: no sentence in it"),
        (prepare_conll, "eng.train", b"a\nb\n", "eng.train, line 1: 1 columns, not 2"),
        (prepare_conll, "eng.train", b"a NN O\n\nb O\n", "eng.train, line 3: 2 columns, not 3"),
        (prepare_conll, "eng.train", b"a NN O\nb NN PER\n", "eng.train, line 2: 'PER' in the last column is"),
        (prepare_conll, "eng.train.gz", b"a O\n", "eng.train.gz: cannot read it (not a whole gzip file)"),
        (prepare_conll, "dev.en.tsv", b"text_a\tlabel\na\x02b\tO\n", "line 2: 2 tokens but 1 tags"),
        (prepare_mlqa, "dev.en.json", b'{"data": 1}', "data: a list should be here"),
    ],
)  # fmt: skip
def test_bad_sources(tmp_path, script, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(script, tmp_path / "in", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []


def test_a_small_file_that_unpacks_to_a_huge_one(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_conll, "LARGEST_FILE", 1 << 20)
    (tmp_path / "eng.train.gz").write_bytes(gzip.compress(b"a O\n" * (1 << 19)))
    with pytest.raises(UserError, match=r"eng.train.gz: more than 1 MiB when unpacked"):
        prepare(prepare_conll, tmp_path, "--output", tmp_path / "out")


def test_as_a_command(tmp_path):
    """The imports of the repository are found from any folder."""
    command = [sys.executable, ROOT / "scripts/data/prepare_conll.py"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    source = write(tmp_path, x="a O\n") / "x"
    done = subprocess.run([*command, f"train.en={source}"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0 and "train.en.tsv" in files(tmp_path / "data/conll/train")
    done = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: no such file or folder\n")
