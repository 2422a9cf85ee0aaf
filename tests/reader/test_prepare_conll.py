"""The public layouts of tagged text, in small, become ./data/conll."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reader.classification import read_label_map, read_languages
from reader.tagging import read_tagged
from scripts.data import prepare_conll
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

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
    """The four corpora as they come, for two splits."""
    folder = tmp_path / "conll"
    (folder / "ner").mkdir(parents=True)
    for split in ("train", "testa", "testb"):
        (folder / f"eng.{split}").write_text(ENGLISH)
        (folder / f"deu.{split}").write_bytes(GERMAN.encode("iso-8859-1"))
        (folder / "ner" / f"esp.{split}").write_bytes(SPANISH.encode("iso-8859-1"))
        (folder / "ner" / f"ned.{split}.gz").write_bytes(gzip.compress(DUTCH.encode("iso-8859-1")))
    (folder / "readme.txt").write_text("read me")
    return folder


def prepare(*arguments) -> None:
    prepare_conll.main([str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def tagged(path: Path, labels: dict[str, int]) -> list[str]:
    """Each sentence as `word/tag word/tag`; the file is checked as IOB2."""
    names = sorted(labels, key=labels.get)
    return [
        " ".join(f"{word}/{names[label]}" for word, label in zip(one.words, one.labels))
        for one in read_tagged(path, labels, "IOB2")
    ]


def test_the_shared_tasks(shared_task, tmp_path, capsys):
    out = tmp_path / "data/conll"
    prepare(shared_task, "--output", out)
    assert files(out) == [
        *(f"dev/dev.{language}.tsv" for language in ("de", "en", "es", "nl")),
        "label_map.json",
        "lang_map.json",
        *(f"test/test.{language}.tsv" for language in ("de", "en", "es", "nl")),
        *(f"train/train.{language}.tsv" for language in ("all", "de", "en", "es", "nl")),
    ]
    labels = read_label_map(out / "label_map.json", 9)
    assert list(labels) == ["B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "O"]
    assert read_languages(out / "lang_map.json") == ["en", "nl", "es", "de"]  # the order of the paper's table
    english = tagged(out / "dev/dev.en.tsv", labels)
    assert english == [
        "EU/B-ORG rejects/O German/B-MISC call/O",
        "Peter/B-PER Blackburn/I-PER Bonn/B-PER",
        "BRUSSELS/B-LOC",
    ]
    german = tagged(out / "dev/dev.de.tsv", labels)
    assert german == ["München/B-LOC liegt/O"]
    spanish = tagged(out / "test/test.es.tsv", labels)
    assert spanish == ["Niño/B-PER ,/O B-LOC/B-LOC", "México/B-LOC"]
    dutch = tagged(out / "train/train.nl.tsv", labels)
    assert dutch == ["De/O heer/O Jansen/B-PER", "Gent/B-LOC"]
    assert tagged(out / "train/train.all.tsv", labels) == english + dutch + spanish + german
    printed = capsys.readouterr().out
    assert re.search(r"train +en +3 +8 +2 +1 +1 +1 +4 columns, UTF-8, IOB1\n", printed)
    assert "5 columns, ISO-8859-1, IOB1" in printed and "2 columns, ISO-8859-1, IOB2" in printed
    assert "--num_labels is 9" in printed


PANX = "前\tB-LOC\n鎮\tI-LOC\n\n\xa0\tO\na b\tB-PER\n"


@pytest.mark.parametrize("name", ["dev-zh.tsv", "panx-valid.zh.txt", "zh/dev"])
def test_panx(tmp_path, name):
    """XTREME's names and WikiANN's, which has the language before each word. Tabs alone part columns."""
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    text = re.sub(r"(?m)^(?=.)", "zh:", PANX) if name == "zh/dev" else PANX
    path.write_text(text, encoding="utf-8")
    prepare(tmp_path / "in", "--output", tmp_path / "out")
    labels = read_label_map(tmp_path / "out/label_map.json")
    assert list(labels) == ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]
    assert tagged(tmp_path / "out/dev/dev.zh.tsv", labels) == ["前/B-LOC 鎮/I-LOC", "\xa0/O a b/B-PER"]
    assert read_languages(tmp_path / "out/lang_map.json") == ["zh"]


def test_broken_tags_are_read_as_conlleval_does_and_counted(tmp_path, capsys):
    (tmp_path / "x.txt").write_text("a B-PER\nb O\nc B-LOC\n\nd O\ne I-PER\nf I-LOC\n")
    prepare(f"dev.en={tmp_path / 'x.txt'}", "--output", tmp_path / "out")
    labels = read_label_map(tmp_path / "out/label_map.json")
    rows = tagged(tmp_path / "out/dev/dev.en.tsv", labels)
    assert rows == ["a/B-PER b/O c/B-LOC", "d/O e/B-PER f/B-LOC"]
    printed = capsys.readouterr().out
    assert "IOB2, broken" in printed
    assert (
        "dev en: 2 tags break IOB2; an entity begins at each, as for conlleval (the first: "
        f"{tmp_path / 'x.txt'}, the sentence of line 5, I-PER)" in printed
    )


def test_lines_without_a_word_are_left_out(tmp_path, capsys):
    (tmp_path / "dev-en.tsv").write_text("a\tO\n\tB-PER\nb\tI-PER\n\n\tO\n")
    prepare(tmp_path / "dev-en.tsv", "--output", tmp_path / "out")
    labels = read_label_map(tmp_path / "out/label_map.json")
    assert tagged(tmp_path / "out/dev/dev.en.tsv", labels) == ["a/O b/B-PER"]
    assert "dev en: 2 lines without a word are left out" in capsys.readouterr().out


def test_lower_case(tmp_path):
    (tmp_path / "dev-en.tsv").write_text("EU\tB-ORG\nNiño\tB-PER\n", encoding="utf-8")
    prepare(tmp_path / "dev-en.tsv", "--lower_case", "--output", tmp_path / "out")
    labels = read_label_map(tmp_path / "out/label_map.json")
    assert tagged(tmp_path / "out/dev/dev.en.tsv", labels) == ["eu/B-ORG niño/B-PER"]


def test_its_own_output_is_a_source(shared_task, tmp_path):
    prepare(shared_task, "--output", tmp_path / "first")
    prepare(tmp_path / "first", "--output", tmp_path / "second")
    for name in files(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_the_first_source_counts(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} O\n")
    prepare(*(f"dev.en={tmp_path / name}.txt" for name in ("one", "two")), "--output", tmp_path / "out")
    assert "one\tO" in (tmp_path / "out/dev/dev.en.tsv").read_text()
    assert f"two.txt (dev en is taken from {tmp_path / 'one.txt'})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"a O\n", "no file there has a known name"),
        ("eng.train", b"", "eng.train: no sentence in it"),
        ("eng.train", b"-DOCSTART- -X- O O\n\n", "eng.train: no sentence in it"),
        ("eng.train", b"a\nb\n", "eng.train, line 1: 1 columns, not 2"),
        ("eng.train", b"a NN O\n\nb O\n", "eng.train, line 3: 2 columns, not 3"),
        ("eng.train", b"a NN O\nb NN PER\n", "eng.train, line 2: 'PER' in the last column is not O, B-"),
        ("eng.train.gz", b"a O\n", "eng.train.gz: cannot read it (not a whole gzip file)"),
        ("dev.en.tsv", b"text_a\tlabel\na\x02b\tO\n", "dev.en.tsv, line 2: 2 tokens but 1 tags"),
        ("dev.en.tsv", b"text_a\tlabel\na\n", "dev.en.tsv, line 2: 1 columns, but the header names 2"),
    ],
)
def test_bad_sources(tmp_path, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(tmp_path / "in", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == []


def test_the_real_layouts(data_dir, tmp_path, capsys):
    """The same sentences as in PAN-X, written in three layouts, come out as they were."""
    folder = data_dir / "ner" / "conll-layout"
    found = {
        "en": folder / "panx-en.conll2003-layout.txt",
        "es": folder / "panx-es.conll2002-layout.latin1.txt",
        "de": folder / "panx-de.conll2002-layout-3col.latin1.txt",
    }
    prepare(*(f"dev.{lang}={path}" for lang, path in found.items()), "--output", tmp_path / "layouts")
    prepare(data_dir / "ner" / "panx", "--output", tmp_path / "panx")
    printed = capsys.readouterr().out
    for form in ("4 columns, UTF-8, IOB1", "2 columns, ISO-8859-1, IOB2", "3 columns, ISO-8859-1, IOB2"):
        assert form in printed
    assert "dev zh: 45 tags break IOB2" in printed
    labels = read_label_map(tmp_path / "panx/label_map.json", 7)
    assert len(read_tagged(tmp_path / "panx/train/train.en.tsv", labels, "IOB2")) == 20000
    for language in found:
        ours = tagged(tmp_path / f"layouts/dev/dev.{language}.tsv", labels)
        panx = set(tagged(tmp_path / f"panx/dev/dev.{language}.tsv", labels))
        assert len(ours) == 300 and panx.issuperset(ours)
    assert read_languages(tmp_path / "panx/lang_map.json") == [
        "en",
        "es",
        "de",
        "ar",
        "fr",
        "hi",
        "ru",
        "sw",
        "zh",
    ]
    assert len(read_tagged(tmp_path / "panx/dev/dev.zh.tsv", labels, "IOB2")) == 1000


def test_as_a_command(tmp_path):
    command = [sys.executable, ROOT / "scripts/data/prepare_conll.py"]
    (tmp_path / "x.txt").write_text("a O\n")
    done = subprocess.run([*command, f"train.en={tmp_path / 'x.txt'}"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train.en.tsv" in files(tmp_path / "data/conll/train")
    done = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'none'}: no such file or folder\n")
