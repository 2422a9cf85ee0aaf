"""Pairs in the formats in which people have them: columns without texts, packed, two files, TMX, bad ones."""

import bz2
import gzip
import json
import os
import pickle
import shlex
import tempfile
from pathlib import Path

import pytest

from ernie_m.reader.files.pairs import PairRows, is_pair_notation, reject_sorted_lines
from ernie_m.reader.files.plain_text import TextFile
from ernie_m.reader.files.table_options import TableOptions
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.toys import sentences, write_lines

TEXTS = list(dict.fromkeys(sentences(120, seed=8)))[:80]
PAIRS = [[f"{text} bado", f"{text} kani"] for text in TEXTS[:40]]
OTHERS = TEXTS[40:]
LICENSE = "CC-BY 2.0 (France) Attribution: tatoeba.org #{} (CK) & #{} (Espi)"


def write(path: Path, rows, separator="\t") -> Path:
    return Path(write_lines(path, [separator.join(map(str, row)) for row in rows]))


def numbered(row_of) -> list[list]:
    return [row_of(number, *pair) for number, pair in enumerate(PAIRS)]


HEADER = ["query", "positive"]
# Rows in the format of public files, and --columns; None: the header, or the name of the file, says them.
FORMS = {
    "Tatoeba": (numbered(lambda n, a, b: [1276 + 7 * n, a, 77 + 31 * n, b]), "2,4"),
    "manythings": (numbered(lambda n, a, b: [a, b, LICENSE.format(2 * n, 3 * n)]), "1,2"),
    "WikiMatrix": (numbered(lambda n, a, b: [1.25 - n / 1e4, a, b]), "2,3"),
    "other names": ([["Frage", "Antwort"], *PAIRS], "Frage,Antwort"),
    "a text called split": ([["split", "x"], *PAIRS], "split,x"),
    "ids": ([["id", "Source", "Target"], *numbered(lambda n, a, b: [n, a, b])], None),
    "the index of pandas": ([["", "anchor", "pos"], *numbered(lambda n, a, b: [n, a, b])], None),
    "the other order": (
        [["PASSAGE", "note", "Query"], *numbered(lambda n, a, b: [b, OTHERS[n % 40], a])],
        None,
    ),
    "a mark of some rows": (
        [["query", "positive", "mark"], *numbered(lambda n, a, b: [a, b, "1" if n % 3 else ""])],
        None,
    ),
    "en-de": (PAIRS, None),
    "en-fr": ([["en", "FR"], *PAIRS], None),
    "fr-en": ([["source", "translation"], *PAIRS], None),
    "zh_Hans-en": ([["zh_Hans", "en"], *PAIRS], None),
    "en-it": ([["id", "it", "en"], *numbered(lambda n, a, b: [n, b, a])], None),
}


@pytest.mark.parametrize("dataset", FORMS)
def test_texts_are_read_and_nothing_else(tmp_path, caplog, info_log, dataset):
    """The log names what is not read."""
    content, columns = FORMS[dataset]
    path = write(tmp_path / f"{dataset}.tsv", content)
    rows = PairRows(path, TableOptions(columns=columns))
    assert list(rows) == list(pickle.loads(pickle.dumps(rows))) == PAIRS
    assert (rows.with_negatives, "ignored columns: " in caplog.text) == (0, len(content[0]) > 2)
    if columns:
        assert error_of(PairRows, path).startswith(f"{path}, line 1: ")


def test_notation_decides_the_language_order(tmp_path):
    """A name in another order is refused."""
    path = write(tmp_path / "pairs.tsv", [["EN", "de"], *PAIRS])
    assert list(PairRows(f"en-de<={path}")) == PAIRS
    assert list(PairRows(f"de-en<={path}")) == [pair[::-1] for pair in PAIRS]
    named = path.rename(tmp_path / "en-de.tsv")
    assert f"'en-de<={named}'" in error_of(PairRows, f"de-en<={named}")
    named = write(tmp_path / "en-es.tsv", [["Links", "Rechts"], *PAIRS])
    assert list(PairRows(named, TableOptions(columns="Links,Rechts"))) == PAIRS
    (tmp_path / "v1.0").mkdir()
    assert is_pair_notation(str(named)) and not is_pair_notation(f"{tmp_path}/v1.0")


def test_equal_lines_are_not_sorted():
    reject_sorted_lines("a.txt", ["the same"] * 30)
    assert error_of(reject_sorted_lines, "a.txt", [f"{number}" for number in range(10, 40)]).startswith(
        "a.txt: "
    )


def test_negatives_are_read_by_number_or_name(tmp_path):
    """By number without a header, by name with one; a row may have fewer: empty cells, or none."""
    rows = [[*PAIRS[0], OTHERS[0], OTHERS[1]], [*PAIRS[1], "", OTHERS[2]], [*PAIRS[2], OTHERS[3]], PAIRS[3]]
    texts = [list(filter(None, row)) for row in rows]
    read = PairRows(write(tmp_path / "a.tsv", rows), TableOptions(columns="1,2,3,4"))
    assert list(read) == texts and read.with_negatives == 3
    assert "a.tsv, line 1: " in error_of(PairRows, tmp_path / "a.tsv", TableOptions(columns="1,1"))
    named = ([OTHERS[n], n, *PAIRS[n], OTHERS[n + 20]] for n in range(20))
    header = ["neg1", "id", "anchor", "positive", "Negative_2"]
    read = PairRows(write(tmp_path / "b.tsv", [header, *named]))
    expected = [[*PAIRS[n], OTHERS[n], OTHERS[n + 20]] for n in range(20)]
    assert (list(read), read.make_header()) == (expected, [*HEADER, "negative", "negative"])
    quotes = [[*HEADER, "negative"], *([f'"{one}"', f'"{other}" x', f'"{one}"'] for one, other in PAIRS[:3])]
    read = PairRows(write(tmp_path / "c.tsv", quotes), TableOptions(skip_text_checks=True))
    assert list(read) == quotes[1:]


def test_read_positives_and_negatives(tmp_path):
    """A pair for each positive, with its negatives, as in the training files of FlagEmbedding."""
    others = {"id": 7, "type": "normal", "prompt": "Find it: ", "pos_scores": [0.9, 0.8], "neg_scores": [0.1]}
    objects = [
        {"query": "a", "pos": ["b", "c"], "neg": ["d", "e"], **others},
        {"query": "f", "pos": ["g"], "neg": []},
    ]
    rows = PairRows(write_lines(tmp_path / "a.jsonl", map(json.dumps, objects)))
    assert (list(rows), rows.make_header()) == (
        [["a", "b", "d", "e"], ["a", "c", "d", "e"], ["f", "g"]],
        [*HEADER, "negative", "negative"],
    )


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"query": ["a", "b"], "pos": "c"}, "query"),
        ({"query": {"en": "a"}, "pos": "c"}, "query"),
        ({"query": "a", "pos": []}, "pos"),
        ({"query": "a", "pos": ["b", ""]}, "pos"),
        ({"query": "a", "pos": [["b"]]}, "pos"),
        ({"query": "a", "pos": "b", "neg": [{"text": "c"}]}, "neg"),
        ({"query": "a", "pos": "b", "neg": [3]}, "neg"),
        ({"query": "a", "pos": ["b", None]}, "pos"),
    ],
)
def test_rejects_a_value_that_is_no_text_by_line_and_key(tmp_path, value, key):
    path = write_lines(tmp_path / "a.jsonl", map(json.dumps, [{"query": "a", "pos": "b", "neg": "c"}, value]))
    check_error(error_of(PairRows, path), f"'{key}'", start=f"{path}, line 2: ")
    assert list(PairRows(path, TableOptions(on_error="skip"))) == [["a", "b", "c"]]


def test_pairs_that_another_column_judges_are_asked_about(tmp_path):
    """All would be trained on as equals, also those of named columns. By its name, or by its few numbers."""
    rows = [["premise", "hypothesis", "Label"], *numbered(lambda n, a, b: [a, b, n % 2])]
    names = ("score", "gold_label", "is_duplicate", "Similarity", "relevance_score", "x")
    headers = [(rows[0], "premise,hypothesis"), *((["source", "target", name], None) for name in names)]
    for header, columns in headers:
        path = write(tmp_path / "a.tsv", [header, *rows[1:]])
        check_error(
            error_of(PairRows, path, TableOptions(columns=columns)),
            "--filter",
            header[2],
            start=f"{path}, line 1: ",
        )
        for which, taken in ((f"{header[2]}=1", PAIRS[1::2]), ("all", PAIRS)):
            assert list(PairRows(path, TableOptions(columns=columns, filter=which))) == taken
    for cells, way in (
        (("good", "bad"), "gold_label=good"),
        (("false", "true"), "gold_label=true"),
        (("0.2", "0.7"), "gold_label>=0.7"),
    ):
        judged = numbered(lambda n, a, b, cells=cells: [a, b, cells[n % 2]])
        check_error(
            error_of(PairRows, write(path, [[*HEADER, "gold_label"], *judged])),
            "'gold_label'",
            f"--filter {shlex.quote(way)},",
        )
    for name, cell in (
        ("id", "{0}"),
        ("n", "{0}"),
        ("year", "{1}"),
        ("y", "20{1}"),
        ("z", "-20{1}"),
        ("domain", "d{1}"),
    ):
        others = numbered(lambda n, a, b, cell=cell: [a, b, cell.format(n, 20 + n % 3)])
        assert list(PairRows(write(path, [[*HEADER, name], *others]))) == PAIRS


def test_skip_rows_in_other_splits(tmp_path, caplog):
    rows = [[*HEADER, "split"], *numbered(lambda n, a, b: [a, b, (" Train", "dev", "", "?")[n % 4]])]
    path = write(tmp_path / "a.tsv", rows)
    assert list(PairRows(path)) == PAIRS[::2]
    assert f"{path}: skipped 20 rows outside the training split" in caplog.text
    assert list(PairRows(path, all_splits=True)) == PAIRS


def test_pairs_that_are_equal_are_counted(tmp_path, caplog):
    path = write(tmp_path / "en-de.tsv", [["a  b", "\uff41 b"], *PAIRS])
    assert PairRows(path).equal == 1
    said = f"{path}: query and positive are equal in 1 of 41 rows, which do not contribute to training"
    assert caplog.messages[-1] == said


def test_quotation_marks_between_tabs(tmp_path):
    """Text in a bitext and in the files that the project writes; else it is asked."""
    pairs = [[f'"{a}" he said', b] for a, b in PAIRS]
    headers = {"a.tsv": [HEADER], "b.tsv": [["source", "translation"]], "n.tsv": [[*HEADER, "negative"]]}
    for name, header in ({"en-de.tsv": []} | headers).items():
        assert list(PairRows(write(tmp_path / name, [*header, *pairs]))) == pairs
    path = write(tmp_path / "c.tsv", [["anchor", "pos"], *pairs])
    assert f"{path}, line 2: " in error_of(PairRows, path)
    assert list(PairRows(path, TableOptions(quoting=False))) == pairs


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_bitext_as_csv(tmp_path, separator):
    path = write(tmp_path / "en-de.csv", [[f'"{a}{separator} ""so"""', b] for a, b in PAIRS], separator)
    assert list(PairRows(path)) == [[f'{a}{separator} "so"', b] for a, b in PAIRS]


def test_two_files_and_moses(tmp_path):
    """Plain and packed. A tab in a text is a space. The temporary file goes with the rows."""
    write(tmp_path / "x.en", [[a] for a, _ in PAIRS] + [[" "]])
    german = "\n".join(b.replace(" kani", "\tkani") for _, b in [*PAIRS, ("", "")]) + "\n"
    (tmp_path / "x.de.bz2").write_bytes(bz2.compress(german.encode()))
    for files, encoding in (
        (f"{tmp_path}/x.en,{tmp_path}/x.de.bz2", "utf-8"),
        (f"en-de<={tmp_path}/x", None),
    ):
        rows = PairRows(files, TableOptions(encoding=encoding, skip_text_checks=encoding is None))
        assert list(rows) == PAIRS
        unpacked = rows._lines.path
        assert unpacked.is_file()
        del rows
        assert not unpacked.exists()
    write(tmp_path / "x.en", [["" if number == 2 else a] for number, (a, _) in enumerate([*PAIRS, ("", "")])])
    assert "x.en, line 3: " in error_of(PairRows, f"en-de<={tmp_path}/x")
    write(tmp_path / "x.en", [[a] for a, _ in PAIRS[1:]])
    assert "x.de.bz2: " in error_of(PairRows, f"en-de<={tmp_path}/x")


def test_no_space_to_unpack(tmp_path, monkeypatch):
    """The line names the temporary file, so that another TMPDIR can be chosen."""
    path = write_file(tmp_path / "en-de.tsv.gz", gzip.compress(b"a\tb\nc\td\n" * 9))
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
    variants = [
        "".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in texts.items())
        for texts in units
    ]
    return TMX.format(units="".join(f"<tu>{texts}</tu>\n" for texts in variants))


def test_tmx_segments_are_read_in_the_order_of_the_notation(tmp_path):
    """In the file's order, or in that of the notation; regions, entities, codes and line ends in a text."""
    # Elements that hold another program's formatting are not text.
    codes = "".join(f"<{name}>code</{name}>" for name in ("bpt", "ept", "it", "ph", "ut"))
    units = [{"en-GB": f"{a}\n &amp;  more", "fr": f"{b} x", "DE": f"{codes}<hi>{b}</hi>"} for a, b in PAIRS]
    pairs = [[f"{a} & more", b] for a, b in PAIRS]
    (tmp_path / "a.tmx").write_text(tmx(units))
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(tmx(units).replace("UTF-8", "UTF-16").encode("utf-16")))
    for name in ("a.tmx", "a.tmx.gz"):
        assert list(PairRows(f"en_GB-de<={tmp_path}/{name}")) == pairs
        assert list(PairRows(f"de-en<={tmp_path}/{name}")) == [pair[::-1] for pair in pairs]
        assert list(PairRows(tmp_path / name)) == [[a, f"{b} x"] for a, b in pairs]  # its first two languages
    two = [{"en": a, "de": b} for a, b in PAIRS]
    for language in ("xml:lang", "lang"):  # TMX 1.4 and 1.1
        # Of two texts in one language the first is read.
        again = tmx(two).replace("</tu>", '<tuv xml:lang="en"><seg>another</seg></tuv></tu>')
        (tmp_path / "a.tmx").write_text(again.replace("xml:lang", language))
        assert list(PairRows(f"de-en<={tmp_path}/a.tmx")) == [pair[::-1] for pair in PAIRS]
    assert list(PairRows(tmp_path / "a.tmx")) == PAIRS
    (tmp_path / "b.tmx").write_text(tmx([{"de": "a"}, *two, {"en": "b"}]))
    assert list(PairRows(f"en-de<={tmp_path}/b.tmx", TableOptions(on_error="skip"))) == PAIRS
    assert "a.tmx: " in error_of(PairRows, f"en-es<={tmp_path}/a.tmx")


def test_translations_of_json_lines_name_their_languages(tmp_path):
    """As `datasets` writes WMT and OPUS; white space and a null as in TMX."""
    lines = [
        {"id": str(i), "translation": {"en": f"{a}\n more", "zh-CN": b}} for i, (a, b) in enumerate(PAIRS)
    ]
    pairs = [[f"{a} more", b] for a, b in PAIRS]
    for name, pack in {"train.jsonl": bytes, "train.json.gz": gzip.compress}.items():
        (tmp_path / name).write_bytes(pack("".join(f"{json.dumps(line)}\n" for line in lines).encode()))
        rows = PairRows(tmp_path / name)
        assert list(rows) == list(PairRows(f"en-zh_CN<={tmp_path}/{name}")) == pairs
        assert rows.are_translations
        assert list(PairRows(f"zh-en<={tmp_path}/{name}")) == [pair[::-1] for pair in pairs]
    more = [{"translation": {"en": a, "de": b, "fr": None if i else "x"}} for i, (a, b) in enumerate(PAIRS)]
    write_lines(tmp_path / "a.jsonl", map(json.dumps, more))
    assert list(PairRows(f"de-en<={tmp_path}/a.jsonl")) == [pair[::-1] for pair in PAIRS]
    for notation in ("", "en-es<="):  # three languages; another one
        assert "a.jsonl, line 1: " in error_of(PairRows, f"{notation}{tmp_path}/a.jsonl")
    assert "a.jsonl, line 2: " in error_of(PairRows, f"en-fr<={tmp_path}/a.jsonl")
    write_lines(tmp_path / "a.jsonl", [json.dumps(more[0]), '{"translation": {"en": ["x"], "de": "y"}}'])
    assert "a.jsonl, line 2: " in error_of(PairRows, f"en-de<={tmp_path}/a.jsonl")


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
    ("name", "content", "location"),
    [
        ("a.jsonl", '{"query": "a", "positive": "b"}\n{"query": "a"\n', "a.jsonl, line 2: "),
        ("a.jsonl", '["a", "b"]\n', "a.jsonl, line 1: "),
        ("a.tsv", '[\n{"query": "a"}]\n', "a.tsv, line 1: "),
        ("a.tsv", tmx([{"en": "a", "de": "b"}]), "a.tsv, line 1: XML"),
        ("a.tsv", "0.5\t3\t7\n0.4\t1\t2\n", "a.tsv, line 1: "),
        ("a.txt", "a text\nanother\n", "a.txt, line 1: "),
        ("a.tsv", "query\tanchor\tpositive\na\tb\tc\n", "a.tsv, line 1: "),
        ("en-de.tsv", "a\tb\tc\nd\te\tf\n", "en-de.tsv, line 1: "),
        ("en-de.tsv", "1.2\ta\tb\ten\tde\n1.1\tc\td\ten\tde\n", "en-de.tsv, line 1: "),
        ("a.tsv", "<table><tr><td>query</td><td>positive</td></tr></table>\n", "a.tsv, line 1: XML"),
        ("a.tsv", "query\tpositive\n", "a.tsv: "),
        ("a.tsv", "query\tpositive\nc\t \n", "a.tsv, line 2: "),
        ("a.tsv", "query\tpositive\tid\na\tb\n", "a.tsv, line 2: "),
        ("a.tsv", "query\tpositive\tnegative\na\tb\tc\td\n", "a.tsv, line 2: "),
        ("en-de.tsv", "a\tb\n \td\n", "en-de.tsv, line 2: "),
        ("a.csv", 'query,pos\n"open,c\n', "a.csv, line 2: "),
        ("a.csv", "sep=;\n\nquery;positive\nc; \n", "a.csv, line 4: "),
        ("en-de.csv", "sep=;\n\nen;de\n", "en-de.csv: "),  # the third line is the header
        ("a.tsv.gz", "not packed", "a.tsv.gz: "),
        ("a.tmx", "<tmx><body><tu></tmx>", "a.tmx, line 1: "),
        ("a.tmx", "no XML", "a.tmx, line 1: "),
        ("a.tmx", tmx([{"en": "a", "de": "b"}])[:-20], "a.tmx, line 4: "),
        ("a.tmx", LAUGHS, "a.tmx, line "),
        ("a.tmx", "<tmx><body/></tmx>", "a.tmx: "),
        ("a.tsv", "negative_1\tnegative_2\na\tb\nc\td\n", "a.tsv, line 1: "),
        ("en.txt,de.txt", '{"text": "a"}\n{"text": "b"}\n', "en.txt, line 1: JSON"),
        ("en.txt,de.txt", tmx([{"en": "a"}]), "en.txt, line 1: XML"),
    ],
)
def test_reject_files_that_are_no_pairs(in_tmp_path, name, content, location):
    for file in name.split(","):
        Path(file).write_text(content)
    assert location in error_of(PairRows, name)


@pytest.mark.parametrize(
    "content",
    ["{x} is a set\n", "[1] a note\n", "<b>bold</b>\n", "one\r\ntwo\r\n", "a\rb\nc\n", '{"a"\n'],
)
def test_plain_text_is_not_another_format(tmp_path, content):
    (tmp_path / "text").write_text(content, newline="")
    assert TextFile(str(tmp_path / "text")).buffer == content.encode()


@pytest.mark.parametrize(
    ("name", "header", "expected"),
    [
        ("en-de.tsv", None, True),
        ("wiki.en-zh_Hans.csv", None, True),
        ("pairs.tsv", ["query", "positive"], False),
        ("pairs.tsv", ["Source", "translation"], True),
        ("pairs.tsv", ["source", "positive"], False),
        ("en-de.tsv", ["query", "positive"], True),
    ],
)
def test_translations_are_told_by_a_name_or_a_header(tmp_path, name, header, expected):
    path = write(tmp_path / name, [*([header] if header else []), *PAIRS])
    assert PairRows(path).are_translations == expected
    renamed = path.rename(path.with_stem("a"))
    assert PairRows(f"fr-es<={renamed}").are_translations
