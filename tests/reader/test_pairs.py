"""Pairs in the forms in which people have them: columns without texts, packed, two files, TMX, bad ones."""

import bz2
import gzip
import os
import pickle
import re
import tempfile
from itertools import islice
from pathlib import Path

import pytest

from ernie_m.reader.files.pairs import PairRows, is_shifted
from ernie_m.reader.files.plain_text import TextFile
from ernie_m.reader.files.rows import TableOptions
from tests.launching import error_of
from tests.toys import sentences

TEXTS = list(dict.fromkeys(sentences(120, seed=8)))[:80]
PAIRS = [[f"{text} bado", f"{text} kani"] for text in TEXTS[:40]]
OTHERS = TEXTS[40:]
LICENCE = "CC-BY 2.0 (France) Attribution: tatoeba.org #{} (CK) & #{} (Espi)"


def write(path: Path, rows, separator="\t") -> Path:
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def numbered(row_of) -> list[list]:
    return [row_of(number, *pair) for number, pair in enumerate(PAIRS)]


# Rows in the form of public files, and the columns of the pair.
FORMS = {
    "Tatoeba's pairs": (numbered(lambda n, a, b: [1276 + 7 * n, a, 77 + 31 * n, b]), (2, 4)),
    "manythings": (numbered(lambda n, a, b: [a, b, LICENCE.format(2 * n, 3 * n)]), (1, 2)),
    "WikiMatrix": (numbered(lambda n, a, b: [1.25 - n / 1e4, a, b]), (2, 3)),
    "languages and ids": (numbered(lambda n, a, b: [f"doc-{n}", "eng", a, "deu", b, "train"]), (3, 5)),
    "hashes and URLs": (
        numbered(lambda n, a, b: [f"{n:032x}", a, b, f"https://example.org/page/{n}", "2019-05-04 10:00:00"]),
        (2, 3),
    ),
    "a header of ids": ([["id", "English", "German"], *numbered(lambda n, a, b: [n, a, b])], (2, 3)),
    "a header of scores": (
        [["Source", "Target", "Score", "Comment"], *numbered(lambda n, a, b: [a, b, n / 40, OTHERS[n % 40]])],
        (1, 2),
    ),
    "the other order": (
        [["answer", "note", "question"], *numbered(lambda n, a, b: [b, OTHERS[n % 40], a])],
        (3, 1),
    ),
    "one name": ([["Answer", "Frage", "id"], *numbered(lambda n, a, b: [b, a, n])], (2, 1)),
    "two columns": (PAIRS, None),
    "languages above": ([["en", "de"], *PAIRS], None),
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_are_read_and_nothing_else(tmp_path, caplog, form):
    """Where there are other columns, the log names those that are read and those that are not."""
    caplog.set_level("INFO")
    content, columns = FORMS[form]
    path = write(tmp_path / "pairs.tsv", content)
    if form == "a header of scores":  # they may say that some are no translations
        assert "pairs.tsv, line 1: column 3 judges the pairs" in error_of(PairRows, path)
    rows = PairRows(path, TableOptions(only="all"))
    assert list(rows) == PAIRS
    assert rows.with_negatives == 0
    assert list(pickle.loads(pickle.dumps(rows))) == PAIRS
    said = [line for line in caplog.messages if "are the pair" in line]
    assert bool(said) == (columns is not None)
    for line in said:
        numbers = re.findall(r"\d+", line.removeprefix(f"{tmp_path}/pairs.tsv: "))
        assert numbers[:2] == [str(number) for number in columns]
        assert {*map(int, numbers)} == {*range(1, len(content[0]) + 1)}


def test_the_notation_gives_the_order_of_the_languages(tmp_path):
    path = write(tmp_path / "a.tsv", [["EN", "de"], *PAIRS])
    assert list(PairRows(f"en-de<={path}")) == PAIRS
    assert list(PairRows(f"de-en<={path}")) == [pair[::-1] for pair in PAIRS]


@pytest.mark.parametrize("form", ["Tatoeba's pairs", "WikiMatrix", "a header of ids"])
def test_a_few_rows_tell_numbers(tmp_path, form):
    content, _ = FORMS[form]
    has_header = form.startswith("a header")
    assert list(PairRows(write(tmp_path / "a.tsv", content[: 2 + has_header]))) == PAIRS[:2]


def test_negatives(tmp_path):
    """Behind the pair without a header, by name with one."""
    rows = [[*PAIRS[0], OTHERS[0], OTHERS[1]], PAIRS[1], [*PAIRS[2], *OTHERS[2:5]]]
    read = PairRows(write(tmp_path / "a.tsv", rows))
    assert list(read) == rows and read.with_negatives == 2
    named = [["negative_1", "id", "anchor", "positive", "negative_2"]]
    named += [[OTHERS[n], n, *PAIRS[n], OTHERS[n + 20]] for n in range(20)]
    read = PairRows(write(tmp_path / "b.tsv", named))
    assert list(read) == [[*PAIRS[n], OTHERS[n], OTHERS[n + 20]] for n in range(20)]
    assert read.header() == ["query", "positive", "negative", "negative"]


def test_rows_that_repeat(tmp_path):
    """Where no column has other texts, few values are the texts."""
    rows = [PAIRS[number % 2] for number in range(40)]
    assert list(PairRows(write(tmp_path / "a.tsv", rows))) == rows


def test_a_name_keeps_a_column_that_repeats(tmp_path):
    """Without names a column of few values is none of texts; with them it is read."""
    rows = [[query, ["yes", "no"][number % 2]] for number, (query, _) in enumerate(PAIRS)]
    line = error_of(PairRows, write(tmp_path / "a.tsv", rows))
    assert "a.tsv, line 1: no two columns of texts" in line and "column 2: verdicts" in line
    assert list(PairRows(write(tmp_path / "b.tsv", [["query", "positive"], *rows]))) == rows


def test_queries_that_begin_alike(tmp_path):
    """As an instruction before each of them."""
    rows = [[f"Find the text that answers this question: {query}", positive] for query, positive in PAIRS]
    assert list(PairRows(write(tmp_path / "a.tsv", rows))) == rows


@pytest.mark.parametrize(("shift", "is_warned"), [(0, False), (1, True), (-1, True)])
def test_rows_that_are_shifted(tmp_path, caplog, shift, is_warned):
    """Their numbers say it."""
    queries = [f"{text} {37 * n if n % 4 == 0 else ''}" for n, text in enumerate(TEXTS[:40])]
    positives = [f"bado {37 * n if n % 4 == 0 else ''} {text}" for n, text in enumerate(OTHERS)]
    positives = positives[shift:] + positives[:shift]
    PairRows(write(tmp_path / "a.tsv", zip(queries, positives)))
    assert ("are the columns shifted by a row?" in caplog.text) == is_warned


@pytest.mark.data
def test_real_pairs_are_not_shifted(data_dir):
    found = []
    for path in (data_dir / "pretrain/parallel").glob("*.tsv.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            queries, positives = zip(*(line.rstrip("\n").split("\t") for line in islice(file, 3000)))
        assert not is_shifted(zip(queries, positives)), path
        found.append(is_shifted(zip(queries, positives[1:])))
    assert sum(found) >= 10  # of 14; the others have few numbers


def test_query_equal_to_positive(tmp_path, caplog):
    rows = [[text, text] for text in TEXTS[:6]] + PAIRS
    assert PairRows(write(tmp_path / "a.tsv", rows)).equal == 6
    assert "a.tsv: in 6 of 46 rows query and positive are equal" in caplog.text


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv(tmp_path, separator):
    """Quotes, Excel's first line, a header, and packed."""
    pairs = [[f'{a} "so{separator} {n}"', b] for n, (a, b) in enumerate(PAIRS)]
    quoted = [
        [n, *(f'"{text.replace(chr(34), chr(34) * 2)}"' for text in pair)] for n, pair in enumerate(pairs)
    ]
    path = write(tmp_path / "a.csv", quoted, separator)
    assert list(PairRows(path)) == pairs
    content = f"\ufeffsep={separator}\r\nid{separator}source{separator}target\r\n".encode()
    content += path.read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "b.csv").write_bytes(content)
    assert list(PairRows(tmp_path / "b.csv")) == pairs
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content))
    rows = PairRows(tmp_path / "b.csv.gz")
    assert list(rows) == pairs and list(pickle.loads(pickle.dumps(rows))) == pairs


def test_a_csv_whose_first_line_names_the_tab(tmp_path):
    path = write(tmp_path / "a.csv", [["sep=", ""], *PAIRS])
    assert list(PairRows(path)) == PAIRS


def test_two_files_and_moses(tmp_path):
    """Plain and packed. A tab in a text is a space. The temporary file goes with the rows."""
    write(tmp_path / "x.en", [[a] for a, _ in PAIRS])
    german = "\n".join(b.replace(" kani", "\tkani") for _, b in PAIRS)
    (tmp_path / "x.de.bz2").write_bytes(bz2.compress(german.encode()))
    for files in (f"{tmp_path}/x.en,{tmp_path}/x.de.bz2", f"en-de<={tmp_path}/x"):
        rows = PairRows(files)
        assert list(rows) == PAIRS
        unpacked = rows._lines.path
        assert unpacked.is_file()
        del rows
        assert not unpacked.exists()
    write(tmp_path / "x.en", [["" if number == 2 else a] for number, (a, _) in enumerate(PAIRS)])
    assert "x.en, line 3: " in error_of(PairRows, f"en-de<={tmp_path}/x")
    write(tmp_path / "x.en", [[a] for a, _ in PAIRS[1:]])
    assert "x.de.bz2: " in error_of(PairRows, f"en-de<={tmp_path}/x")


def test_no_space_to_unpack(tmp_path, monkeypatch):
    """The line names the temporary file, so that another TMPDIR can be chosen."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\nc\td\n" * 9))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = open("/dev/full", "wb")  # noqa: SIM115 - the reader closes it
    monkeypatch.setattr(os, "fdopen", lambda descriptor, _: full)
    assert f"{tmp_path}/pairs." in error_of(PairRows, path)


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
{units}</body></tmx>
"""


def tmx(units) -> str:
    """A file of these units: language -> text."""
    lines = []
    for texts in units:
        variants = [f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in texts.items()]
        lines.append(f"<tu>{''.join(variants)}</tu>\n")
    return TMX.format(units="".join(lines))


def test_tmx(tmp_path):
    """In the file's order, or in that of the notation; regions, entities, codes and line ends in a text."""
    # What holds the formatting of another program is no text.
    codes = "".join(f"<{name}>code</{name}>" for name in ("bpt", "ept", "it", "ph", "ut"))
    units = [{"en-GB": f"{a}\n &amp;  more", "fr": "x", "DE": f"{codes}<hi>{b}</hi>"} for a, b in PAIRS]
    pairs = [[f"{a} & more", b] for a, b in PAIRS]
    (tmp_path / "a.tmx").write_text(tmx(units))
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(tmx(units).replace("UTF-8", "UTF-16").encode("utf-16")))
    for name in ("a.tmx", "a.tmx.gz"):
        assert list(PairRows(f"en-de<={tmp_path}/{name}")) == pairs
        assert list(PairRows(f"de-en<={tmp_path}/{name}")) == [pair[::-1] for pair in pairs]
    two = [{"en": a, "de": b} for a, b in PAIRS]
    for language in ("xml:lang", "lang"):  # TMX 1.4 and 1.1
        # Of two texts in one language the first is read.
        again = tmx(two).replace("</tu>", '<tuv xml:lang="en"><seg>another</seg></tuv></tu>')
        (tmp_path / "a.tmx").write_text(again.replace("xml:lang", language))
        assert list(PairRows(f"de-en<={tmp_path}/a.tmx")) == [pair[::-1] for pair in PAIRS]
    assert list(PairRows(tmp_path / "a.tmx")) == PAIRS
    assert "a.tmx: " in error_of(PairRows, f"en-es<={tmp_path}/a.tmx")


def test_a_text_in_many_elements(tmp_path):
    """Of any depth, in the order of the file."""
    depth = 50_000
    text = f"a <hi>b <ph>code <hi>x</hi></ph>c </hi>{'<hi>d ' * depth}e{'</hi>' * depth} f"
    (tmp_path / "a.tmx").write_text(tmx([{"en": text, "de": "g"}]))
    assert list(PairRows(tmp_path / "a.tmx")) == [[f"a b c {'d ' * depth}e f", "g"]]


# Entities in entities, 10 to the power of 9 letters in the end.
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
LAUGHS = f'<!DOCTYPE tmx [<!ENTITY e0 "a">{ENTITIES}]>\n<tmx><tu><tuv><seg>&e9;</seg></tuv></tu></tmx>'


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("<tmx><body><tu></tmx>", "a.tmx, line 1: "),
        ("no XML", "a.tmx, line 1: "),
        (tmx([{"en": "a", "de": "b"}])[:-20], "a.tmx, line "),
        (LAUGHS, "a.tmx, line "),
        ("<tmx><body/></tmx>", "a.tmx: "),
    ],
)
def test_bad_tmx(tmp_path, content, place):
    (tmp_path / "a.tmx").write_text(content)
    assert place in error_of(PairRows, tmp_path / "a.tmx")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", '{"query": "a", "positive": "b"}\n{"query": "a"\n', "a.jsonl, line 2: not JSON"),
        ("a.tsv", '[\n{"query": "a"}]\n', "a.tsv, line 2: "),
        ("a.tsv", tmx([{"en": "a", "de": "b"}]), "a.tsv, line 1: XML"),
        ("a.tsv", "0.5\t3\t7\n0.4\t1\t2\n", "a.tsv, line 1: "),
        ("a.txt", "a text\nanother\n", "a.txt, line 1: "),
        (
            "a.tsv",
            "id\tone\ttwo\tthree\n1\ta\tb\tc\n2\td\te\tf\n",
            "a.tsv, line 1: which columns are the pair, of 2, 3, 4?",
        ),
        ("a.tsv", "query\tpositive\n", "a.tsv: "),
        ("a.tsv", "a\tb\nc\t \n", "a.tsv, line 2: "),
        ("a.tsv", "a\tb\n \td\n", "a.tsv, line 2: "),
        ("a.tsv", "a\tb\tc\nd\te\tf\n", "a.tsv, line 1: which columns are the pair, of 1, 2, 3?"),
        ("a.tsv", "query\tpositive\tnegative\na\tb\tc\nd\te\t\n", "a.tsv, line 3: "),
        ("a.csv", 'a,b\n"open,c\n', "a.csv, line 2: "),
        ("a.csv", "a,b\nc\n", "a.csv, line 2: "),
        ("a.tsv.gz", "not packed", "a.tsv.gz, line 1: "),
    ],
)
def test_what_is_refused(tmp_path, name, content, place):
    (tmp_path / name).write_text(content)
    assert place in error_of(PairRows, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "word"),
    [('{"text": "a"}\n{"text": "b"}\n', "JSON"), (tmx([{"en": "a"}]), "XML")],
)
def test_text_of_other_forms(tmp_path, content, word):
    path = tmp_path / "text"
    path.write_text(content)
    line = error_of(TextFile, str(path))
    assert line.startswith(f"{path}, line 1: ") and word in line


def test_lines_that_end_as_on_old_macs(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\r" for a, b in PAIRS))
    assert list(PairRows(tmp_path / "a.tsv")) == PAIRS


def test_plain_text_is_no_other_form(tmp_path):
    for content in (
        "{x} is a set\n",
        "[1] a note\n",
        "<b>bold</b>\n",
        "one\r\ntwo\r\n",
        "a\rb\nc\n",
        '{"a"\n',
    ):
        (tmp_path / "text").write_text(content, newline="")
        assert TextFile(str(tmp_path / "text")).buffer == content.encode()


def test_columns_that_are_chosen(tmp_path):
    """By names or numbers, of a file with a header or without."""
    rows = numbered(lambda n, a, b: [a, OTHERS[n % 40], b])
    for header, columns in (([["one", "two", "three"]], "three,one"), ([], "3,1")):
        path = write(tmp_path / "a.tsv", [*header, *rows])
        found = PairRows(path, TableOptions(columns=columns))
        assert list(found) == [[b, a] for a, b in PAIRS]
    assert "a.tsv, line 1: --columns x" in error_of(PairRows, path, TableOptions(columns="x,1"))


@pytest.mark.parametrize(
    ("name", "header", "expected"),
    [
        ("pairs.tsv", None, False),
        ("en-de.tsv", None, True),
        ("wiki.en-zh_Hans.csv", None, True),
        ("pairs.tsv", ["query", "positive"], False),
        ("pairs.tsv", ["source", "translation"], True),
        ("pairs.tsv", ["de", "en"], True),
        ("pairs.tsv", ["sentence1", "sentence2"], False),
        ("pairs.tsv", ["question", "answer", "en"], False),
    ],
)
def test_translations_are_told_by_a_name_or_a_header(tmp_path, name, header, expected):
    rows = [[*pair, "other words"][: len(header or pair)] for pair in PAIRS]
    path = write(tmp_path / name, [*([header] if header else []), *rows])
    assert PairRows(path).are_translations == expected
    assert PairRows(f"fr-es<={path}").are_translations


def test_a_row_before_lines_that_are_left_out(tmp_path):
    """Lines that are not UTF-8 belong to no row, though they stand behind one."""
    lines = [f"{query}\t{positive}\n".encode() for query, positive in PAIRS]
    lines[7:9] = ["señor\tHerr\n".encode("cp1252")] * 2
    (tmp_path / "pairs.tsv").write_bytes(b"".join(lines))
    rows = PairRows(tmp_path / "pairs.tsv", TableOptions(on_error="skip"))
    assert [*rows] == PAIRS[:7] + PAIRS[9:]
