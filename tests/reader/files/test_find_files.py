"""Which files of a folder each command finds, in which order, and what is said of the others."""

from pathlib import Path

import pytest

from ernie_m.data.data_sets import DATA_SETS
from ernie_m.data.prepare import find_data_set_files
from ernie_m.data.prepare_pairs import find_source_files
from ernie_m.reader.files.aligned_lines import find_bitexts
from ernie_m.reader.files.find_files import (
    check_languages,
    find_labeled_files,
    find_pair_files,
    find_text_files,
    parse_languages,
    split_language_prefix,
)
from ernie_m.reader.files.plain_text import FORMATS, OTHER, UNITS
from ernie_m.utils.errors import UserError
from tests.launching import error_of

OUT = Path("my/out")
# Who looks in the folder "my" -> a function, of which each item is what it finds.
WAYS = {
    "tables": lambda: [
        (split, language, path) for path, split, language in find_labeled_files(Path("my"), OUT)
    ],
    **{
        task: lambda task=task: [
            file[::-1] for file in find_data_set_files(DATA_SETS[task], [Path("my")], OUT)
        ]
        for task in DATA_SETS
    },
    "own pairs": lambda: [
        (file.name, "held out" * file.is_evaluation, file.paths)
        for file in find_source_files(["my"], OUT).pairs
    ],
    "own text": lambda: find_source_files(["my"], OUT).text.items(),
    "unread": lambda: zip(find_source_files(["my"], OUT).skipped),
    "bitexts": lambda: [(language, *paths) for language, paths in find_bitexts(Path("my")).items()],
    "folder": lambda: zip(find_text_files("my")),
    "English": lambda: zip(find_text_files("my", ("en",))),
    "glob": lambda: zip(find_text_files("my/**/*.t*")),
    "German folder": lambda: zip(find_text_files("my/corpus.de", ("en",))),
    "pairs": lambda: find_pair_files("my", ("en", "de")),
    "Moses": lambda: find_pair_files("my/train", ("en", "de")),
    "two globs": lambda: find_pair_files("my/tr*.en,my/tr*.de", ("en", "de")),
}


def found_by(way: str) -> str:
    """What one finds, or what its error names."""
    try:
        return " | ".join(" ".join(map(str, item)) for item in WAYS[way]()).replace("my/", "")
    except UserError as error:
        return f"refused: {str(error).partition(': ')[0]}"


def make(names) -> None:
    """Make empty files in the folder "my"."""
    for path in (Path("my", name) for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# Names of empty files -> who finds what. One that finds none refuses them by name.
FOLDERS = {
    "labels": (
        "train.en.tsv train-de.csv dev.en.csv.gz dev-fr.tsv test.fr.xlsx test.de.jsonl "
        "a/train.en.tsv out/train.fr.tsv out/a/train.sw.tsv .x/test.sw.txt dev.zh-CN.tsv "
        "train.all.tsv Train.it.tsv test.es.tsv.xz dev.hi.conll",
        {
            "tables": "train en a/train.en.tsv | train de train-de.csv | dev en dev.en.csv.gz | dev fr "
            "dev-fr.tsv | dev hi dev.hi.conll | test de test.de.jsonl | test es test.es.tsv.xz | "
            "test fr test.fr.xlsx | test sw .x/test.sw.txt",
            "own pairs": "refused: my/a/train.en.tsv and my/train.en.tsv",
            "bitexts": "Train.it Train.it.tsv | dev-fr dev-fr.tsv | dev.en dev.en.csv.gz | "
            "dev.zh-CN dev.zh-CN.tsv | test.de test.de.jsonl | test.es test.es.tsv.xz | "
            "test.fr test.fr.xlsx | "
            "train-de train-de.csv | train.all train.all.tsv | train.en train.en.tsv",
            "folder": "Train.it.tsv | train-de.csv | train.all.tsv | train.en.tsv",
            "glob": "Train.it.tsv | a/train.en.tsv | out/a/train.sw.tsv | out/train.fr.tsv | train.all.tsv | "
            "train.en.tsv",
        },
    ),
    "pairs": (
        "en-pl.tsv wiki.fr-en.tmx.bz2 zh_Hans-en.csv faq.jsonl train.de.gz train.en.xz more/news.hi.gz "
        "more/news.en more/en-de.fr dev.en-it.tsv newstest2020.en newstest2020.de en.txt news.de.txt "
        ".en-es.tsv a.bak alone.fi b/en.txt out/en-fi.tsv",
        {
            "tables": "refused: my",
            "own pairs": "de-en  train.en.xz,train.de.gz | dev-it-en held out dev.en-it.tsv | "
            "es-en  .en-es.tsv | "
            "faq  faq.jsonl | fr-en  wiki.fr-en.tmx.bz2 | hi-en  more/news.en,more/news.hi.gz | "
            "newstest2020-de-en held out newstest2020.en,newstest2020.de | pl-en  en-pl.tsv | "
            "zh_Hans-en  zh_Hans-en.csv",
            "own text": "en ['b/en.txt', 'en.txt'] | de ['news.de.txt']",
            "unread": "a.bak | more/en-de.fr | alone.fi",
            "bitexts": "fr wiki.fr-en.tmx.bz2 | zh zh_Hans-en.csv | dev.en-it dev.en-it.tsv | "
            "en-pl en-pl.tsv | faq faq.jsonl",
            "folder": "a.bak | alone.fi | en-pl.tsv | en.txt | faq.jsonl | news.de.txt | train.de.gz | "
            "train.en.xz | wiki.fr-en.tmx.bz2 | zh_Hans-en.csv",
            "glob": "b/en.txt | en-pl.tsv | en.txt | news.de.txt | out/en-fi.tsv | wiki.fr-en.tmx.bz2",
            "pairs": "a.bak | en.txt | faq.jsonl | news.de.txt | train.de.gz | train.en.xz",
            "Moses": "train.en.xz train.de.gz",
        },
    ),
    "bitexts": (
        "de-en.de de-en.en tatoeba.pes-eng.pes tatoeba.pes-eng.eng xx-en.xx fr-de.tsv.gz sw-en.csv "
        "sr_Latn-en.tsv .hi-en.tsv it-en.it.gz more/fi-en.fi README train.en train.de",
        {
            "bitexts": "de de-en.de de-en.en | fa tatoeba.pes-eng.pes tatoeba.pes-eng.eng | "
            "sw sw-en.csv | fr-de"
            " fr-de.tsv.gz | sr_Latn sr_Latn-en.tsv | xx xx-en.xx xx-en.en",
            "folder": "de-en.de | de-en.en | fr-de.tsv.gz | it-en.it.gz | sr_Latn-en.tsv | "
            "sw-en.csv | tatoeba.pes-eng.eng | tatoeba.pes-eng.pes | train.de | train.en | xx-en.xx",
            "Moses": "train.en train.de",
            "two globs": "train.en train.de",
        },
    ),
    "releases": (
        "a/xnli.dev.tsv a/multinli.train.sw.tsv xnli/xnli.test.sw.tsv xnli-dev-sw.tsv train.all.tsv "
        "de/translated_train.tsv en/train.tsv dev-ja.tsv ned.testa test-zh.txt hau/dev.txt "
        "xquad.el.json dev-context-zh-question-zh.json dev-context-zh-question-en.json "
        "train-en.goldp.json train-v1.1.json out/train.en.tsv",
        {
            "xnli": "sw train a/multinli.train.sw.tsv | None dev a/xnli.dev.tsv | ja dev dev-ja.tsv | sw dev "
            "xnli-dev-sw.tsv",
            "pawsx": "de train de/translated_train.tsv | ja dev dev-ja.tsv | en train en/train.tsv",
            "conll": "ja dev dev-ja.tsv | en train en/train.tsv | ha dev hau/dev.txt | "
            "nl dev ned.testa | zh "
            "test test-zh.txt",
            "panx": "ja dev dev-ja.tsv | en train en/train.tsv | ha dev hau/dev.txt | nl dev ned.testa | zh "
            "test test-zh.txt",
            "mlqa": "zh dev dev-context-zh-question-zh.json | en train train-en.goldp.json | None train "
            "train-v1.1.json | el xquad xquad.el.json",
        },
    ),
    "as they are unpacked": (
        "Books.de-en.de Books.de-en.en README LICENSE.txt english.txt news.20.fr.txt zh_CN.txt de-en.tmx "
        "de-en.tsv en-de.tsv.gz en-de.fr news.2020.de-en.de my-corpus.txt my.csv train.src train.in "
        "dev.eng_Latn corpus.deu_Latn.gz",
        {
            "English": "Books.de-en.en | de-en.tmx | de-en.tsv | en-de.tsv.gz | english.txt | "
            "my-corpus.txt | my.csv | train.in | train.src",
            "pairs": "Books.de-en.de | Books.de-en.en | corpus.deu_Latn.gz | de-en.tmx | en-de.tsv.gz | "
            "english.txt | my-corpus.txt | my.csv | news.2020.de-en.de | train.in | train.src",
        },
    ),
    "English first": (
        "en-de.de en-de.en",
        {
            "own pairs": "de-en  en-de.en,en-de.de",
            "bitexts": "refused: my/en-de.de",
            "pairs": "en-de.de | en-de.en",
        },
    ),
    "English first, in a script": (
        "en-zh_Hans.zh_Hans en-zh_Hans.en",
        {"bitexts": "refused: my/en-zh_Hans.zh_Hans"},
    ),
    "held out": (
        "test.en-de.tsv dev.en dev.de",
        {
            "tables": "refused: my",
            "own pairs": "refused: my",
            "bitexts": "test.en-de test.en-de.tsv",
            "folder": "refused: my",
            "glob": "refused: my/**/*.t*",
        },
    ),
    "nothing to train on": ("dev.en.tsv test.de.tsv", {"tables": "refused: my"}),
    "one of two files": ("train.en", {"Moses": "refused: my/train"}),
    "a folder beside two files": ("train/en-de.tsv train.en train.de", {"Moses": "train/en-de.tsv"}),
    "two of a language": (
        "de-en.de de-en.en tatoeba.deu-eng.deu tatoeba.deu-eng.eng",
        {"bitexts": "refused: my/de-en.de and my/tatoeba.deu-eng.deu"},
    ),
    "two of a language in one file each": (
        "wiki.fr-en.tsv fr-de.tsv fra-eng.csv.gz",
        {"bitexts": "refused: my/fra-eng.csv.gz and my/wiki.fr-en.tsv"},
    ),
    "folders of dev and test": (
        "train/en-de.tsv dev/en-de.tsv test/news.en test/news.de test/faq.jsonl",
        {
            "own pairs": "de-en  train/en-de.tsv | dev-de-en held out dev/en-de.tsv | "
            "test_faq held out test/faq.jsonl | test_news-de-en held out test/news.en,test/news.de",
            "glob": "train/en-de.tsv",
        },
    ),
    "words that are no languages": (
        "train.eng.tsv train.old.tsv dev.csv.tsv",
        {
            "tables": "train en train.eng.tsv",
            "panx": "en train train.eng.tsv",
            "xnli": "en train train.eng.tsv",
        },
    ),
    "words of names": (
        "newsdiscusstest2015.en newsdiscussdev2015.en newstestB2020.en newssyscomb2009.en TestData.en "
        "valset.en testfile.en validset.en heldoutset.en TEST.en dev-sets.en my_testdata.en DevTest.en "
        "testsets.en TestFiles.en latest.en contest.en Attestation.en testimony.en greatest.en devices.en "
        "news.en dataset.en newsdata.en trainset.en LatestNews.en",
        {
            "folder": "Attestation.en | LatestNews.en | contest.en | dataset.en | devices.en | greatest.en | "
            "latest.en | news.en | newsdata.en | testimony.en | trainset.en",
        },
    ),
    "folders are not named by languages": (
        "corpus.de/news.txt",
        {"German folder": "corpus.de/news.txt"},
    ),
    "text that belongs to no pair": (
        "en-fr.tsv news.de-en.txt a/train.en b/train.de",
        {
            "own pairs": "fr-en  en-fr.tsv",
            "own text": "",
            "unread": "news.de-en.txt | a/train.en | b/train.de",
        },
    ),
    "two names of a language": (
        "en-fr.tsv deu.txt news.de.txt",
        {
            "own text": "refused: de and deu are the same language. Use one name for all of its text",
        },
    ),
    "hidden": (
        ".train.en.tsv .en-de.tsv",
        {
            "tables": "refused: my",
            "own pairs": "de-en  .en-de.tsv | train_en  .train.en.tsv",
            "bitexts": "",
            "folder": "refused: my",
            "glob": "refused: my/**/*.t*",
        },
    ),
}


@pytest.mark.parametrize("title", FOLDERS)
def test_which_files_are_found(in_tmp_path, title):
    """In which order, by whom, and as what."""
    names, expected = FOLDERS[title]
    make(names.split())
    assert {way: found_by(way) for way in expected} == expected


def test_tables_that_are_not_read_have_a_reason(in_tmp_path, caplog):
    """Ten of a kind are named; so are those that are not trained on."""
    texts = [f"{number}.txt" for number in range(10, 22)]
    held_out = [f"dev.{number}" for number in range(20, 31)]
    make(["train.en.tsv", "train.old.tsv", "train.engl.tsv", "all.pdf", *texts, "a/train.en.tsv"])
    find_labeled_files(Path("my"), OUT)
    make(held_out)
    find_text_files("my")
    form = "expected train, dev or test with a language, as in train.en.tsv"
    names = ", ".join(name for name in FORMATS if FORMATS[name] not in (UNITS, OTHER))
    assert caplog.messages == [
        "ignored my/train.en.tsv: the train file of en is my/a/train.en.tsv",
        f"ignored files: {', '.join(f'my/{name}' for name in texts[:10])} and 2 more ({form})",
        f"ignored files: my/all.pdf (expected a name in {names})",
        "ignored files: my/train.engl.tsv, my/train.old.tsv (unknown language "
        "code; see ernie_m/utils/languages.tsv)",
        "skipped by name, as validation or test files, documentation or other languages: "
        f"{', '.join(f'my/{name}' for name in held_out[:10])} and 1 more",
    ]


def test_find_table_by_any_name(tmp_path, in_tmp_path, monkeypatch):
    """It is the training file; a folder that is not there is no table."""
    make(["mine.csv", "test.de.tsv"])
    for name, language in (("mine.csv", "all"), ("test.de.tsv", "de")):
        assert find_labeled_files(Path("my", name), OUT) == [(Path("my", name), "train", language)]
    assert find_text_files("my/test.de.tsv") == ["my/test.de.tsv"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_text_files("~/my/*.csv ") == find_text_files("$HOME/my/*.csv") == [f"{tmp_path}/my/mine.csv"]
    assert error_of(find_labeled_files, Path("none"), OUT).startswith("none: ")


@pytest.mark.parametrize("label", ["en-en", "en", "en-de-fr", "en-zh-Hans", "en-", "en-d e", 5])
def test_rejects_labels_that_are_not_two_languages(label):
    assert f" {label!r} (" in error_of(parse_languages, label, 2)


def test_parse_language_labels(in_tmp_path, caplog):
    """Unknown languages are two as well. A file may have = in its name."""
    check_languages(["Klingon", "Elvish"])
    assert all(name in caplog.text for name in ("Klingon", "Elvish"))
    assert "'x=y.tsv'" in error_of(split_language_prefix, "x=y.tsv")
    Path("x=y.tsv").touch()
    assert split_language_prefix("x=y.tsv") == (None, "x=y.tsv")
