"""scripts/data/prepare.py: small public releases become the files that the programs read."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reader.classification import read_classification
from reader.question_answering import read_squad
from reader.tagging import JOINT, read_tagged
from reader.task_files import read_label_map, read_languages
from scripts.data.prepare import DATA_SETS, NLI, main
from scripts.data.treebank import read_sentences
from tests.launching import ROOT, error_of
from tests.reader.conftest import files


def prepare(task: str, *arguments) -> None:
    """`python scripts/data/prepare.py task arguments`, in this process."""
    main([task, *map(str, arguments)])


def counts(printed: str, split: str, language: str) -> dict[str, int]:
    """The row of a split and a language in the table that is printed: column -> number."""
    lines = [re.split(" {2,}", line.strip()) for line in printed.splitlines()]
    (header,) = [cells for cells in lines if cells[:2] == ["split", "language"]]
    (row,) = [cells for cells in lines if cells[:2] == [split, language]]
    return dict(zip(header[2:], map(int, row[2:]), strict=True))


def write(folder: Path, **contents: str) -> Path:
    """Write files, name -> text or bytes, and return their folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize(
    "task, path, expected",
    [
        ("xnli", "multinli/multinli.train.sw.tsv", ("train", "sw")),
        ("xnli", "XNLI-MT-1.0/xnli/xnli.test.sw.tsv", None),  # translated into English by machine
        ("xnli", "xnli-dev-sw.tsv", ("dev", "sw")),
        ("xnli", "train.all.tsv", None),
        ("pawsx", "x-final/de/translated_train.tsv", ("train", "de")),
        ("pawsx", "dev-ja.tsv", ("dev", "ja")),
        ("conll", "ned.testa", ("dev", "nl")),
        ("panx", "panx/test-zh.txt", ("test", "zh")),
        ("mlqa", "dev/dev-context-zh-question-en.json", None),
        ("mlqa", "train-en.tydiqa-goldp.json", ("train", "en")),
        ("udpos", "UD_German-GSD/de_gsd-ud-train.conllu", ("train", "de")),
        ("udpos", "UD_Gothic/got_proiel-ud-train.conllu", None),
        ("udpos", "UD_Czech-PDT/cs_pdt-ud-train.conllu", None),  # not of XTREME
        ("tydiqa", "tydiqa-goldp-dev-swahili.json", ("dev", "sw")),
    ],
)
def test_names_of_files(task, path, expected):
    """The split and the language that a file's name tells; None: the file is not used."""
    file = DATA_SETS[task].recognise(Path(path))
    if expected is None:
        assert file is None
    else:
        assert (file.split, file.language) == expected


def test_xnli_from_both_releases(tmp_path, capsys):
    """XNLI-1.0 has one table for all languages, XNLI-MT-1.0 translated training pairs."""
    source = tmp_path / "in"
    out = tmp_path / "out"
    for split in ("dev", "test"):
        table = "language\tgold_label\tsentence1\tsentence2\tpromptID\tpairID\tlabel1\n"
        for language in ("ar", "en", "fr"):
            for i, label in enumerate(NLI):
                texts = f'{language} {split} {i}\t"{language}" hypothesis {i}'
                table += f"{language}\t{label}\t{texts}\t1\t{i}\t{label}\n"
        write(source, **{f"XNLI-1.0/xnli.{split}.tsv": table, "README.md": "read me"})
    for language in ("en", "sw"):
        rows = "premise\thypo\tlabel\n"
        rows += f"{language} p0\t{language} h0\tcontradictory\n"
        rows += f"{language} p1\t{language} h1\tneutral\n"
        write(source, **{f"XNLI-MT-1.0/multinli/multinli.train.{language}.tsv": rows})
    prepare("xnli", source / "XNLI-1.0", source / "XNLI-MT-1.0", "--output", out)
    assert files(out) == [
        "dev/dev.ar.tsv",
        "dev/dev.en.tsv",
        "dev/dev.fr.tsv",
        "label_map.json",
        "lang_map.json",
        "test/test.ar.tsv",
        "test/test.en.tsv",
        "test/test.fr.tsv",
        "train/train.all.tsv",
        "train/train.en.tsv",
        "train/train.sw.tsv",
    ]
    label_map = read_label_map(out / "label_map.json", 3)
    assert label_map == {"contradiction": 0, "entailment": 1, "neutral": 2}
    assert read_languages(out / "lang_map.json") == ["en", "fr", "ar"]  # the order of the paper's tables
    for path in (out / "dev/dev.fr.tsv", out / "test/test.fr.tsv"):
        examples = list(read_classification(path, label_map))
        assert [example.label for example in examples] == [0, 1, 2]
        assert examples[1].text_b == '"fr" hypothesis 1' and examples[1].qid == "1"
    joint = read_classification(out / "train/train.all.tsv", label_map)
    assert [(example.text_a, example.text_b, example.label) for example in joint] == [
        ("en p0", "en h0", 0),
        ("en p1", "en h1", 2),
        ("sw p0", "sw h0", 0),
        ("sw p1", "sw h1", 2),
    ]
    expected = {"contradiction": 1, "entailment": 0, "neutral": 1, "rows": 2}
    assert counts(capsys.readouterr().out, "train", "sw") == expected


def test_the_first_source_counts_and_bad_rows_are_left_out(tmp_path, capsys):
    """The rows: a good one, one without a label, one without a text, and one with a single column."""
    rows = "a\t b \tentailment\r\na\tb\t-\nn/a\t \tneutral\nneutral\n"
    write(tmp_path, **{"a/train-en.tsv": rows, "b/train.en.tsv": "x\ty\tneutral\n", "b/dev-de.tsv": rows})
    write(tmp_path, **{"b/dev-en.tsv": rows, "b/test-en.tsv": rows})
    prepare("xnli", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "not used: train en is there already" in printed
    assert "left out: 1 with the label '-'; 1 without a text; 1 malformed" in printed
    assert (tmp_path / "out/train/train.en.tsv").read_text() == "text_a\ttext_b\tlabel\na\tb\tentailment\n"
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]  # de has no test file


def pairs(path: Path) -> list[tuple]:
    """(text_a, text_b, label, qid) of the rows of a PAWS-X file."""
    return [tuple(example) for example in read_classification(path, {"0": 0, "1": 1})]


def test_pawsx_the_release(tmp_path, capsys):
    """A folder per language; the last training and development row of de is not translated."""
    for language in ("de", "en", "zh"):
        train = "train" if language == "en" else "translated_train"
        for name, count in ((train, 4), ("dev_2k", 3), ("test_2k", 2)):
            rows = [f'{i}\t{language} {name} "{i}" .\t""other"" {i}\t{i % 2}\n' for i in range(1, count + 1)]
            if language == "de" and name != "test_2k":
                rows[-1] = f"{count}\tNS\tetwas\t0\n"  # as the release marks such a row
            table = "id\tsentence1\tsentence2\tlabel\n" + "".join(rows)
            write(tmp_path / "x-final" / language, **{f"{name}.tsv": table})
    out = tmp_path / "data"
    prepare("pawsx", tmp_path / "x-final", "--output", out)
    assert read_label_map(out / "label_map.json", 2) == {"0": 0, "1": 1}
    assert read_languages(out / "lang_map.json") == ["en", "de", "zh"]  # the order of the paper's Table 4
    assert pairs(out / "test/test.zh.tsv") == [  # texts stay as they are, quotes and all
        ('zh test_2k "1" .', '""other"" 1', 1, "1"),
        ('zh test_2k "2" .', '""other"" 2', 0, "2"),
    ]
    assert len(pairs(out / "dev/dev.de.tsv")) == 3  # with the one that is not translated, as XTREME counts
    joint = [row for language in ("en", "de", "zh") for row in pairs(out / f"train/train.{language}.tsv")]
    assert pairs(out / "train/train.all.tsv") == joint
    assert len(joint) == 3 * 4 - 1  # here it is left out
    assert "left out: 1 without a text" in capsys.readouterr().out


def test_pawsx_flat_files_without_a_header(tmp_path):
    write(tmp_path, **{"test-de.tsv": "eins\tzwei\t0\ndrei\tvier\t1\r\n", "dev-en.tsv": "a\tb\t0\n"})
    prepare("pawsx", *tmp_path.glob("*.tsv"), "--output", tmp_path / "out")
    assert read_languages(tmp_path / "out/lang_map.json") == ["en"]  # de is not evaluated
    assert pairs(tmp_path / "out/test/test.de.tsv") == [("eins", "zwei", 0, "1"), ("drei", "vier", 1, "2")]


# CoNLL-2003: four columns, IOB1; German has a fifth, the lemma. CoNLL-2002: two columns, or three; IOB2
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
SPANISH = "Niño B-PER\n, O\nB-LOC B-LOC\n\n\nMéxico B-LOC\n"
DUTCH = "-DOCSTART- -DOCSTART- O\nDe Art O\nheer N O\nJansen N B-PER\n\nGent N B-LOC\n"


def tagged(path: Path, labels: dict[str, int]) -> list[str]:
    """Each sentence of a prepared file as `word/tag word/tag`; its tags must be IOB2 already."""
    names = sorted(labels, key=labels.get)
    rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]  # without the header
    sentences = []
    for row, sentence in zip(rows, read_tagged(path, labels), strict=True):
        cell_of_words, cell_of_tags = row.split("\t")
        tags = cell_of_tags.split(JOINT)
        assert tags == [names[label] for label in sentence.labels]
        words = cell_of_words.split(JOINT)
        sentences.append(" ".join(f"{word}/{tag}" for word, tag in zip(words, tags)))
    return sentences


def prepared_dev(source: Path, out: Path, language: str, *options) -> list[str]:
    """Prepare a development file in `out`, and return its sentences as `tagged` does."""
    prepare("panx", source, *options, "--output", out)
    return tagged(out / f"dev/dev.{language}.tsv", read_label_map(out / "label_map.json"))


def test_conll_the_shared_tasks(tmp_path, capsys):
    source = tmp_path / "conll"
    out = tmp_path / "out"
    texts = {"eng": ENGLISH, "deu": GERMAN, "esp": SPANISH, "ned": DUTCH}
    for split in ("train", "testa", "testb"):
        write(source, **{f"{name}.{split}": text.encode("iso-8859-1") for name, text in texts.items()})
    prepare("conll", source, "--output", out)
    labels = read_label_map(out / "label_map.json", 9)
    assert list(labels) == ["B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "O"]
    assert read_languages(out / "lang_map.json") == ["en", "nl", "es", "de"]  # the order of the paper's table
    sentences = {
        "en": [
            "EU/B-ORG rejects/O German/B-MISC call/O",
            "Peter/B-PER Blackburn/I-PER Bonn/B-PER",
            "BRUSSELS/B-LOC",
        ],
        "nl": ["De/O heer/O Jansen/B-PER", "Gent/B-LOC"],
        "es": ["Niño/B-PER ,/O B-LOC/B-LOC", "México/B-LOC"],
        "de": ["München/B-LOC liegt/O"],
    }
    for language, expected in sentences.items():
        assert tagged(out / f"dev/dev.{language}.tsv", labels) == expected
    joint = [*sentences["en"], *sentences["nl"], *sentences["es"], *sentences["de"]]
    assert tagged(out / "train/train.all.tsv", labels) == joint  # all splits have the same sentences
    printed = capsys.readouterr().out
    # In ENGLISH the tags of EU, German, Peter and BRUSSELS, which begin entities, are I- and become B-.
    assert counts(printed, "train", "en") == {
        "PER": 2,
        "ORG": 1,
        "LOC": 1,
        "MISC": 1,
        "sentences": 3,
        "words": 8,
        "tags rewritten": 4,
    }
    assert "--num_labels is 9" in printed


@pytest.mark.parametrize("name", ["dev-zh.tsv", "zh/dev"])
def test_panx_in_both_forms(tmp_path, name):
    """XTREME's form and WikiANN's, which has the language before each word. Only tabs separate columns."""
    text = "前\tB-LOC\n鎮\tI-LOC\n\n\xa0\tO\na b\tB-PER\n"
    if name == "zh/dev":
        text = re.sub(r"(?m)^(?=.)", "zh:", text)  # before each line that is not empty
    source = write(tmp_path, **{name: text})
    out = tmp_path / "out"
    assert prepared_dev(source, out, "zh") == ["前/B-LOC 鎮/I-LOC", "\xa0/O a b/B-PER"]
    assert list(read_label_map(out / "label_map.json")) == ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"]


def test_tags_are_read_as_conlleval_does(tmp_path):
    """A line without a word is left out."""
    text = "A B-PER\nb O\nc B-LOC\n\nd O\ne I-PER\nf I-LOC\n\ng\tO\n\tB-PER\nÑ\tI-PER\n"
    source = write(tmp_path / "in", **{"dev-en.txt": text})
    expected = ["A/B-PER b/O c/B-LOC", "d/O e/B-PER f/B-LOC", "g/O Ñ/B-PER"]
    assert prepared_dev(source, tmp_path / "out", "en") == expected


def squad(folder: Path, *names: str, ids=("1", "2")) -> Path:
    """Write files of SQuAD with a question for each id, and return their folder."""
    for name in names:
        qas = [{"id": i, "question": "Who?", "answers": [{"text": "x", "answer_start": 0}]} for i in ids]
        data = {"data": [{"paragraphs": [{"context": f"x {name}", "qas": qas}]}]}
        write(folder, **{name: json.dumps(data)})
    return folder


def test_mlqa_from_all_releases(tmp_path, capsys):
    """Of MLQA's files those with context and question in one language are used. SQuAD is for training."""
    source = tmp_path / "MLQA_V1"
    out = tmp_path / "out"
    for split in ("dev", "test"):
        for context, question in itertools.product(("ar", "en", "zh"), repeat=2):
            squad(source / split, f"{split}-context-{context}-question-{question}.json")
    squad(tmp_path / "squad", "train-v1.1.json", ids=("1", "1"))  # TyDi QA repeats ids
    squad(tmp_path / "xquad", "xquad.en.json", "xquad.el.json")
    prepare("mlqa", source, tmp_path / "squad", tmp_path / "xquad", "--output", out)
    assert files(out) == [
        "dev/dev.ar.json",
        "dev/dev.en.json",
        "dev/dev.zh.json",
        "lang_map.json",
        "test/test.ar.json",
        "test/test.en.json",
        "test/test.zh.json",
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
    expected = {"texts": 1, "questions": 2, "unanswered": 0}
    assert counts(capsys.readouterr().out, "test", "zh") == expected


def treebank(*sentences: str) -> str:
    """CoNLL-U. A word is `id/form/tag/head`, with "+" for a space; the other columns are empty."""
    lines = []
    for sentence in sentences:
        lines.append("# sent_id = 1")
        for word in sentence.split():
            id_, form, tag, head = word.split("/")
            lines.append("\t".join([id_, form.replace("+", " "), "_", tag, "_", "_", head, "_", "_", "_"]))
        lines.append("")
    return "\n".join(lines) + "\n"


def test_udpos_the_treebanks_of_a_language_are_joined(tmp_path):
    """Forms of several words are one word, with the tag of the part nearest to the root."""
    source = tmp_path / "ud-treebanks-v2.5"
    english_a = treebank(
        "1/a/DET/2 2/dog/NOUN/0 2.1/empty/VERB/_",
        # du = de + le, both below "chat": the rank decides. 10+000 has a space, a non-joiner is dropped.
        "1-2/du/_/_ 1/de/ADP/3 2/le/DET/3 3/chat\u200c/NOUN/4 4/10+000/NUM/0",
        # The part nearest to the root, although its rank is lower.
        "1-3/dámelo/_/_ 1/da/AUX/0 2/me/VERB/1 3/lo/NOUN/1 4/_/_/1 5/ya/ADV/1",
        "1/no/ADV/2 2/da/VERB/0",  # no fused form, below one with several
    )
    write(source, **{"UD_English-B/en_b-ud-train.conllu": treebank("1/b/SYM/0")})
    write(source, **{"UD_English-A/en_a-ud-train.conllu": english_a})
    write(source, **{"UD_English-A/en_esl-ud-train.conllu": treebank("1/_/DET/2 2/_/NOUN/0", "1/x/X/0")})
    for language in ("en", "de"):
        for split in ("dev", "test"):
            write(source, **{f"UD/{language}_a-ud-{split}.conllu": treebank(f"1/{language}/INTJ/0")})
    write(source, **{"UD/yo_a-ud-test.conllu": treebank("1/y/X/0"), "UD/got_a-ud-test.conllu": "x"})
    prepare("udpos", source, "--output", tmp_path / "out")
    tags = read_label_map(tmp_path / "out/label_map.json", 17)
    lines = (tmp_path / "out/train/train.en.tsv").read_text(encoding="utf-8").splitlines()[1:]
    sentences = read_tagged(tmp_path / "out/train/train.en.tsv", tags, "NONE")
    names = list(tags)
    rows = []
    for line, sentence in zip(lines, sentences, strict=True):
        words = line.split("\t")[0].split(JOINT)
        rows.append(" ".join(f"{word}/{names[tag]}" for word, tag in zip(words, sentence.labels)))
    assert rows == [
        "a/DET dog/NOUN",
        "du/ADP chat/NOUN 10000/NUM",
        "dámelo/AUX _/X ya/ADV",
        "no/ADV da/VERB",
        "x/X",
        "b/SYM",
    ]
    # Yoruba has only a test file: it is predicted by a command of its own.
    assert read_languages(tmp_path / "out/lang_map.json") == ["en", "de"]
    assert read_languages(tmp_path / "out/test/lang_map.json") == ["en", "de", "yo"]


@pytest.mark.parametrize(
    "language, tags", [("en", "PRON NOUN"), ("es", "AUX ADP"), ("fr", "AUX NOUN"), ("it", "AUX ADP")]
)
def test_the_rank_of_parts_of_speech_is_that_of_the_language(tmp_path, language, tags):
    """The parts of both fused forms are equally near to the root. The ranks of es and it have no NOUN."""
    lines = treebank(
        "1-2/serlo/_/_ 1/ser/AUX/3 2/lo/PRON/3 3/bueno/ADJ/0", "1-2/ab/_/_ 1/a/NOUN/3 2/b/ADP/3 3/c/ADJ/0"
    )
    sentences = list(read_sentences(lines.splitlines(), tmp_path, language))
    assert [sentence[0] for sentence in sentences] == list(zip(("serlo", "ab"), tags.split()))


def test_tydiqa_by_language(tmp_path, capsys):
    """The training file has all languages; those of dev are called by their names."""
    source = squad(
        tmp_path / "in", "tydiqa-goldp-v1.1-train.json", ids=("english-7-0", "finnish-8-1", "english-9-0")
    )
    squad(source / "tydiqa-goldp-v1.1-dev", "tydiqa-goldp-dev-english.json", "tydiqa-goldp-dev-telugu.json")
    prepare("tydiqa", source, "--output", tmp_path / "out")
    assert files(tmp_path / "out") == [
        "dev/dev.en.json",
        "dev/dev.te.json",
        "lang_map.json",
        "train/train.en.json",
        "train/train.fi.json",
    ]
    questions = read_squad(tmp_path / "out/train/train.en.json").questions
    assert [question.id for question in questions] == ["english-7-0", "english-9-0"]
    assert read_languages(tmp_path / "out/lang_map.json") == ["en", "te"]
    expected = {"texts": 1, "questions": 1, "unanswered": 0}
    assert counts(capsys.readouterr().out, "train", "fi") == expected


def bucc(folder: Path, split: str) -> Path:
    """Write a split of BUCC's German and English with one gold pair, and return the folder."""
    name = f"de-en/de-en.{split}"
    write(
        folder, **{f"{name}.de": "de-1\tEins.\nde-2\tZwei\tdrei.\n", f"{name}.en": "en-7\tTwo.\nen-8\tOne.\n"}
    )
    return write(folder, **{f"{name}.gold": "de-1\ten-8\n"})


def test_bucc_the_splits_get_other_names(tmp_path, capsys):
    bucc(tmp_path / "bucc2018", "sample")
    bucc(tmp_path / "bucc2018", "training")
    prepare("bucc", tmp_path / "bucc2018", "--output", tmp_path / "out")
    endings = ["de", "de.ids", "en", "en.ids", "gold.ids.tsv", "gold.tsv"]
    # BUCC calls dev "sample", and test "training".
    names = [f"{split}/de-en.{ending}" for split in ("dev", "test") for ending in endings]
    assert files(tmp_path / "out") == names
    assert (tmp_path / "out/test/de-en.de").read_text() == "Eins.\nZwei drei.\n"
    assert (tmp_path / "out/test/de-en.de.ids").read_text() == "de-1\nde-2\n"
    assert (tmp_path / "out/test/de-en.gold.tsv").read_text() == "Eins.\tOne.\n"
    assert (tmp_path / "out/test/de-en.gold.ids.tsv").read_text() == "de-1\ten-8\n"
    expected = {"sentences": 2, "English": 2, "pairs": 1}
    assert counts(capsys.readouterr().out, "test", "de") == expected


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"de-en.sample.gold": "de-1\ten-9\n"},
            "de-en.sample.gold, line 1: de-1 or en-9 is no id of a sentence",
        ),
        ({"de-en.sample.en": "en-7\tA\nen-7\tB\n"}, "de-en.sample.en, line 2: the id en-7 occurs twice"),
        ({"de-en.sample.de": "Eins.\n"}, "de-en.sample.de, line 1: no tab; a line is"),
    ],
)
def test_bad_files_of_bucc(tmp_path, change, message):
    write(bucc(tmp_path / "in", "sample") / "de-en", **change)
    assert message in error_of(prepare, "bucc", tmp_path / "in", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    "task, name, content, message",
    [
        (
            "udpos",
            "en_a-ud-train.conllu",
            "1\ta\tDET\n",
            "line 1: 3 columns, and CoNLL-U has 10",
        ),
        ("udpos", "en_a-ud-train.conllu", treebank("1/a/NN/0"), "line 2: 'NN' is no part of speech of"),
        ("udpos", "en_a-ud-train.conllu", treebank("x/a/DET/0"), "line 2: 'x' and '0' should number words"),
        ("tydiqa", "tydiqa-goldp-v1.1-train.json", '{"data": 1}', "data: a list should be here"),
        ("bucc", "notes.txt", "x", "no file of BUCC 2018 there, such as de-en.sample.de"),
        ("xnli", "notes.tsv", "a\tb\tneutral\n", "no file there has a known name"),
        ("xnli", "train-en.tsv", "", "train-en.tsv, line 1: 0 columns"),
        ("xnli", "train-en.tsv", "a\tb\n", "train-en.tsv, line 1: 2 columns, which neither name"),
        ("xnli", "train-en.tsv", b"a\tb\tneutral\n\xff\tb\tneutral\n", "-en.tsv, line 2: not UTF-8"),
        ("xnli", "train-en.tsv", "a\tb\tyes\na\tb\tyes\n", "no usable row (2 with the label 'yes')"),
        ("conll", "eng.train", "", "eng.train: no sentence in it"),
        ("conll", "eng.train", "a NN O\n\nb O\n", "eng.train, line 3: 2 columns, not 3"),
        ("conll", "eng.train", "a NN O\nb NN PER\n", "eng.train, line 2: 'PER' in the last column is"),
        ("mlqa", "dev.en.json", '{"data": 1}', "data: a list should be here"),
    ],
)
def test_bad_sources(tmp_path, task, name, content, message):
    write(tmp_path / "in", **{name: content})
    assert message in error_of(prepare, task, tmp_path / "in", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_as_a_command(tmp_path):
    """The imports of the repository are found from any folder."""
    command = [sys.executable, ROOT / "scripts/data/prepare.py", "conll"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    source = write(tmp_path, **{"eng.train": "a O\n"}) / "eng.train"
    process = subprocess.run([*command, source], cwd=tmp_path, env=environment, check=False)
    assert process.returncode == 0 and "train.en.tsv" in files(tmp_path / "data/conll/train")
    process = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr == f"error: {tmp_path / 'none'}: no such file or folder\n"
