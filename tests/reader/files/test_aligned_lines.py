"""Lines of text files, and bitexts under XTREME's names and public ones."""

import pickle

import pytest

from ernie_m.reader.files.aligned_lines import (
    Bitext,
    Sentences,
    read_bitexts,
    read_sentences_by_language,
)
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.text_featurizer import Example
from tests.launching import error_of


def write(folder, files: dict[str, list[str]]) -> None:
    """Write lines to each file: name -> lines. A surrogate stands for a byte that is not UTF-8."""
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")


def test_lines_are_read_as_they_stand(tmp_path):
    # U+2028 and U+0085 end a line for str.splitlines, not in a file.
    (tmp_path / "a").write_bytes("\ufeffeins\r\n\nzwei\u2028\u0085 drei\rvier\nlast".encode())
    lines = Sentences(tmp_path / "a")
    for each in (lines, pickle.loads(pickle.dumps(lines))):
        assert each.read_texts() == ["eins", "", "zwei\u2028\u0085 drei\rvier", "last"]
    assert lines[3] == Example("last", None)
    with pytest.raises(IndexError):
        lines[4]


def test_blank_lines_are_no_sentences(tmp_path):
    write(tmp_path, {"de": ["", "eins", "  ", "zwei"], "en": ["", " "]})
    assert read_sentences_by_language(f"de<={tmp_path}/de") == {"de": ["eins", "zwei"]}
    assert "en: " in error_of(read_sentences_by_language, f"en<={tmp_path}/en")


def test_xtreme_names_and_public_names(tmp_path, caplog):
    """A language of the paper comes first, by XTREME's code, whatever its files are called."""
    files = {
        "de-en.de": ["a", "b"],
        "de-en.en": ["A", "B"],
        "xx-en.xx": ["c", "d"] * 10,
        "xx-en.en": ["D", "C"] * 10,
        "tatoeba.pes-eng.pes": ["d"],
        "tatoeba.pes-eng.eng": ["D"],
        "tatoeba.lat-eng.lat": ["none of the 36"],
        "tatoeba.lat-eng.eng": ["E"],
        **dict.fromkeys(("notes-en.txt", "de-en.de.gz", "fr-en.txt"), ("no bitext",)),
    }
    write(tmp_path, files)
    assert [bitext[:5] for bitext in read_bitexts(tmp_path)] == [
        ("de", ["a", "b"], ["A", "B"], True, True),
        ("fa", ["d"], ["D"], True, True),
        ("la", ["none of the 36"], ["E"], True, True),
        ("xx", ["c", "d"] * 10, ["D", "C"] * 10, True, True),
    ]
    assert [bitext.language for bitext in read_bitexts(tmp_path, ["xx", "de"])] == ["xx", "de"]
    unread = ", ".join(f"{tmp_path}/{name}" for name in ("de-en.de.gz", "fr-en.txt", "notes-en.txt"))
    assert caplog.messages == [f"ignored files: {unread}"] * 2


def test_read_files_in_other_languages(tmp_path):
    """The columns of a header are found by the languages of the name, of which English is the default."""
    write(
        tmp_path,
        {
            "fr-de.tsv": ["id\tde\tfr", "1\tA\ta", "2\tB\tb"],
            "qa.tsv": ["query\tpos", "a\tA", "b\tB", "c"],
            "sw-en.csv": ["en,sw", "A,a", "B,b"],
            ".hidden.tsv": ["x"],
        },
    )
    bitexts = read_bitexts(tmp_path, options=TableOptions(on_error="skip"))
    assert [(*bitext[:3], bitext.are_translations, bitext.name) for bitext in bitexts] == [
        ("sw", ["a", "b"], ["A", "B"], True, "sw-en"),
        ("fr-de", ["a", "b"], ["A", "B"], True, "fr-de"),
        ("qa", ["a", "b"], ["A", "B"], False, "qa"),
    ]


def test_sort_by_bytes():
    """Capitals come before small letters, and those before others; blanks around a line do not count."""
    english = ["b", "a", " ä", "B", "A b", "A"]
    bitext = Bitext("de", ["eins", "zwei", "drei", "vier", "fünf", "sechs"], english)
    assert [english[number] for number in bitext.sort_alphabetically()] == ["A", "A b", "B", "a", "b", " ä"]


@pytest.mark.parametrize(
    ("files", "languages", "location"),
    [
        ({"de-en.de": ["a", "b"], "de-en.en": ["A"]}, ["de"], "de-en.de has 2 lines, but "),
        ({"fr-en.fr": ["a"]}, ["fr"], "fr-en.en: "),
        ({"fr-en.fr": ["a"], "fr-en.en": ["A"]}, ["fr", "sw"], "missing languages sw"),
        ({"fr-en.fr": ["a"] * 21, "fr-en.en": sorted(map(str, range(21)))}, ["fr"], "fr-en.en: lines are"),
        ({}, [], ": no files <language>-en.<language>"),
        ({"de-en.de": [], "de-en.en": ["A"]}, [], "de-en.de: "),
        ({"de-en.de": ["a", "\udce4"], "de-en.en": ["A", "B"]}, [], "de-en.de, line 2: not UTF-8"),
    ],
)
def test_rejects_invalid_bitexts_by_location(tmp_path, files, languages, location):
    write(tmp_path, files)
    assert location in error_of(read_bitexts, tmp_path, languages)
