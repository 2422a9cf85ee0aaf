"""From a notation and files of every form to lines: nothing lost or added, faults named by file and line."""

import bz2
import gzip
import lzma

import numpy as np
import pytest
import zstandard

from pretrain.corpus import files as reading
from pretrain.corpus.files import Cutting, decompressed, interleave, open_file, read_units
from pretrain.corpus.inputs import parse_notation, resolve
from pretrain.corpus.lines import Reading, read_lines
from pretrain.corpus.options import gather_notation
from tests.helpers.small_corpus import sentences, write_lines
from utils.errors import UserError

LINES = sentences(500)
PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def units_of(path, unit_bytes=1000, blank_lines=False, number=0):
    (stream,) = resolve({"en": str(path)}, {})
    return list(read_units(0, number, stream.sources[0], Cutting(unit_bytes, blank_lines)))


def lines_of(mono=None, parallel=None, unit_bytes=1000, **reading):
    """All lines of the only stream: sides, lines of each document, and counts of what was left out."""
    (stream,) = resolve(mono or {}, parallel or {})
    options = Reading(**({"documents": "line", "tsv_columns": None, "skip_bad_utf8": False} | reading))
    cutting = Cutting(unit_bytes, options.documents == "blank")
    sides, documents, empty, bad = [[] for _ in stream.languages], [], 0, 0
    for source in stream.sources:
        for unit in read_units(0, 0, source, cutting):
            found = read_lines(unit, source, stream.languages, options)
            for side, more in zip(sides, found.sides, strict=True):
                side += more
            documents += found.documents.tolist()
            empty, bad = empty + found.empty, bad + found.bad_utf8
    return sides, documents, empty, bad


# Notation


def test_notation():
    entries = ["en<=a.txt,b.txt.gz", "de<=c", "en<=d", "en-de<=x.en,x.de"]
    assert parse_notation(entries) == {"en": ["a.txt", "b.txt.gz", "d"], "de": ["c"], "en-de": ["x.en,x.de"]}
    for wrong in ("en=a.txt", "<=a.txt", "en<="):
        with pytest.raises(UserError, match=f"'{wrong}'.*language<=path"):
            parse_notation([wrong])


def test_repeated_flags_become_one_mapping():
    words = ["--mono", "en<=a", "--output", "o", "--mono=de<=b", "--parallel", "en-de<=c"]
    assert gather_notation(words) == [
        *("--output", "o", "--mono", '{"en": ["a"], "de": ["b"]}', "--parallel", '{"en-de": ["c"]}')
    ]
    assert gather_notation(["--mono", '{"en": "a"}']) == ["--mono", '{"en": "a"}']


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
    for path, message in {
        "$NOWHERE/x": "no such variable",
        "x.txt": "no such file",
        "*.q": "no file matches",
    }.items():
        with pytest.raises(UserError, match=message):
            resolve({"en": path}, {})


def test_both_orders_of_a_pair_are_one_stream(tmp_path):
    one = write_lines(tmp_path / "one.tsv", ["good\tgut"])
    two = write_lines(tmp_path / "two.tsv", ["schlecht\tbad"])
    sides, *_ = lines_of(parallel={"en-de": one, "de-en": two})
    assert sides == [["gut", "schlecht"], ["good", "bad"]]  # de, en


@pytest.mark.parametrize(
    "mono, parallel, message",
    [
        ({}, {}, "no text given"),
        ({"en-de": "x"}, {}, "'en-de' is not one language"),
        ({}, {"en": "x"}, "'en' is not two languages"),
        ({"zh-Hans": "x"}, {}, "zh_Hans"),
        ({}, {"en-en": "x"}, "two different languages"),
        ({"en": []}, {}, "no path given"),
        ({"en": 5}, {}, "'5' is not a path"),
        ({}, {"en-de": [["a.tsv"]]}, "not two aligned files"),
    ],
)
def test_what_the_notation_cannot_say(mono, parallel, message):
    with pytest.raises(UserError, match=message):
        resolve(mono, parallel)


def test_unknown_forms_and_files_given_twice(tmp_path):
    table = write_lines(tmp_path / "pairs.csv", ["a,b"])
    with pytest.raises(UserError, match="pairs.csv: unknown form of parallel text"):
        resolve({}, {"en-de": table})
    with pytest.raises(UserError, match="no .tsv and no .tmx"):
        resolve({}, {"en-de": str(tmp_path)})
    with pytest.raises(UserError, match="given twice for en"):
        resolve({"en": [table, table]}, {})


# Reading


@pytest.mark.parametrize("unit_bytes", [1, 300, 5000, 1 << 20])
@pytest.mark.parametrize("end", PACKERS)
def test_units_tile_a_file_whatever_its_packing(tmp_path, unit_bytes, end):
    text = "".join(f"{line}\n" for line in LINES).encode()
    path = tmp_path / f"text{end}"
    path.write_bytes(PACKERS[end](text))
    units = units_of(path, unit_bytes)
    assert b"".join(unit.texts[0] for unit in units) == text
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [unit.last for unit in units] == [False] * (len(units) - 1) + [True]
    longest = max(len(line.encode()) + 1 for line in LINES)
    for unit in units:
        assert unit.texts[0].endswith(b"\n") and len(unit.texts[0]) <= max(unit_bytes, longest)
    first_lines = np.cumsum([1] + [unit.texts[0].count(b"\n") for unit in units[:-1]])
    assert [unit.first_line for unit in units] == first_lines.tolist()
    # The whole file was read, and the progress adds up to it.
    assert sum(unit.weight for unit in units) == path.stat().st_size
    (tmp_path / "plain").write_bytes(text)
    assert [unit.texts for unit in units_of(tmp_path / "plain", unit_bytes)] == [unit.texts for unit in units]


def test_members_and_padding_of_an_archive(tmp_path):
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"one\ntw") + gzip.compress(b"o\nthree\n") + b"\0" * 40)
    assert lines_of({"en": str(path)})[0] == [["one", "two", "three"]]


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_a_few_bytes_that_stand_for_very_many_come_in_bounded_blocks(tmp_path, end):
    """At 1 : 1000 (gzip), 1 : 10,000 and more, what is read at a time would be gigabytes."""
    path = tmp_path / f"zeros{end}"
    path.write_bytes(PACKERS[end](b"x" * (48 << 20)) * 2)
    with open_file(str(path)) as file:
        sizes = [len(block) for block in decompressed(file, str(path))]
    assert sum(sizes) == 96 << 20
    assert max(sizes) <= (32 << 20 if end == ".zst" else 1 << 20)


def test_units_end_with_documents(tmp_path):
    documents = [LINES[start : start + 3] for start in range(0, 300, 3)]
    path = write_lines(tmp_path / "text", [line for document in documents for line in [*document, "", ""]])
    sizes = {
        unit_bytes: lines_of({"en": path}, unit_bytes=unit_bytes, documents="blank")
        for unit_bytes in (700, 1 << 20)
    }
    for sides, lengths, *_ in sizes.values():
        assert sides == [LINES[:300]] and lengths == [3] * 100


def test_a_document_longer_than_a_unit_is_cut_at_a_line(tmp_path):
    path = write_lines(tmp_path / "text", LINES)
    sides, documents, *_ = lines_of({"en": path}, documents="blank")
    assert sides == [LINES] and len(documents) == len(units_of(path, blank_lines=True)) > 10


def test_documents_between_lines_of_white_space(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\n \t\na\nb\r\n\r\n\xe3\x80\x80\nc\n\nd\ne")
    sides, documents, *_ = lines_of({"en": str(path)}, documents="blank")
    assert sides == [["a", "b", "c", "d", "e"]] and documents == [2, 1, 2]


def test_lines_are_lines(tmp_path):
    """Byte order mark, \\r\\n, white space at the ends, no last line end; U+2028 and \\x0b end no line."""
    path = tmp_path / "text"
    path.write_bytes("\ufeffone\r\n  two\u2028zwei\x0bdeux\u3000\n\n \nthree".encode())
    sides, documents, empty, _ = lines_of({"en": str(path)})
    assert sides == [["one", "two\u2028zwei\x0bdeux", "three"]] and documents == [1, 1, 1] and empty == 2


def test_sources_read_side_by_side_give_all_their_units(tmp_path):
    sources = []
    for number in range(5):
        path = write_lines(tmp_path / str(number), sentences(100 * number + 1, seed=number))
        sources.append(units_of(path, number=number))
    for threads in (1, 3):
        found = list(interleave((iter(source) for source in sources), threads))
        assert sorted(found) == sorted(unit for source in sources for unit in source)


def test_a_fault_in_one_of_many_sources_comes_through(tmp_path):
    (stream,) = resolve(
        {"en": [write_lines(tmp_path / "good", LINES), write_lines(tmp_path / "empty", [])]}, {}
    )
    readers = (
        read_units(0, number, source, Cutting(100, False)) for number, source in enumerate(stream.sources)
    )
    with pytest.raises(UserError, match="empty: empty"):
        list(interleave(readers, 2))


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_archives_cut_short_damaged_or_misnamed(tmp_path, end):
    text = "".join(f"{line}\n" for line in LINES).encode()
    packed = PACKERS[end](text)
    path = tmp_path / f"text{end}"
    path.write_bytes(packed[:-9])
    with pytest.raises(UserError, match=r"text\.\w+: the archive ends early"):
        units_of(path)
    middle = len(packed) // 2
    path.write_bytes(
        packed[:middle] + bytes(byte ^ 0xFF for byte in packed[middle : middle + 40]) + packed[middle + 40 :]
    )
    with pytest.raises(
        UserError, match=r"text\.\w+: (damaged archive near byte|the archive ends early|not UTF-8)"
    ):
        units_of(path)
    path.write_bytes(text)
    with pytest.raises(UserError, match="by its name compressed"):
        units_of(path)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty: no text in it"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"7z\xbc\xafrest", "a 7z archive"),
        ("one\ntwo\n".encode("utf-16"), "NUL bytes"),
        (b"\x7fELF\x02\x00\x00", "NUL bytes"),
    ],
)
def test_files_that_are_no_text(tmp_path, data, message):
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(UserError, match=f"text: .*{message}"):
        units_of(tmp_path / "text")


def test_an_endless_line(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 5000)
    path = tmp_path / "text"
    path.write_bytes(b"one\n" + b"x" * 3_000_000)
    with pytest.raises(UserError, match="text: line 2: longer than"):
        units_of(path)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "text"
    lines = [line.encode() for line in LINES]
    lines[400] = b"caf\xe9"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"text: line 401: not UTF-8 \(byte 0xe9\)"):
        lines_of({"en": str(path)})
    sides, _, _, bad = lines_of({"en": str(path)}, skip_bad_utf8=True)
    assert sides == [LINES[:400] + LINES[401:]] and bad == 1


# Pairs


def test_two_aligned_files_and_moses(tmp_path):
    pairs = list(zip(LINES, reversed(LINES)))
    pairs[3], pairs[7] = ("alone", " "), ("", "")
    write_lines(tmp_path / "x.en", [pair[0] for pair in pairs])
    (tmp_path / "x.de.gz").write_bytes(gzip.compress("\n".join(pair[1] for pair in pairs).encode()))
    kept = [pair for number, pair in enumerate(pairs) if number not in (3, 7)]
    for path in (
        f"{tmp_path}/x.en,{tmp_path}/x.de.gz",
        f"{tmp_path}/x",
        [[f"{tmp_path}/x.en", f"{tmp_path}/x.de.gz"]],
    ):
        for unit_bytes in (500, 1 << 20):
            sides, _, empty, _ = lines_of(parallel={"en-de": path}, unit_bytes=unit_bytes)
            assert sides == [[pair[1] for pair in kept], [pair[0] for pair in kept]] and empty == 2


@pytest.mark.parametrize("counts", [(500, 499), (20, 500), (1, 0)])
def test_misaligned_files_are_named_with_their_line_counts(tmp_path, counts):
    one, two = (write_lines(tmp_path / f"x.{n}", LINES[:count]) for n, count in enumerate(counts))
    with pytest.raises(UserError, match=rf"x\.0 has {counts[0]} lines, .*x\.1 has {counts[1]}: not aligned"):
        lines_of(parallel={"en-de": f"{one},{two}"})


def test_a_last_line_without_its_end_is_a_line(tmp_path):
    (tmp_path / "one").write_text("a\nb")
    (tmp_path / "two").write_text("c\nd\n")
    assert lines_of(parallel={"en-de": f"{tmp_path}/one,{tmp_path}/two"})[0] == [["c", "d"], ["a", "b"]]
    (tmp_path / "two").write_text("c\nd\ne")
    with pytest.raises(UserError, match="one has 2 lines, .*two has 3"):
        lines_of(parallel={"en-de": f"{tmp_path}/one,{tmp_path}/two"})


def test_bad_utf8_takes_the_pair_with_it(tmp_path):
    (tmp_path / "one").write_bytes(b"a\nb\xff\nc\nd\n")
    (tmp_path / "two").write_bytes(b"A\nB\nC\xff\nD\n")
    path = f"{tmp_path}/one,{tmp_path}/two"
    with pytest.raises(UserError, match="one: line 2: not UTF-8"):
        lines_of(parallel={"en-de": path})
    sides, _, _, bad = lines_of(parallel={"de-en": path}, skip_bad_utf8=True)
    assert sides == [["a", "d"], ["A", "D"]] and bad == 2


def test_columns(tmp_path):
    path = write_lines(tmp_path / "x.tsv", ["0.9\tgood\tgut", "", "0.8\tbad\tschlecht\tmore", "0.7\t\talles"])
    with pytest.raises(UserError, match=r"x\.tsv: line 1: 3 columns between tabs, expected 2"):
        lines_of(parallel={"en-de": path})
    sides, _, empty, _ = lines_of(parallel={"en-de": path}, tsv_columns=(2, 3))
    assert sides == [["gut", "schlecht"], ["good", "bad"]] and empty == 1
    with pytest.raises(UserError, match="line 1: 3 columns between tabs, expected at least 4"):
        lines_of(parallel={"en-de": path}, tsv_columns=(2, 4))


def test_scores(tmp_path):
    """As in WikiMatrix: the score in front. What has less than is asked goes, and what is no number."""
    path = write_lines(
        tmp_path / "x.tsv", ["1.2\tgood\tgut", "1.03\tbad\tschlecht", "1.04\tnew\tneu", "nan\ta\tb"]
    )
    (stream,) = resolve({}, {"en-de": path})
    (unit,) = read_units(0, 0, stream.sources[0], Cutting(1000, False))
    reading = Reading("line", (2, 3), False, score_column=1, min_score=1.04)
    found = read_lines(unit, stream.sources[0], stream.languages, reading)
    assert found.sides == (["gut", "neu"], ["good", "new"]) and (found.score, found.empty) == (2, 0)
    with pytest.raises(UserError, match=r"x\.tsv: line 1: 'good' is no score; .*--score_column"):
        read_lines(unit, stream.sources[0], stream.languages, Reading("line", (2, 3), False, 2, 1.04))
    with pytest.raises(UserError, match="line 1: 3 columns between tabs, expected at least 4"):
        read_lines(unit, stream.sources[0], stream.languages, Reading("line", (2, 3), False, 4, 1.04))


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu tuid="1"><tuv xml:lang="en-US">
  <seg>A <bpt i="1">&lt;b&gt;</bpt>bold<ept i="1">&lt;/b&gt;</ept> word &amp; more</seg></tuv>
  <tuv xml:lang="de"><seg>Ein
     <hi>fettes</hi> Wort</seg></tuv></tu>
<tu><tuv lang="FR_CA"><seg>sans</seg></tuv><tuv lang="EN"><seg>without</seg></tuv></tu>
<tu><prop type="x">y</prop><tuv xml:lang="DE"><seg>Größe</seg></tuv>
  <tuv xml:lang="en"><seg>size</seg></tuv><tuv xml:lang="en-GB"><seg>no</seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("unit_bytes", [50, 1 << 20])
def test_translation_memory(tmp_path, encoding, unit_bytes):
    path = tmp_path / "memory.tmx"
    path.write_bytes(TMX.format(encoding=encoding).encode(encoding))
    sides, _, empty, _ = lines_of(parallel={"en-de": str(path)}, unit_bytes=unit_bytes)
    assert sides == [["Ein fettes Wort", "Größe"], ["A bold word & more", "size"]] and empty == 1


def test_broken_translation_memories(tmp_path):
    path = tmp_path / "memory.tmx"
    text = TMX.format(encoding="utf-8")
    path.write_text(text.replace("</seg></tuv></tu>\n<tu>", "</tuv></tu>\n<tu>", 1))
    with pytest.raises(UserError, match=r"memory\.tmx: line 4: broken <tu>"):
        lines_of(parallel={"en-de": str(path)})
    path.write_text(text[: text.rindex("</tu>")])
    with pytest.raises(UserError, match=r"memory\.tmx: line \d: ends within a <tu>"):
        lines_of(parallel={"en-de": str(path)})
    path.write_text(text.replace("bold", "<hi>" * 5000 + "bold" + "</hi>" * 5000))
    with pytest.raises(UserError, match=r"memory\.tmx: line 4: broken <tu>: maximum recursion depth"):
        lines_of(parallel={"en-de": str(path)}, unit_bytes=1 << 20)
    path.write_text(text.replace("&amp;", "&lol;"))  # no entities: a document type is never read
    with pytest.raises(UserError, match="undefined entity"):
        lines_of(parallel={"en-de": str(path)})
