"""ernie_m/data/prepare.py: small public releases become the files that the commands read."""

import itertools
import json
import re
from pathlib import Path

import pytest

from ernie_m.data.data_sets import NLI
from ernie_m.data.prepare import main
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.files.official_tags import JOINT, read_tagged_tsv
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.labels import read_label_map, read_languages
from ernie_m.reader.text_featurizer import Example
from tests.helpers.files import read_files, write_files
from tests.launching import error_of
from tests.reader.conftest import files


def prepare(task: str, *arguments) -> None:
    """`ernie-m prepare task arguments`, in this process."""
    main([task, *map(str, arguments)])


def counts(printed: str, split: str, language: str) -> dict[str, int]:
    """The row of a split and a language in the table that is printed: column -> number."""
    lines = [re.split(" {2,}", line.strip()) for line in printed.splitlines()]
    (header,) = [cells for cells in lines if cells[:2] == ["split", "language"]]
    (row,) = [cells for cells in lines if cells[:2] == [split, language]]
    return dict(zip(header[2:], map(int, row[2:]), strict=True))


@pytest.fixture
def out(tmp_path):
    """The folder that is written."""
    return tmp_path / "out"


def write(folder: Path, **contents: str) -> Path:
    """Write files, name -> text or bytes, and return their folder."""
    return write_files(folder, contents)


def test_a_language_in_a_row_precedes_that_of_the_name(tmp_path, out):
    rows = "\ufefflanguage\tgold_label\tsentence1\tsentence2\nen\tneutral\ta\tb\nfr\tneutral\tc\td\n"
    prepare("xnli", write(tmp_path / "in", **{"dev.en.tsv": rows}), "--output", out)
    assert files(out / "dev") == ["dev.en.tsv", "dev.fr.tsv"]


def test_xnli_from_both_releases(tmp_path, out):
    """XNLI-1.0 has one table for all languages, XNLI-MT-1.0 translated training pairs."""
    source = tmp_path / "in"
    header = "language\tgold_label\tsentence1\tsentence2\tpromptID\tpairID\tlabel1\n"
    languages = {"ara": "ar", "en": "en", "fr": "fr"}
    for split in ("dev", "test"):
        rows = [
            f'{name}\t{label}\t{language} {split} {i}\t"{language}" hypothesis {i}\t1\t{i}\t{label}\n'
            for (name, language), (i, label) in itertools.product(languages.items(), enumerate(NLI))
        ]
        write(source / "XNLI-1.0", **{f"xnli.{split}.tsv": header + "".join(rows), "README.md": "read me"})
    for language, column, cell in (("en", "\tpairID", "\t7"), ("sw", "", "")):  # which not all files have
        rows = (
            f"premise\thypo\tlabel{column}\n"
            f"{language} p0\t{language} h0\tcontradictory{cell}\n"
            f"{language} p1\t{language} h1\tneutral{cell}\n"
        )
        write(source / "XNLI-MT-1.0/multinli", **{f"multinli.train.{language}.tsv": rows})
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
    assert read_languages(out / "lang_map.json") == ["en", "fr", "ar"]  # the order of the paper's tables
    for path in (out / "dev/dev.fr.tsv", out / "test/test.fr.tsv"):
        examples = list(read_classification(path, label_map))
        assert [example.label for example in examples] == [0, 1, 2]
        assert examples[1].text_b == '"fr" hypothesis 1' and examples[1].qid == "1"
    joint = read_classification(out / "train/train.all.tsv", label_map)
    assert list(joint) == [
        Example("en p0", "en h0", 0),
        Example("en p1", "en h1", 2),
        Example("sw p0", "sw h0", 0),
        Example("sw p1", "sw h1", 2),
    ]


def test_the_first_source_counts_and_bad_rows_are_left_out(tmp_path, capsys):
    """The rows: a good one, one without a label, one without a text, and one with a single column."""
    rows = "a\t b \tentailment\r\n\r\na\tb\t-\nn/a\t \tneutral\nneutral\n"
    names = ("a/train-en.tsv", "b/dev-de.tsv", "b/dev-en.tsv", "b/test-en.tsv", "b/validation-en.tsv")
    write(tmp_path, **{"b/train.en.tsv": "x\ty\tneutral\n", **dict.fromkeys(names, rows)})
    prepare("xnli", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out")
    reading = [
        f"reading {tmp_path}/{name}\ndropped: 1 with the label '-'; 1 without a text; 1 malformed"
        for name in ("a/train-en.tsv", "b/dev-de.tsv", "b/dev-en.tsv", "b/test-en.tsv")
    ]
    assert capsys.readouterr().out.splitlines() == [
        f"skipped files with unknown names: {tmp_path}/b/validation-en.tsv",
        *"\n".join(reading).splitlines(),
        f"reading {tmp_path}/b/train.en.tsv",
        "skipped: train en already exists",
        "for fine-tuning: --num_labels 3",
        "",
        "split  language  contradiction  entailment  neutral  rows",
        "train        en              0           1        0     1",
        "  dev        en              0           1        0     1",
        "  dev        de              0           1        0     1",
        " test        en              0           1        0     1",
        "",
        f"written to {tmp_path}/out",
    ]
    table = b"text_a\ttext_b\tlabel\na\tb\tentailment\n"
    written = read_files(tmp_path / "out")
    assert json.loads(written.pop("lang_map.json")) == {"en": 0}  # de has no test file
    assert json.loads(written.pop("label_map.json")) == {label: id_ for id_, label in enumerate(NLI)}
    assert written == dict.fromkeys(
        ("dev/dev.de.tsv", "dev/dev.en.tsv", "test/test.en.tsv", "train/train.en.tsv"), table
    )


def pairs(path: Path) -> list[tuple]:
    """(text_a, text_b, label, qid) of the rows of a PAWS-X file."""
    return [tuple(example) for example in read_classification(path, {"0": 0, "1": 1})]


def test_pawsx_the_release(tmp_path, capsys):
    """A folder per language; the last training and development row of de is not translated."""
    for language in ("de", "en", "zh"):
        train = "train" if language == "en" else "translated_train"
        for name, count in ((train, 4), ("dev_2k", 3), ("test_2k", 2)):
            rows = [f'{i}\t{language} {name} "{i}" .\t"o ""{i}"""\t{i % 2}\n' for i in range(1, count + 1)]
            if language == "de" and name != "test_2k":
                rows[-1] = f"{count}\tNS\tetwas\t0\n"  # as the release marks such a row
                rows += ["9\tleer\t \t0\n"] * (name == train)
            table = "id\tsentence1\tsentence2\tlabel\n" + "".join(rows)
            write(tmp_path / "x-final" / language, **{f"{name}.tsv": table})
    out = tmp_path / "data"
    prepare("pawsx", tmp_path / "x-final", "--output", out)
    assert read_label_map(out / "label_map.json", 2) == {"0": 0, "1": 1}
    assert read_languages(out / "lang_map.json") == ["en", "de", "zh"]  # the order of the paper's Table 4
    assert pairs(out / "test/test.zh.tsv") == [  # texts stay as they are, quotes and all
        ('zh test_2k "1" .', '"o ""1"""', 1, "1"),
        ('zh test_2k "2" .', '"o ""2"""', 0, "2"),
    ]
    assert len(pairs(out / "dev/dev.de.tsv")) == 3  # with the one that is not translated, as XTREME counts
    joint = [row for language in ("en", "de", "zh") for row in pairs(out / f"train/train.{language}.tsv")]
    assert pairs(out / "train/train.all.tsv") == joint
    assert len(joint) == 3 * 4 - 1  # here it is left out
    printed = capsys.readouterr().out
    assert "dropped: 2 without a text" in printed
    assert f"{Path('en/test_2k.tsv')}: 2 of 2 rows have a cell in quotation marks" in printed


def test_pawsx_flat_files_without_a_header(tmp_path):
    write(tmp_path, **{"test-de.tsv": "eins\tzwei\t0\ndrei\tvier\t1\r\n", "dev-en.tsv": "a\tb\t0\n"})
    prepare("pawsx", *tmp_path.glob("*.tsv"), "--output", tmp_path / "out")
    for name, languages in (("", ["en"]), ("test/", ["de"])):  # which has no dev file
        assert read_languages(tmp_path / f"out/{name}lang_map.json") == languages
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

BRUSSELS NNP I-NP I-ORG
"""
GERMAN = "-DOCSTART- -X- -X- -X- O\n\nMünchen München NE I-NC I-LOC\nliegt liegen VVFIN I-VC O\n"
SPANISH = "Niño B-PER\n, O\nB-LOC B-LOC\n\n\nMéxico B-LOC\n"
DUTCH = "-DOCSTART- -DOCSTART- O\nDe Art O\nheer N O\nJansen N B-PER\n\nGent N B-LOC\n"


def tagged(path: Path, labels: dict[str, int]) -> list[str]:
    """Each sentence of a prepared file as `word/tag word/tag`; its tags must be IOB2 already."""
    names = sorted(labels, key=labels.get)
    rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]  # without the header
    sentences = []
    for row, sentence in zip(rows, read_tagged_tsv(path, labels), strict=True):
        words, tags = (cell.split(JOINT) for cell in row.split("\t"))
        assert tags == [names[label] for label in sentence.labels]
        sentences.append(" ".join(f"{word}/{tag}" for word, tag in zip(words, tags)))
    return sentences


def test_conll_the_shared_tasks(tmp_path, out, capsys):
    source = tmp_path / "conll"
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
            "BRUSSELS/B-ORG",
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
        "ORG": 2,
        "LOC": 0,  # other languages have some
        "MISC": 1,
        "sentences": 3,
        "words": 8,
        "tags rewritten": 4,
    }
    assert "for fine-tuning: --num_labels 9" in printed


CHINESE = "前\tB-LOC\n鎮\tI-LOC\n\n\xa0\tO\na b\tB-PER\n"
SCHEMES = "".join(f"w\t{tag}\n" for tag in ("0-PER", "1-PER", "2-PER", "3-PER", "O", "3-LOC"))
# What is tested -> files, the language, its sentences as `tagged` has them.
PANX = {
    # XTREME's format and WikiANN's, which has the language before each word. Only tabs separate columns.
    "XTREME": ({"dev-zh.tsv": CHINESE}, "zh", ["前/B-LOC 鎮/I-LOC", "\xa0/O a b/B-PER"]),
    "WikiANN": (
        {"zh/dev": re.sub(r"(?m)^(?=.)", "zh:", CHINESE)},
        "zh",
        ["前/B-LOC 鎮/I-LOC", "\xa0/O a b/B-PER"],
    ),
    "WikiANN of several languages": (
        {"en/dev": "en:a\tO\n\nde:b\tB-LOC\n\nzh-min-nan:c\tO\n"},
        "en",
        ["a/O", "b/B-LOC", "c/O"],
    ),
    # A word without a prefix stays as it is, and is counted; the other words lose theirs, once.
    "a word without the prefix": (
        {"en/dev": "http:Rome\tB-LOC\nen:is\tO\nde:old\tO\n\nen:en:a\tO\n"},
        "en",
        ["http:Rome/B-LOC is/O old/O", "en:a/O"],
    ),
    "tags as conlleval reads them, and a line without a word": (
        {"dev-en.txt": "A B-PER\nb O\nc B-LOC\n\nd O\ne I-PER\nf I-LOC\n\ng\tO\n\tB-PER\nÑ\tI-PER\n"},
        "en",
        ["A/B-PER b/O c/B-LOC", "d/O e/B-PER f/B-LOC", "g/O Ñ/B-PER"],
    ),
    **{
        f"the end of an entity, {letters}": (
            {"dev-en.tsv": re.sub(r"\d", lambda match, letters=letters: letters[int(match[0])], SCHEMES)},
            "en",
            ["w/B-PER w/I-PER w/I-PER w/B-PER w/O w/B-LOC"],
        )
        for letters in ("BIES", "BMES", "BILU", "BMEW")
    },
    # As MasakhaNER has them, a folder for each.
    "languages of three letters": (
        {"hau/dev.txt": "Kano B-LOC\n", "hau/train.txt": "Kano B-LOC\n"},
        "ha",
        ["Kano/B-LOC"],
    ),
    # A line "# id" begins a sentence; a word # is a word.
    "comments of MultiCoNER": (
        {"dev-en.txt": "# id 5ab1\tdomain=en\nrome _ _ B-LOC\n# _ _ O\n\n# id 5ab2\tdomain=en\nold _ _ O\n"},
        "en",
        ["rome/B-LOC #/O", "old/O"],
    ),
}


@pytest.mark.parametrize("name", PANX)
def test_panx_files_become_tagged_sentences(tmp_path, out, capsys, name):
    contents, language, sentences = PANX[name]
    prepare("panx", write(tmp_path / "in", **contents), "--output", out)
    labels = read_label_map(out / "label_map.json")
    assert tagged(out / f"dev/dev.{language}.tsv", labels) == sentences
    assert labels.keys() <= {"B-PER", "I-PER", "B-LOC", "I-LOC", "O"}
    is_counted = "dev: 1 of 4 words lack the language prefix de:, en:" in capsys.readouterr().out
    assert is_counted == (name == "a word without the prefix")


def squad(folder: Path, *names: str, ids=("1", "2")) -> Path:
    """Write files of SQuAD with two questions, the first of which is answered, and return their folder."""
    for name in names:
        qas = [
            {"id": i, "question": "Who?", "answers": [{"text": text, "answer_start": 0}]}
            for i, text in zip(ids, "xy")
        ]
        paragraphs = [{"context": f"x {name}", "qas": qas}]
        write(folder, **{name: json.dumps({"data": [{"paragraphs": paragraphs}]})})
    return folder


def test_mlqa_from_all_releases(tmp_path, out, capsys):
    """Of MLQA's files those with context and question in one language are used. SQuAD is for training."""
    source = tmp_path / "MLQA_V1"
    for split in ("dev", "test"):
        for context, question in itertools.product(("ar", "en", "zh"), repeat=2):
            squad(source / split, f"{split}-context-{context}-question-{question}.json")
    squad(tmp_path / "squad", "train-v1.1.json", ids=("1", "1"))  # as own files may
    squad(tmp_path / "xquad", "xquad.en.json", "xquad.th.json")
    squad(tmp_path / "more", "xquad.el.json")
    prepare("mlqa", source, *(tmp_path / name for name in ("squad", "xquad", "more")), "--output", out)
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
        "xquad/xquad.th.json",
    ]
    assert read_languages(out / "lang_map.json") == ["en", "ar", "zh"]  # the order of the paper's table
    assert read_languages(out / "xquad/lang_map.json") == ["en", "el", "th"]
    original = source / "test" / "test-context-zh-question-zh.json"
    assert (out / "test/test.zh.json").read_bytes() == original.read_bytes()
    assert read_squad(out / "train/train.en.json").contexts == ["x train-v1.1.json"]
    found = counts(capsys.readouterr().out, "test", "zh")
    assert found == {"texts": 1, "questions": 2, "unanswered": 1}


@pytest.mark.parametrize(
    "task, name, content, message",
    [
        ("xnli", "notes.tsv", "a\tb\tneutral\n", "no file with a known name"),
        ("xnli", "train-en.tsv", "", "train-en.tsv, line 1: 0 columns"),
        ("xnli", "train-en.tsv", "a\tb\n", "train-en.tsv, line 1: 2 columns"),
        ("xnli", "train-en.tsv", "a\tb\tneutral\tc\n", "train-en.tsv, line 1: 4 columns"),
        ("xnli", "train-en.tsv", b"a\tb\tneutral\n\xff\tb\tneutral\n", "-en.tsv, line 2: not UTF-8"),
        ("xnli", "train-en.tsv", "a\tb\tyes\na\tb\tyes\n", "no usable row (2 with the label 'yes')"),
        ("conll", "eng.train", "", "eng.train: "),
        ("conll", "eng.train", "a NN O\n\nb O\n", "eng.train, line 3: 2 columns (expected 3"),
        (
            "conll",
            "eng.train",
            "a NN O\nb NN B-PER\nc NN PER\n",
            "eng.train, line 3: invalid entity tag 'PER'",
        ),
        ("mlqa", "dev.en.json", '{"data": 1}', "data: "),
    ],
)
def test_reject_bad_sources_and_write_nothing(tmp_path, task, name, content, message):
    write(tmp_path / "in", **{name: content})
    assert message in error_of(prepare, task, tmp_path / "in", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
