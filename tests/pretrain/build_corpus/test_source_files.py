"""From the notation and files in each format to lines: nothing is lost or added, errors name the line."""

import bz2
import gzip
import json
import lzma
import re
from itertools import accumulate, chain

import pytest

from ernie_m.pretrain.build_corpus.build_args import TextOptions
from ernie_m.pretrain.build_corpus.source_files import merge_source_options, resolve_sources
from ernie_m.pretrain.build_corpus.text_chunks import ChunkLines, read_chunks, read_lines
from ernie_m.reader.files import plain_text
from tests.helpers.files import write_file, write_files
from tests.launching import check_error, error_of
from tests.toys import sentences, write_lines

LINES = sentences(500)
TEXT = "".join(f"{line}\n" for line in LINES).encode()
# The ends of file names, and what packs such a file; "" is plain text.
PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
ARCHIVES = [end for end in PACKERS if end]


def all_chunks(path, chunk_bytes=1000, **options):
    """The chunks of a file."""
    (stream,) = resolve_sources({"en": str(path)}, {})
    return list(read_chunks(stream.sources[0], chunk_bytes, TextOptions(**options)))


def read_only_stream(mono=None, parallel=None, chunk_bytes=1000, **options) -> ChunkLines:
    """All lines of the only stream. The options are those of `TextOptions`."""
    (stream,) = resolve_sources(mono or {}, parallel or {})
    options = TextOptions(**options)
    parts = []
    for source in stream.sources:
        chunks = list(read_chunks(source, chunk_bytes, options))
        assert sum(chunk.bytes_read for chunk in chunks) == source.size
        parts += [read_lines(chunk, source, stream.languages, options) for chunk in chunks]
    rows, documents, empty, not_wanted = zip(*parts)
    return ChunkLines(list(chain(*rows)), list(chain(*documents)), sum(empty), sum(not_wanted))


def test_repeated_flags_become_one_mapping():
    words = "--mono en<=a.txt,b.txt.gz --output o --mono=de<=c --mono en<=d --parallel en-de<=x.en,x.de"
    mono, parallel = '{"en": ["a.txt", "b.txt.gz", "d"], "de": ["c"]}', '{"en-de": ["x.en,x.de"]}'
    assert merge_source_options(words.split()) == ["--output", "o", "--mono", mono, "--parallel", parallel]
    # A mapping stays as it is.
    assert merge_source_options(["--mono", '{"en": "a"}']) == ["--mono", '{"en": "a"}']
    for wrong in ("en=a.txt", "<=a.txt", "en<="):
        check_error(error_of(merge_source_options, ["--mono", wrong]), f"'{wrong}'", "language<=path")
    assert error_of(merge_source_options, ["--mono"]).startswith("invalid ''")


def test_files_globs_folders_and_variables(tmp_path, in_tmp_path, monkeypatch, caplog):
    """In the order of names, without hidden files. Those of dev and test must be named."""
    monkeypatch.setenv("TEXT", "more")
    splits = ["devel", "devset", "hold-out", "validate", "tune", "tuning_1", "blind", "gold"]
    skipped = ["dev.de", "dev.en", "newstest2020.txt", *sorted(f"x.{split}.txt" for split in splits)]
    for name in ("b.txt", "attest.txt", "more/d.txt", "more/c.txt", "more/.hidden", "test/e.txt", *skipped):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_lines(tmp_path / name, ["x"])
    found = [
        [",".join(source.paths) for source in stream.sources]
        for mono, parallel in [
            *(
                ({"en": path}, {})
                for path in ("*.txt", "$TEXT", "**/*", "${TEXT}/d.txt", "test/*", skipped[2])
            ),
            *(({}, {"en-de": path}) for path in ("dev.en,dev.de", "dev")),
        ]
        for stream in resolve_sources(mono, parallel)
    ]
    more = ["more/c.txt", "more/d.txt"]
    assert found == [
        ["attest.txt", "b.txt"],
        more,
        ["attest.txt", "b.txt", *more],
        more[1:],
        ["test/e.txt"],
        skipped[2:3],
        ["dev.en,dev.de"],
        ["dev.en,dev.de"],
    ]
    first_ten = [*skipped[:3], "test/e.txt", *skipped[3:9]]
    begin = "skipped by name, as validation or test files, documentation or other languages"
    assert caplog.messages == [
        f"{begin}: {', '.join(skipped[2:])}",
        f"{begin}: {', '.join(first_ten)} and 2 more",
    ]
    assert error_of(resolve_sources, {"en": "dev.*"}, {}).startswith("dev.*: ")


@pytest.mark.parametrize(
    "mono, parallel, message",
    [
        ({}, {}, "missing --mono or --parallel"),
        ({"en-de": "x"}, {}, "invalid label 'en-de'"),
        ({}, {"en": "x"}, "invalid label 'en' "),
        ({"zh-Hans": "x"}, {}, "zh_Hans"),
        ({False: "x"}, {}, "invalid language False"),
        ({}, {"en-en": "x"}, "invalid label 'en-en' "),
        ({"en": []}, {}, "missing --mono or --parallel"),
        ({"en": 5}, {}, "invalid path '5'"),
        ({"en": "$NOWHERE/x"}, {}, "unknown environment variable"),
        ({"en": "x.txt"}, {}, "no such file"),
        ({"en": "*.q"}, {}, "no file matches"),
        ({"en": ["pairs.csv", "."]}, {}, "pairs.csv: given twice, for en"),
        ({"en": "pairs.csv", "de": "pairs.csv"}, {}, "pairs.csv: given twice, for en"),
        ({}, {"en-de": "x.tsv", "en-fr": "x.tsv"}, "x.tsv: given twice, for de-en"),
        ({"en": ["x.tsv", "./x.tsv"]}, {}, "./x.tsv: given twice, for en"),
        ({}, {"en-de": "x*"}, "x.tsv.gz: given twice, for de-en"),
        ({}, {"en-de": "one.txt,one.txt"}, "one.txt: the same file"),
        ({}, {"en-de": "one.txt,.link.txt"}, ".link.txt: the same file"),
        ({}, {"en-de": "z.txt,z.txt.gz"}, "z.txt.gz: the same file"),
        ({"en": "one.txt", "EN": "x.tsv"}, {}, "^EN and en are the same language"),
        ({"en": "one.txt"}, {"de-eng": "x.tsv"}, "^en and eng are the same language"),
        ({"zho_Hans": "one.txt", "zh_hans": "x.tsv"}, {}, "^zh_hans and zho_Hans are the same"),
        ({"cmn_Hans": "one.txt", "zh": "x.tsv"}, {}, "^cmn_Hans and zh are the same"),
        ({"zh_CN": "one.txt"}, {"en-zh": "x.tsv"}, "^zh and zh_CN are the same"),
        ({"no": "one.txt", "nb": "x.tsv"}, {}, "^nb and no are the same"),
        ({"en": "one.txt", "English": "x.tsv"}, {}, "^English and en are the same"),
        ({}, {"en-de": [["a.tsv"]]}, "expected two aligned files"),
        ({}, {"en-de": "x.tsv,pairs.csv"}, "en-de<=PATH"),
        ({"de": "news.en.txt"}, {}, "^news.en.txt: .* 'en<=news.en.txt'"),
        ({}, {"en-de": "de-en.tsv"}, "^de-en.tsv: .* 'de-en<=de-en.tsv'"),
        ({}, {"eng-fr": "de-en.tsv"}, "^de-en.tsv: labeled eng-fr, but named de-en"),
        ({}, {"en-it": "fr.txt"}, "^fr.txt: labeled en-it, but named fr"),
        ({}, {"fr-en": "news.en.txt,fr.txt"}, "^news.en.txt: labeled fr, but named en"),
        ({"fr": "en-de.fr"}, {}, "^en-de.fr: labeled fr, but named en-de-fr"),
        ({"ru": "[nf]*"}, {}, r"^\[nf\]\*: "),
    ],
)
def test_reject_what_the_notation_cannot_say(tmp_path, in_tmp_path, mono, parallel, message):
    """In a folder with tables and text, some also packed, or named by their languages, and a link."""
    named = ("news.en.txt", "fr.txt", "de-en.tsv", "en-de.fr")
    for name in ("pairs.csv", "one.txt", "x.tsv", "x.tsv.gz", "z.txt", "z.txt.gz", *named):
        write_lines(tmp_path / name, ["a,b"])
    (tmp_path / ".link.txt").symlink_to("one.txt")
    assert re.search(message, error_of(resolve_sources, mono, parallel))


def test_scripts_and_regions_are_separate_languages(tmp_path, caplog):
    """Codes of countries are not languages, and stay what they are."""
    known = ("pt", "pt_BR", "zh", "zh_Hant", "pes", "prs", "aka", "twi", "sr_Cyrl", "sr_Latn", "ja", "nn")
    names = (*known, "cz", "jp")
    assert len(resolve_sources({name: write_lines(tmp_path / name, ["a"]) for name in names}, {})) == len(
        names
    )
    assert [line.split("'")[1] for line in caplog.messages] == ["cz", "jp"]


@pytest.mark.parametrize("chunk_bytes", [1, 300, 5000, 1 << 20])
@pytest.mark.parametrize("end", PACKERS)
def test_chunks_tile_a_file_whatever_its_packing(tmp_path, chunk_bytes, end):
    """Together the chunks are the text. Each ends with a line. A packed file has those of the plain one."""
    path = write_file(tmp_path / f"text{end}", PACKERS[end](TEXT))
    chunks = all_chunks(path, chunk_bytes)
    texts = [chunk.texts[0] for chunk in chunks]
    assert b"".join(texts) == TEXT
    longest = max(len(line.encode()) + 1 for line in LINES)  # bytes of a line with its line end
    assert all(text.endswith(b"\n") and len(text) <= max(chunk_bytes, longest) for text in texts)
    *first_lines, _ = accumulate((text.count(b"\n") for text in texts), initial=1)
    assert [chunk.first_line for chunk in chunks] == first_lines
    # The whole file was read, and the progress adds up to it.
    assert sum(chunk.bytes_read for chunk in chunks) == path.stat().st_size
    (tmp_path / "plain").write_bytes(TEXT)
    assert [chunk.texts[0] for chunk in all_chunks(tmp_path / "plain", chunk_bytes)] == texts


@pytest.mark.parametrize("end", ARCHIVES)
def test_read_archive_members(tmp_path, end):
    """A file may be several archives, one after the other; a line continues from one to the next."""
    path = tmp_path / f"text{end}"
    pack = PACKERS[end]
    path.write_bytes(pack(b"one\ntw") + pack(b"o\nthree\n"))
    assert read_only_stream({"en": str(path)}).rows == [("one",), ("two",), ("three",)]


@pytest.mark.parametrize("blank", ["", " \t"])
@pytest.mark.parametrize("chunk_bytes", [700, 1 << 20])
def test_chunks_end_with_documents(tmp_path, chunk_bytes, blank):
    starts = range(0, 300, 3)  # of documents
    path = write_lines(
        tmp_path / "text",
        [line for start in starts for line in (*LINES[start : start + 3], blank, blank)],
    )
    text = read_only_stream({"en": path}, chunk_bytes=chunk_bytes, documents="blank")
    assert text.rows == list(zip(LINES[:300])) and text.documents == [3] * 100
    assert all(
        len(chunk.texts[0]) <= chunk_bytes for chunk in all_chunks(path, chunk_bytes, documents="blank")
    )


@pytest.mark.parametrize(
    "data, documents, lines, lengths, empty",
    [
        # Documents of a b, of c, and of d e; a line of white space is blank, also of an ideographic space.
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
def test_lines_are_lines(tmp_path, data, documents, lines, lengths, empty):
    """`lengths`: the lines of each document; `empty`: the blank lines that are counted as left out."""
    (tmp_path / "text").write_bytes(data)
    expected = ChunkLines(list(zip(lines)), lengths, empty)
    assert read_only_stream({"en": str(tmp_path / "text")}, documents=documents) == expected


@pytest.mark.parametrize("end", ARCHIVES)
def test_truncated_or_corrupt_archives(tmp_path, end):
    packed = PACKERS[end](TEXT)
    path = tmp_path / f"text{end}"
    middle = len(packed) // 2
    flipped = bytes(byte ^ 0xFF for byte in packed[middle : middle + 40])
    corrupt = packed[:middle] + flipped + packed[middle + 40 :]
    messages = {
        packed[:-9]: r"text\.\w+: cannot be read \(Compressed file ended before the end-of-stream marker",
        corrupt: r"text\.\w+: (cannot be read \(.*\)\. |not)",
        packed + b"x" * 100_000: r"text\.\w+: (corrupt after line|cannot be read \(.*\)\. )",
    }
    for data, message in messages.items():
        path.write_bytes(data)
        assert re.search(message, error_of(all_chunks, path))
    path.write_bytes(TEXT)  # plain text with the name of another is read as what it is
    assert b"".join(chunk.texts[0] for chunk in all_chunks(path)) == TEXT


def test_two_aligned_files_and_moses(tmp_path):
    """Two paths with a comma or in a list, or what both have in common before the language, as Moses has it.

    Pairs with an empty side are left out. The sides come in the stream's order: German, English.
    """
    pairs = list(zip(LINES, reversed(LINES)))  # English, German
    pairs[3] = ("alone", " ")
    pairs[7] = ("", "")
    write_lines(tmp_path / "x.en", [english for english, _ in pairs])
    (tmp_path / "x.de.gz").write_bytes(gzip.compress("\n".join(german for _, german in pairs).encode()))
    full = [pair[::-1] for number, pair in enumerate(pairs) if number not in (3, 7)]
    files = [f"{tmp_path}/x.en", f"{tmp_path}/x.de.gz"]
    for path in (",".join(files), f"{tmp_path}/x", [files]):
        for chunk_bytes in (500, 1 << 20):
            text = read_only_stream(parallel={"en-de": path}, chunk_bytes=chunk_bytes)
            assert (text.rows, text.empty_count) == (full, 2)


ENGLISH_GERMAN = [(f"{line} bado", f"{line} kani") for line in dict.fromkeys(LINES[:60])]


def in_layout(layout: str) -> str:
    """`ENGLISH_GERMAN` in the format of public files."""
    rows = []
    for number, (english, german) in enumerate(ENGLISH_GERMAN):
        rows.append(
            {
                "Tatoeba": f"{1276 + number}\t{english}\t{77 + number}\t{german}",
                "manythings": f"{english}\t{german}\tCC-BY 2.0 (France) Attribution: #{number} (CK)",
                "WikiMatrix": f"{1.2 - number / 1e4}\t{english}\t{german}",
                "named.csv": f'{number},"{german}","{english}"',
                "memory.tmx": f'<tu><tuv xml:lang="DE"><seg>{german}</seg></tuv>'
                f'<tuv xml:lang="en-US"><seg>{english}</seg></tuv></tu>',
                "train.jsonl": json.dumps({"translation": {"de": german, "en": english}}),
            }[layout]
        )
    top = {"named.csv": "id,de,en\n", "memory.tmx": "<tmx><body>\n"}.get(layout, "")
    return top + "\n".join(rows) + ("\n</body></tmx>" if layout == "memory.tmx" else "\n")


@pytest.mark.parametrize(
    "layout", ["Tatoeba", "manythings", "WikiMatrix", "named.csv", "memory.tmx", "train.jsonl"]
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_read_public_dataset_columns(tmp_path, layout, end):
    """Columns are named, or a header has the languages, which say the order; in any chunk.

    Named columns are not those of a file of translation units.
    """
    columns = {
        "Tatoeba": "2,4",
        "manythings": "1,2",
        **dict.fromkeys(("WikiMatrix", "memory.tmx", "train.jsonl"), "2,3"),
    }.get(layout)
    name = layout if "." in layout else f"{layout}.tsv"
    (tmp_path / f"{name}{end}").write_bytes(PACKERS[end](in_layout(layout).encode()))
    for chunk_bytes in (300, 1 << 20):
        text = read_only_stream(
            parallel={"en-de": f"{tmp_path}/{name}{end}"}, chunk_bytes=chunk_bytes, columns=columns
        )
        assert [pair[::-1] for pair in text.rows] == ENGLISH_GERMAN


def test_pairs_below_the_score_are_left_out(tmp_path):
    """As in WikiMatrix: the score comes first. Pairs below the limit or with NaN are left out."""
    rows = ["1.2\tgood\tgut", "1.03\tbad\tschlecht", "1.04\tnew\tneu", "nan\ta\tb"]
    path = write_lines(tmp_path / "x.tsv", rows)
    text = read_only_stream(parallel={"en-de": path}, columns="3,2", filter="1>=1.04")
    # Named columns are taken as they are.
    assert text == ChunkLines([("good", "gut"), ("new", "neu")], [1, 1], not_wanted_count=2)


def test_quotation_marks_between_tabs(tmp_path):
    """Text in a bitext: in its only columns, or in those that are given by number."""
    rows = ["1.2\tgood\tgut", '1.1\t"new" ones\tneue', "1.0\t\t"]
    path = write_lines(tmp_path / "x.tsv", rows)
    expected = [("gut", "good"), ("neue", '"new" ones')]
    assert read_only_stream(parallel={"en-de": path}, columns="2,3").rows == expected
    path = write_lines(tmp_path / "y.tsv", [row.partition("\t")[2] for row in rows])
    assert read_only_stream(parallel={"en-de": path}).rows == expected


def rows_as_bytes(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


SCORED = ["0.9\tgood\tgut", "", "0.8\tbad\tschlecht", "0.7\t\talles"]  # the last has no English
LONG_LINE = b"a b " * (1 << 18) + b"c"  # 1 MiB and a byte
ACCENT = b"caf\xe9"  # in Latin-1


@pytest.mark.parametrize(
    ("languages", "files", "options", "location"),
    [
        ("en", {"text": b""}, {}, "text: empty"),
        ("en", {"text": "one\ntwo\n".encode("utf-16-le")}, {}, "text: "),
        (
            "en",
            {"text": rows_as_bytes(*LINES[:400]) + ACCENT},
            {},
            "text: line 401: not UTF-8 (byte 0xe9). Set --encoding",
        ),
        ("en-fr", {"x.tsv": b"good\tgut\n" + ACCENT + b"\tKaffee\n"}, {}, "x.tsv: line 2: not UTF-8"),
        # Longer than a chunk, and read in parts, or not.
        ("en", {"text": b"one\n" + LONG_LINE}, {}, "text: line 2: too long"),
        ("en", {"text": b"one\n" + LONG_LINE}, {"chunk_bytes": 4 << 20}, "text: line 2: too long"),
        ("en", {"a.txt": b'{"text": "one"}\n{"text": "two"}\n'}, {}, "a.txt, line 1: "),
        ("en-de", {"a.tsv": b'{"text": "one"}\n{"text": "two"}\n'}, {}, "a.tsv, line 1: "),
        ("en", {"a.txt": in_layout("memory.tmx").encode()}, {}, "a.txt, line 1: "),
        ("en-de", {"a.tsv": in_layout("memory.tmx").encode()}, {}, "a.tsv, line 1: "),
        # Aligned files of different lengths: the shorter one is named.
        *(
            (
                "en-de",
                {"x.en": rows_as_bytes(*LINES[:english]), "x.de": rows_as_bytes(*LINES[:german])},
                {},
                f"x.en and x.de: x.{'en' if english < german else 'de'} has {min(english, german)} lines",
            )
            for english, german in [(500, 499), (20, 500), (1, 0), (0, 3)]
        ),
        # Two columns, or two of those that the first line has.
        ("en-de", {"y.tsv": rows_as_bytes("good\tgut", "bad schlecht")}, {}, "y.tsv, line 2: 1 column"),
        (
            "en-de",
            {"x.csv": rows_as_bytes("sep=;", "", "en;de", "good;gut", "bad")},
            {},
            "x.csv, line 5: 1 column (expected 2, as in line 3)",
        ),
        ("en-de", {"x.tsv": rows_as_bytes("", "\t")}, {}, "x.tsv: "),
        *(
            ("en-de", {"x.tsv": rows_as_bytes(*SCORED)}, options, "x.tsv, line 1: ")
            for options in [
                {},
                {"columns": "1,2,3"},
                {"columns": "2,5"},
                {"columns": "2,3", "filter": "2>=1.04"},
                {"columns": "2,3", "filter": "4>=1.04"},
            ]
        ),
        (
            "en-de",
            {"z.tsv": rows_as_bytes(*SCORED, "0.6\tbad\tschlecht\tmore")},
            {"columns": "2,3"},
            "z.tsv, line 5: 4 columns",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, in_tmp_path, monkeypatch, languages, files, options, location):
    monkeypatch.setattr(plain_text, "LONGEST_LINE", 1 << 20)
    write_files(tmp_path, files)
    kind = "parallel" if "-" in languages else "mono"
    assert error_of(read_only_stream, **{kind: {languages: ",".join(files)}}, **options).startswith(location)


def test_pairs_without_a_side_are_counted(tmp_path, caplog):
    path = write_lines(tmp_path / "x.tsv", SCORED)
    text = read_only_stream(parallel={"en-de": path}, columns="2,3")
    assert (text.rows, text.empty_count) == ([("gut", "good"), ("schlecht", "bad")], 1)
    # A line with more columns is left out.
    path = write_lines(tmp_path / "z.tsv", [*SCORED, "0.6\tbad\tschlecht\tmore"])
    assert read_only_stream(parallel={"en-de": path}, columns="2,3", on_error="skip") == text
    assert caplog.messages[-1].startswith(f"{path}: dropped: line 5: 4 columns ")


def test_text_is_decoded_by_the_named_encoding(tmp_path):
    (tmp_path / "text").write_bytes(ACCENT)
    assert read_only_stream({"en": str(tmp_path / "text")}, encoding="latin-1").rows == [("café",)]
