"""From the notation and files of every form to lines: nothing is lost or added, faults name file and line."""

import bz2
import gzip
import lzma
from typing import NamedTuple

import numpy as np
import pytest

from pretrain.corpus import text as corpus_text
from pretrain.corpus.inputs import gather_notation, resolve
from pretrain.corpus.text import TextFormat, read_lines, read_units
from tests.helpers.small_corpus import sentences, write_lines
from utils.errors import UserError

LINES = sentences(500)
TEXT = "".join(f"{line}\n" for line in LINES).encode()
PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
ARCHIVES = [end for end in PACKERS if end]


def units_of(path, unit_bytes=1000, blank_lines=False, number=0):
    (stream,) = resolve({"en": str(path)}, {})
    return list(read_units(0, number, stream.sources[0], unit_bytes, blank_lines))


class AllLines(NamedTuple):
    """All lines of a stream: its sides, the lines of each document, and counts of what was left out."""

    sides: list[list[str]]
    documents: list[int]
    empty: int
    score: int


def lines_of(mono=None, parallel=None, unit_bytes=1000, **options) -> AllLines:
    """All lines of the only stream."""
    (stream,) = resolve(mono or {}, parallel or {})
    form = TextFormat(**options)
    units = []
    for source in stream.sources:
        for unit in read_units(0, 0, source, unit_bytes, form.documents == "blank"):
            units.append(read_lines(unit, source, stream.languages, form))
    sides = []
    for side in range(len(stream.languages)):
        sides.append([line for lines in units for line in lines.sides[side]])
    return AllLines(
        sides,
        [count for lines in units for count in lines.documents.tolist()],
        sum(lines.empty for lines in units),
        sum(lines.score for lines in units),
    )


def test_repeated_flags_become_one_mapping():
    words = ["--mono", "en<=a.txt,b.txt.gz", "--output", "o", "--mono=de<=c", "--mono", "en<=d"]
    assert gather_notation([*words, "--parallel", "en-de<=x.en,x.de"]) == [
        *("--output", "o", "--mono", '{"en": ["a.txt", "b.txt.gz", "d"], "de": ["c"]}'),
        *("--parallel", '{"en-de": ["x.en,x.de"]}'),
    ]
    assert gather_notation(["--mono", '{"en": "a"}']) == ["--mono", '{"en": "a"}']
    for wrong in ("en=a.txt", "<=a.txt", "en<="):
        with pytest.raises(UserError, match=f"'{wrong}'.*language<=path"):
            gather_notation(["--mono", wrong])


def test_files_globs_folders_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("TEXT", str(tmp_path))
    for name in ("b.txt", "a.txt", "more/c.txt", "more/d.txt", "more/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x\n")
    paths = {
        "$TEXT/b.txt": ["b.txt"],
        "${TEXT}/*.txt": ["a.txt", "b.txt"],
        f"{tmp_path}/more": ["more/c.txt", "more/d.txt"],
        f"{tmp_path}/**/*.txt": ["a.txt", "b.txt", "more/c.txt", "more/d.txt"],
    }
    for path, names in paths.items():
        (stream,) = resolve({"en": path}, {})
        assert [source.paths[0] for source in stream.sources] == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    "mono, parallel, message",
    [
        ({}, {}, "no text given"),
        ({"en-de": "x"}, {}, "'en-de' is not a language"),
        ({}, {"en": "x"}, "'en' is not two languages"),
        ({"zh-Hans": "x"}, {}, "zh_Hans"),
        ({False: "x"}, {}, "False is not a language; put it in quotes"),
        ({}, {"en-en": "x"}, "'en-en' is not two languages"),
        ({"en": []}, {}, "no text given"),
        ({"en": 5}, {}, "'5' is not a path"),
        ({"en": "$NOWHERE/x"}, {}, "no such variable"),
        ({"en": "x.txt"}, {}, "no such file"),
        ({"en": "*.q"}, {}, "no file matches"),
        ({"en": ["{folder}/pairs.csv", "{folder}"]}, {}, "given twice for en"),
        ({}, {"en-de": [["a.tsv"]]}, "not two aligned files"),
        ({}, {"en-de": "{folder}/x.tsv,{folder}/pairs.csv"}, "give each .tsv as en-de<=PATH"),
        ({}, {"en-de": "{folder}/pairs.csv"}, "pairs.csv: unknown form of parallel text"),
    ],
)
def test_what_the_notation_refuses(tmp_path, mono, parallel, message):
    for name in ("pairs.csv", "x.tsv"):
        write_lines(tmp_path / name, ["a,b"])

    def fill(value):
        if isinstance(value, list):
            return [fill(part) for part in value]
        return value.format(folder=tmp_path) if isinstance(value, str) else value

    mono = {label: fill(path) for label, path in mono.items()}
    parallel = {label: fill(path) for label, path in parallel.items()}
    with pytest.raises(UserError, match=message):
        resolve(mono, parallel)


@pytest.mark.parametrize("unit_bytes", [1, 300, 5000, 1 << 20])
@pytest.mark.parametrize("end", PACKERS)
def test_units_tile_a_file_whatever_its_packing(tmp_path, unit_bytes, end):
    path = tmp_path / f"text{end}"
    path.write_bytes(PACKERS[end](TEXT))
    units = units_of(path, unit_bytes)
    texts = [unit.texts[0] for unit in units]
    assert b"".join(texts) == TEXT
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [unit.last for unit in units] == [False] * (len(units) - 1) + [True]
    longest = max(len(line.encode()) + 1 for line in LINES)
    for text in texts:
        assert text.endswith(b"\n") and len(text) <= max(unit_bytes, longest)
    first_lines = np.cumsum([1] + [text.count(b"\n") for text in texts[:-1]])
    assert [unit.first_line for unit in units] == first_lines.tolist()
    # The whole file was read, and the progress adds up to it.
    assert sum(unit.weight for unit in units) == path.stat().st_size
    (tmp_path / "plain").write_bytes(TEXT)
    assert [unit.texts[0] for unit in units_of(tmp_path / "plain", unit_bytes)] == texts


@pytest.mark.parametrize("end", ARCHIVES)
def test_members_of_an_archive(tmp_path, end):
    path = tmp_path / f"text{end}"
    pack = PACKERS[end]
    path.write_bytes(pack(b"one\ntw") + pack(b"o\nthree\n"))
    assert lines_of({"en": str(path)}).sides == [["one", "two", "three"]]


@pytest.mark.parametrize("unit_bytes", [700, 1 << 20])
def test_units_end_with_documents(tmp_path, unit_bytes):
    documents = [LINES[start : start + 3] for start in range(0, 300, 3)]
    path = write_lines(tmp_path / "text", [line for document in documents for line in [*document, "", ""]])
    text = lines_of({"en": path}, unit_bytes=unit_bytes, documents="blank")
    assert text.sides == [LINES[:300]] and text.documents == [3] * 100


@pytest.mark.parametrize(
    "data, documents, lines, lengths, left_out",
    [
        (b"\n \t\na\nb\r\n\r\n\xe3\x80\x80\nc\n\nd\ne", "blank", ["a", "b", "c", "d", "e"], [2, 1, 2], 0),
        # Byte order mark, \r\n, no last line end; U+2028 and \x0b end no line.
        (
            "\ufeffone\r\n  two\u2028zwei\x0bdeux\u3000\n\n \nthree".encode(),
            "line",
            ["one", "two\u2028zwei\x0bdeux", "three"],
            [1, 1, 1],
            2,
        ),
    ],
)
def test_lines_are_lines(tmp_path, data, documents, lines, lengths, left_out):
    (tmp_path / "text").write_bytes(data)
    text = lines_of({"en": str(tmp_path / "text")}, documents=documents)
    assert text == ([lines], lengths, left_out, 0)


@pytest.mark.parametrize("end", ARCHIVES)
def test_archives_cut_short_damaged_or_misnamed(tmp_path, end):
    packed = PACKERS[end](TEXT)
    path = tmp_path / f"text{end}"
    middle = len(packed) // 2
    damaged = bytes(byte ^ 0xFF for byte in packed[middle : middle + 40])
    for data, message in {
        packed[:-9]: r"text\.\w+: cannot be read: Compressed file ended before the end-of-stream marker",
        packed[:middle] + damaged + packed[middle + 40 :]: r"text\.\w+: (cannot be read: .*; fetch it|not)",
        TEXT: r"text\.\w+: cannot be read: .*; fetch it again if it is damaged",
        packed + b"x" * 100_000: r"text\.\w+: (damaged after line|cannot be read: .*; fetch it)",
    }.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            units_of(path)


@pytest.mark.parametrize(
    "data, message",
    [(b"", "text: empty: no text in it"), ("one\ntwo\n".encode("utf-16"), "text: .*NUL bytes")],
)
def test_files_that_are_no_text(tmp_path, data, message):
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(UserError, match=message):
        units_of(tmp_path / "text")


def test_bytes_that_are_not_utf8(tmp_path):
    lines = [line.encode() for line in LINES]
    lines[400] = b"caf\xe9"
    (tmp_path / "text").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"text: line 401: not UTF-8 \(byte 0xe9\)"):
        lines_of({"en": str(tmp_path / "text")})


@pytest.mark.parametrize("unit_bytes", [1000, 4 << 20])
def test_a_line_that_would_fill_the_memory(tmp_path, monkeypatch, unit_bytes):
    monkeypatch.setattr(corpus_text, "LONGEST_LINE", 1 << 20)
    (tmp_path / "text").write_bytes(b"one\n" + b"a b " * (1 << 18) + b"c\nthree\n")
    with pytest.raises(UserError, match=r"text: line 2: longer than 1 MiB; is this text"):
        lines_of({"en": str(tmp_path / "text")}, unit_bytes=unit_bytes)


def test_two_aligned_files_and_moses(tmp_path):
    pairs = list(zip(LINES, reversed(LINES)))
    pairs[3] = ("alone", " ")
    pairs[7] = ("", "")
    write_lines(tmp_path / "x.en", [pair[0] for pair in pairs])
    (tmp_path / "x.de.gz").write_bytes(gzip.compress("\n".join(pair[1] for pair in pairs).encode()))
    full = [pair for number, pair in enumerate(pairs) if number not in (3, 7)]
    files = [f"{tmp_path}/x.en", f"{tmp_path}/x.de.gz"]
    for path in (",".join(files), f"{tmp_path}/x", [files]):
        for unit_bytes in (500, 1 << 20):
            text = lines_of(parallel={"en-de": path}, unit_bytes=unit_bytes)
            assert text.sides == [[german for _, german in full], [english for english, _ in full]]
            assert text.empty == 2


@pytest.mark.parametrize("counts, shorter, lines", [((500, 499), 1, 499), ((20, 500), 0, 20), ((1, 0), 1, 0)])
def test_misaligned_files_are_named(tmp_path, counts, shorter, lines):
    first = write_lines(tmp_path / "x.0", LINES[: counts[0]])
    second = write_lines(tmp_path / "x.1", LINES[: counts[1]])
    with pytest.raises(UserError, match=rf"x\.1: \S*x\.{shorter} has {lines} lines, the other more: not ali"):
        lines_of(parallel={"en-de": f"{first},{second}"})


def test_columns(tmp_path):
    path = write_lines(tmp_path / "x.tsv", ["0.9\tgood\tgut", "", "0.8\tbad\tschlecht\tmore", "0.7\t\talles"])
    with pytest.raises(UserError, match=r"x\.tsv: line 1: 3 columns between tabs, expected 2"):
        lines_of(parallel={"en-de": path})
    text = lines_of(parallel={"en-de": path}, tsv_columns=(2, 3))
    assert text.sides == [["gut", "schlecht"], ["good", "bad"]] and text.empty == 1
    with pytest.raises(UserError, match="line 1: 3 columns between tabs, expected at least 4"):
        lines_of(parallel={"en-de": path}, tsv_columns=(2, 4))


def test_scores(tmp_path):
    """As in WikiMatrix: the score comes first. Pairs below the limit or with NaN are left out."""
    rows = ["1.2\tgood\tgut", "1.03\tbad\tschlecht", "1.04\tnew\tneu", "nan\ta\tb"]
    path = {"en-de": write_lines(tmp_path / "x.tsv", rows)}
    options = {"tsv_columns": (2, 3), "min_score": 1.04}
    text = lines_of(parallel=path, score_column=1, **options)
    assert text.sides == [["gut", "neu"], ["good", "new"]]
    assert (text.score, text.empty) == (2, 0)
    with pytest.raises(UserError, match=r"x\.tsv: line 1: 'good' is no score; .*--score_column"):
        lines_of(parallel=path, score_column=2, **options)
    with pytest.raises(UserError, match="line 1: 3 columns between tabs, expected at least 4"):
        lines_of(parallel=path, score_column=4, **options)
