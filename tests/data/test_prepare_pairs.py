"""ernie_m/data/prepare.py pairs: which files are found, what is held out, bad input."""

import gzip
import json
from pathlib import Path

import pytest

from ernie_m.data.prepare_pairs import (
    FoundFiles,
    PairFile,
    estimate_pair_tokens,
    find_source_files,
    prepare_pairs,
)
from ernie_m.reader.files.aligned_lines import read_bitexts
from ernie_m.reader.files.pairs import PairRows
from tests.helpers.files import read_files
from tests.launching import error_of
from tests.toys import sentences, write_lines

LINES = list(dict.fromkeys(sentences(150, seed=8)))[:100]


def in_language(language):
    """The lines in a language of their own."""
    return [f"{language} {line}" for line in LINES]


def write_pairs(path, left, right):
    return write_lines(path, [f"{a}\t{b}" for a, b in zip(left, right, strict=True)])


@pytest.fixture
def folder(tmp_path):
    """A folder of the same lines in four languages, in several formats."""
    folder = tmp_path / "my"
    (folder / "more").mkdir(parents=True)
    write_pairs(folder / "en-de.tsv", in_language("en"), in_language("de"))
    (folder / "more/news.sw.gz").write_bytes(gzip.compress("\n".join(in_language("sw")).encode()))
    write_lines(folder / "more/news.en", in_language("en"))
    units = [
        f'<tu><tuv xml:lang="fr"><seg>fr {line}</seg></tuv><tuv xml:lang="en"><seg>en {line}</seg></tuv></tu>'
        for line in LINES
    ]
    text = f'<?xml version="1.0"?><tmx version="1.4"><body>{"".join(units)}</body></tmx>'
    (folder / "wiki.fr-en.tmx").write_text(text, encoding="utf-8")
    write_lines(folder / "en.txt", LINES)
    write_lines(folder / "news.de.txt", LINES)
    write_lines(folder / "notes.md", ["nothing"])
    write_lines(folder / "talks.de-en.de", LINES)  # without its other side
    return folder


def test_languages_and_files_that_are_named(folder, tmp_path):
    """In the order of the columns; a file of any name has none. The notation is that of other commands."""
    write_pairs(tmp_path / "my pairs.tsv", LINES, in_language("x"))
    sources = [str(folder), f"{tmp_path}/my pairs.tsv", f"en-x<={folder}/en.txt,{folder}/news.de.txt"]
    notations = {
        "de-en": f"en-de<={folder}/en-de.tsv",
        "fr-en": f"fr-en<={folder}/wiki.fr-en.tmx",
        "my_pairs": f"{tmp_path}/my pairs.tsv",
        "sw-en": f"en-sw<={folder}/more/news.en,{folder}/more/news.sw.gz",
        "x-en": f"en-x<={folder}/en.txt,{folder}/news.de.txt",
    }
    languages = [("en", "de"), ("fr", "en"), (), ("en", "sw"), ("en", "x")]
    assert find_source_files(sources, tmp_path / "output") == FoundFiles(
        [
            PairFile(notation, languages_of_file, name, is_evaluation=False)
            for (name, notation), languages_of_file in zip(notations.items(), languages, strict=True)
        ],
        {"en": [f"{folder}/en.txt"], "de": [f"{folder}/news.de.txt"]},
        [f"{folder}/notes.md", f"{folder}/talks.de-en.de"],
    )


def test_held_out_pairs_share_sentences_across_languages(folder, tmp_path):
    """So three files lose as few rows as one; and no held-out text is trained on."""
    output = tmp_path / "output"
    prepare_pairs([str(folder)], output)
    held_out = {}
    for language in ("de", "fr", "sw"):
        rows = PairRows(f"{language}-en<={output}/held-out/{language}-en.tsv")
        held_out[language] = [row[1] for row in rows]
        assert all(row == [row[1].replace("en", language, 1), row[1]] for row in rows)
        assert len(PairRows(str(output / f"train/{language}-en.tsv"))) == 90
    assert held_out["de"] == held_out["fr"] == held_out["sw"] and len(held_out["de"]) == 10
    trained = [text for row in PairRows(str(output / "train.tsv")) for text in row]
    assert len(trained) == 3 * 2 * 90 and not set(trained).intersection(held_out["de"])
    counts = {"rows": 100, "trained": 90, "held_out": 10}
    found = json.loads((output / "pairs.json").read_text())
    assert found["pairs"]["sw-en"] == {
        "files": f"en-sw<={folder}/more/news.en,{folder}/more/news.sw.gz",
        **counts,
    }


def test_rows_with_a_held_out_text_and_negatives(tmp_path, capsys):
    """A row that shares a text with a held-out pair is in neither part; negatives stay in the joint file."""
    rows = [
        *(f"{line}\ten {line}\tno {line}" for line in LINES),
        f"{LINES[3]}\tagain {LINES[3]}\tno",
        *(f"same {number}\tsame {number}" for number in range(20)),
    ]
    write_lines(tmp_path / "faq.tsv", ["query\tpositive\tnegative", *rows])
    prepare_pairs([str(tmp_path / "faq.tsv")], tmp_path / "output")
    held_out = PairRows(str(tmp_path / "output/held-out/faq.tsv"))
    assert len(held_out) == 12 and not any(a == b for a, b in held_out)
    trained = PairRows(str(tmp_path / "output/train.tsv"))
    taken = {text for row in held_out for text in row}
    assert taken.isdisjoint(text for row in trained for text in row[:2])
    assert len(trained) == 121 - 12 - (LINES[3] in taken)
    assert trained.with_negatives == sum(len(row) == 3 for row in trained) > 80
    assert not (held_out.are_translations or trained.are_translations)
    cells = ["faq", "121", str(len(trained)), "12", str(121 - 12 - len(trained)), f"{tmp_path}/faq.tsv"]
    assert cells in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("names", "in_table"),
    [
        (["{}.jsonl"], ["train", "news_dev", "newstest2"]),
        (["{}.en-de.tsv"], ["de-en", "news_dev-de-en", "newstest2-de-en"]),
        (["{}.en", "{}.de"], ["de-en", "news_dev-de-en", "newstest2-de-en"]),
        (["{}.json"], ["de-en", "news_dev-de-en", "newstest2-de-en"]),  # names its languages
    ],
)
def test_files_that_are_held_out_by_their_names(tmp_path, names, in_table):
    """All of their rows; and no other row that shares a text with them, in whatever bytes, is trained on."""
    english, german = in_language("en"), in_language("de")
    in_other_bytes = [line.replace(" ", "\u00a0 ") for line in english[80:]]
    parts = {
        "news.dev": (english[80:90], german[80:90]),
        "newstest2": (english[90:], german[90:]),
        "train": (english[:80] + in_other_bytes, german[:80] + [f"{line}." for line in german[80:]]),
    }
    for split, sides in parts.items():
        rows = ["\t".join(row) for row in zip(*sides)]
        if names == ["{}.jsonl"]:
            of_split = "train" if split == "train" else "dev"
            keys = ("query", "positive", "split")
            rows = [json.dumps(dict(zip(keys, (*row, of_split)))) for row in zip(*sides)]
        if names == ["{}.json"]:
            rows = [json.dumps({"translation": dict(zip(("en", "de"), row))}) for row in zip(*sides)]
        for name, lines in zip(names, [rows] if len(names) == 1 else sides):
            write_lines(tmp_path / "my" / name.format(split), lines)
    prepare_pairs([str(tmp_path / "my")], tmp_path / "output")
    report = json.loads((tmp_path / "output/pairs.json").read_text())
    found = report.pop("pairs")
    assert report == {"text": {}, "tokens_of_a_pair": None}
    counts = [(found[name]["rows"], found[name]["trained"], found[name]["held_out"]) for name in in_table]
    assert counts == [(100, 70, 10), (10, 0, 10), (10, 0, 10)]
    assert {bitext.name for bitext in read_bitexts(tmp_path / "output/held-out")} == {*in_table}
    held_out = [f"held-out/{name}.tsv" for name in in_table]
    train = f"train/{in_table[0]}.tsv"
    assert read_files(tmp_path / "output").keys() == {"pairs.json", "train.tsv", train, *held_out}
    trained = {text for row in PairRows(str(tmp_path / "output/train.tsv")) for text in row}
    assert trained < {*english[:80], *german[:80]} and len(trained) == 140


def test_split_queries_with_a_shared_answer(tmp_path):
    """One of them may be held out, and then none of the others is trained on."""
    rows = [
        *(f"what is {line}\tanswer {number % 4}" for number, line in enumerate(LINES)),
        *(f"who is {line}\tanswer of {line}" for line in LINES),
    ]
    write_lines(tmp_path / "faq.tsv", ["query\tpositive", *rows])
    prepare_pairs([str(tmp_path / "faq.tsv")], tmp_path / "output")
    held_out = [text for row in PairRows(str(tmp_path / "output/held-out/faq.tsv")) for text in row]
    assert len(held_out) == 2 * 20 == len(set(held_out))
    assert any(len(text) == len("answer 0") for text in held_out)
    trained = PairRows(str(tmp_path / "output/train.tsv"))
    assert {text for row in trained for text in row}.isdisjoint(held_out)


def test_which_pairs_are_translations(folder, tmp_path):
    """All of a training are read in one way: as translations, if some are; and with the negatives of some."""
    answers = [f"{line}\tno {line}" for line in in_language("it")]
    write_pairs(folder / "faq.tsv", ["query", *in_language("is")], ["positive\tnegative", *answers])
    prepare_pairs([str(folder)], tmp_path / "output")
    for name, are_translations in (("de-en", True), ("fr-en", True), ("faq", False)):
        for part in ("train", "held-out"):
            assert PairRows(f"{tmp_path}/output/{part}/{name}.tsv").are_translations == are_translations
    joint = PairRows(f"{tmp_path}/output/train.tsv")
    assert joint.are_translations and joint.with_negatives == 90


@pytest.mark.parametrize(
    ("files", "location"),
    [
        ({"en.txt": LINES, "notes.md": ["x"]}, "monolingual text: "),
        ({"train.en": LINES}, ": no file of pairs to train on"),
        ({"en-de.tsv": ["a\tb"] * 30, "old.de-en.csv": ["b,a"] * 30}, "old.de-en.csv: "),
        ({"en-de.tsv": [f"a {n}\tb {n}" for n in range(9)]}, ": too few pairs"),
        ({"en-de.tsv": [f"{n}\tb" for n in range(30)], "de-en.tsv": ["a\tb"] * 30}, "two files for "),
        ({"en_test.en-de.tsv": ["a\tb"] * 30}, "en_test.en-de.tsv"),
        ({"en-de.tsv": LINES, "fr-eng.tsv": LINES}, "en and eng "),
        ({"en-de.tsv": [f"a {n}\tb {n}" for n in range(30)] + ["c"]}, "en-de.tsv, line 31: "),
        # All rows share a text with one that is held out.
        ({name: [f"{line}\t{line}." for line in LINES] for name in ("en-de.tsv", "test.en-de.tsv")}, "my"),
    ],
)
def test_reject_bad_files_and_write_nothing(tmp_path, files, location):
    for name, lines in files.items():
        write_lines(tmp_path / "my" / name, lines)
    assert location in error_of(prepare_pairs, [str(tmp_path / "my")], tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_mean_tokens_per_pair(tmp_path, tokenizer):
    """Over files and sides. A side that the vocabulary does not cover is refused by its language."""
    files = {}
    for name, right in (("en-de", "fox"), ("en-fr", "the lazy dog"), ("en-ja", "☃☃☃")):
        path = write_lines(tmp_path / f"{name}.tsv", [f"the fox\t{right}", f"dog\t{right}"])
        files[PairFile.from_paths(path, tuple(name.split("-")), name, tmp_path)] = PairRows(path)
    message = error_of(estimate_pair_tokens, files, tokenizer, "a model")
    ids = tokenizer.encode("☃☃☃")
    share = f"{100 * ids.count(tokenizer.vocab['[UNK]']) / len(ids):.0f} %"
    assert message.startswith(f"{path}: {share} of its ja tokens are unknown to a model; ")
    files.popitem()
    lengths = [len(tokenizer.encode(text)) for rows in files.values() for row in rows for text in row]
    assert estimate_pair_tokens(files, tokenizer, "a model") == pytest.approx(2 * sum(lengths) / len(lengths))


def test_an_output_that_exists(folder, tmp_path):
    assert f"--output {tmp_path}" in error_of(prepare_pairs, [str(folder)], Path(tmp_path))
