"""Text that may be none is refused where it is trained on, and said elsewhere; other scripts are said."""

import gzip
from dataclasses import replace

import pytest

from ernie_m.data.train_vocab import VocabOptions
from ernie_m.inference.mine_pairs import MiningOptions, mine_pairs
from ernie_m.pretrain.build_corpus.build_args import TextOptions
from ernie_m.pretrain.build_corpus.source_files import resolve_sources
from ernie_m.pretrain.build_corpus.text_chunks import check_sources, read_chunks, read_lines
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.files.text_checks import check_later_lines
from ernie_m.utils.args import get_result_options
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.toys import sentences

TEXTS = list(dict.fromkeys(sentences(60, seed=3)))[:30]
OTHERS = [f"{text} kani" for text in TEXTS]
RUSSIAN = [
    "Собака спит у двери.",
    "Мы читаем книгу.",
    "Сегодня идёт дождь.",
    "Где живёт кот?",
    "Он ушёл домой.",
]
ENGLISH = [
    "A dog sleeps at the door.",
    "We read a book.",
    "It rains today.",
    "Where is the cat?",
    "He went home.",
]

CYRILLIC = ["Пас спава код врата.", "Читамо књигу.", "Данас пада киша.", "Где је мачка?", "Отишао је кући."]
LATIN = ["Pas spava kod vrata.", "Čitamo knjigu.", "Danas pada kiša.", "Gde je mačka?", "Otišao je kući."]

# What stands in a file -> its lines, and the number of the line that is named.
ODD = {
    "numbers": ([f"{7 * n}\t{text}" for n, text in enumerate(TEXTS)], 1),
    "ids of BUCC": ([f"de-{n * n + 10**8:09}\t{text}" for n, text in enumerate(TEXTS)], 1),
    "ids of Kaldi": ([f"1089-{n // 9}-{n:04} {text}" for n, text in enumerate(TEXTS)], 1),
    "ids of different lengths": ([f"q{9 ** (n % 5)} {text}" for n, text in enumerate(TEXTS)], 1),
    "numbered": ([f"{n}. {text}" for n, text in enumerate(TEXTS, 1)], 1),
    "numbered from 8, with blank lines": ([f"{n}: {text}\n" for n, text in enumerate(TEXTS, 8)], 1),
    "numbers alone": ([f"{n * n}, {n}" if n % 8 else text for n, text in enumerate(TEXTS)], 2),
    "fastText": ([f"__label__{('en', 'de')[n % 2]} {text}" for n, text in enumerate(TEXTS)], 1),
    "a tag of the language": ([f"<2de> {text}" for text in TEXTS], 1),
    "mBART": ([f"en_XX {text}" for text in TEXTS], 1),
    "a name": ([f"English: {text}" for text in TEXTS], 1),
    "subword-nmt": ([text[:2] + "@@ " + text[2:] for text in TEXTS], 1),
    "spm_encode": (["▁" + text.replace(" ", " ▁") for text in TEXTS], 1),
    "columns": ([f"{text}\t{text}" for text in TEXTS], 1),
    "HTML": ([text if n % 3 == 0 else f"{text}<br/>" for n, text in enumerate(TEXTS)], 2),
    "cells in quotation marks": ([f'"{text} ""{text}"""' for text in TEXTS], 1),
    "entities": ([f"{text} &amp; {text}" for text in TEXTS], 1),
    "entities of Moses": ([text if n % 5 < 3 else f"{text} &apos;s" for n, text in enumerate(TEXTS)], 4),
    "joiners of Moses": ([text if n % 5 else text.replace(" ", " @-@ ") for n, text in enumerate(TEXTS)], 1),
    "joiners of WikiText": ([text if n % 5 else f"2 @,@ 000 {text}" for n, text in enumerate(TEXTS)], 1),
    "subword-nmt in a third": (
        [text if n % 3 else text[:2] + "@@ " + text[2:] for n, text in enumerate(TEXTS)],
        1,
    ),
    "subword-nmt in the last tenth": ([*TEXTS[:27], *(f"{text}@@ {text}" for text in TEXTS[27:])], 28),
    "joiners and some HTML": (
        [text + ("<br>", " @-@ b", "", "", "")[n % 5] for n, text in enumerate(TEXTS)],
        2,
    ),
    "WordPiece": ([text[:2] + " ##" + text[2:] for text in TEXTS], 1),
    "UTF-8 read as cp1252": (
        [
            text if n % 3 else f"{text} für „x“".encode().decode("cp1252", "replace")
            for n, text in enumerate(TEXTS)
        ],
        1,
    ),
    "UTF-8 read as ISO-8859-1": ([f"{text} naïve".encode().decode("iso-8859-1") for text in TEXTS], 1),
    "one letter of UTF-8 read as cp1252": ([f"Ãœber {text}" for text in TEXTS], 1),
    "WikiExtractor": (
        [f"{TEXTS[0]}\u2028b", '<doc id="1" url="x" title="y">', *TEXTS, "</doc>", '<doc id="2">'],
        2,
    ),
    "ids of pieces": (
        [TEXTS[0], *(f"1 {n} 96 2;0 0 0 0;0 1 2 3;-1 0 1 -1;{n % 2}" for n in range(7, 37))],
        2,
    ),
    "lines in quotation marks": ([f'"{text}"' for text in TEXTS], 1),
    "segmented Chinese": (["红船 画着 市政 厅 。"] * 30, 1),
    "printed lists": ([f"['{text.replace(' ', '')}']" for text in TEXTS], 1),
    "letters that became question marks": (
        ["Die Uhr h?lt." if n % 9 == 1 else TEXTS[n] for n in range(30)],
        2,
    ),
    "letters of ISO-8859-2 that became question marks": ([f"za?ó?? {text}" for text in TEXTS], 1),
    "letters lost in some lines": (
        [text if n % 9 else f"{text} f\ufffdr" for n, text in enumerate(TEXTS)],
        1,
    ),
    **{
        f"letters as {escaped}": ([text if n % 9 else f"{text} {escaped}" for n, text in enumerate(TEXTS)], 1)
        for escaped in (r"h\u00e4lt", "h%C3%A4lt", r"h\xc3\xa4lt", r"h\303\244lt", r"a.\nThe")
    },
    **{
        f"{missing} for no text": ([missing if n in (3, 17) else text for n, text in enumerate(TEXTS)], 4)
        for missing in ("__NULL__", "NULL", "nan", "N/A", "-", "[missing]", "<NA>", "#N/A", "None")
    },
    "one text in nine of ten lines": (["kein Text" if n % 10 else TEXTS[n] for n in range(30)], 2),
    "one text": (["kein Text"] * 30, 1),
    "one text below a blank line": (["", *["kein Text"] * 30], 2),
    "subtitles": (
        [f"00:00:0{n},000 --> 00:00:0{n},900" if n < 9 and n % 3 else TEXTS[n] for n in range(30)],
        2,
    ),
}
EVEN = {
    "text": TEXTS,
    "years": [f"{1900 + 3 * n} {text}" for n, text in enumerate(TEXTS)],
    "some numbers": [f"{n}; 2.5" if n % 3 == 0 else text for n, text in enumerate(TEXTS)],
    "a word with a digit": [f"COVID-19 {text}" if n % 2 else text for n, text in enumerate(TEXTS)],
    "some HTML": [f"<b>{text}</b>" if n % 15 == 0 else text for n, text in enumerate(TEXTS)],
    **{
        prompt: [f"{prompt}: {text}" for text in TEXTS]
        for prompt in ("query", "Passage", "search_query", "search_document")
    },
    "some lines in quotation marks": [f'"{text}"' if n % 3 == 0 else text for n, text in enumerate(TEXTS)],
    "some dialog": [f'"{text}" ana "{text}"' if n % 3 == 0 else text for n, text in enumerate(TEXTS)],
    "a number of 5,000 digits": [TEXTS[0], f"{'7' * 5000} {TEXTS[1]}", *TEXTS[2:]],
    "questions without spaces": [f"{text}吗?{text}" for text in TEXTS],
    "an address": [f"{text} a.de/?q=b" if n % 2 else text for n, text in enumerate(TEXTS)],
    "LaTeX": [rf"{text} \newline \textbf{{a}}" for text in TEXTS],
    "no text once": ["-", *TEXTS[1:]],
    "a text several times": ["kein Text" if n % 5 == 0 else text for n, text in enumerate(TEXTS)],
    "two texts many times": [TEXTS[n % 2] for n in range(30)],
    "a time": ["00:00:01,000 --> 00:00:02,900", *TEXTS[1:]],
    "some notes": [f"[{n}] {text}" if n % 3 == 0 else text for n, text in enumerate(TEXTS)],
}


def look_at(mono=None, parallel=None, **options):
    check_sources(resolve_sources(mono or {}, parallel or {}), TextOptions(**options))


def write(path, lines):
    return write_file(path, "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("name", ODD)
def test_odd_text_is_refused_for_corpora_and_said_elsewhere(tmp_path, caplog, name):
    lines, number = ODD[name]
    path = write(tmp_path / "a.txt", lines)
    assert error_of(look_at, {"en": str(path)}).startswith(f"{path}, line {number}: ")
    indented = write(tmp_path / "indented.txt", [f" {line} " for line in lines])
    assert error_of(look_at, {"en": str(indented)}).startswith(f"{indented}, line {number}: ")
    look_at({"en": str(path)}, skip_text_checks=True)
    caplog.clear()
    assert len(Sentences(path)) == path.read_text().count("\n")
    (said,) = caplog.messages
    assert said.startswith(f"{path}, line {number}: ")


def read(mono=None, parallel=None, **options):
    """Read all chunks, as workers and the training of a vocabulary do."""
    look_at(mono, parallel, **options)
    (stream,) = resolve_sources(mono or {}, parallel or {})
    for chunk in read_chunks(stream.sources[0], 1 << 13, TextOptions(**options)):
        read_lines(chunk, stream.sources[0], stream.languages, TextOptions(**options))


# The lines, and the number of the first of them in a sample that has enough of them.
LATER = {
    "subword-nmt": (ODD["subword-nmt"][0] * 20, 1201),
    "numbered": ([f"{n}. {TEXTS[n % 30]}" for n in range(600)], 1244),
}


@pytest.mark.parametrize("name", LATER)
def test_odd_text_after_the_beginning(tmp_path, name):
    """Of a plain and a packed file, of a table and of aligned files; the beginning is even."""
    later, number = LATER[name]
    lines = [*TEXTS * 40, *later]
    path = write(tmp_path / "a.txt", lines)
    packed = tmp_path / "b.txt.gz"
    table = write(
        tmp_path / "en-de.tsv", [f"{line}\t{text}" for line, text in zip(lines, OTHERS * len(lines))]
    )
    packed.write_bytes(gzip.compress(path.read_bytes()))
    other = write(tmp_path / "c.txt", (OTHERS * len(lines))[: len(lines)])
    for start, of in (
        (path, {"mono": {"en": str(path)}}),
        (packed, {"mono": {"en": str(packed)}}),
        (table, {"parallel": {"en-de": str(table)}}),
        (path, {"parallel": {"de-en": f"{other},{path}"}}),
    ):
        assert error_of(read, **of).startswith(f"{start}, line ")
        read(**of, skip_text_checks=True)
    assert error_of(PairRows, str(table)).startswith(f"{table}, line {number}: ")
    PairRows(str(table), TableOptions(skip_text_checks=True))


def test_later_lines_without_a_file():
    """Every third line is checked; a line number counts them all. Blank lines are none."""
    numbered = enumerate((f"{number}. {TEXTS[number % 30]}" for number in range(600)), 1)
    assert error_of(check_later_lines, "a.txt", numbered).startswith("a.txt, line 1: ")
    check_later_lines("a.txt", enumerate([*ODD["subword-nmt"][0][:20], *[""] * 40]))


def test_few_odd_lines_after_the_beginning(tmp_path):
    read({"en": str(write(tmp_path / "a.txt", [*TEXTS * 50, *ODD["a tag of the language"][0]]))})


@pytest.mark.data
def test_real_text_passes_text_checks(data_dir):
    """Thirty lines of each 2,700 in fifteen languages, news, talk and captions among them."""
    texts = {path: gzip.decompress(path.read_bytes()).decode() for path in data_dir.glob("pretrain/*/*.gz")}
    for folder in ("pretrain/parallel-multiway", "retrieval/tatoeba-style-dev"):
        texts |= {path: path.read_text(encoding="utf-8") for path in (data_dir / folder).iterdir()}
    assert len(texts) > 50
    for path, text in texts.items():
        lines = text.split("\n")
        for start in range(0, len(lines), 2700):
            rows = [line.split("\t") for line in lines[start : start + 30] if line]
            for side in zip(*rows, strict=True):
                check_later_lines(path, enumerate(map(str.strip, side), start + 1))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_long_text_in_another_encoding(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{text} für\n" for text in TEXTS * 50), encoding)
    look_at({"en": str(path)}, encoding=encoding if encoding == "cp1252" else None)


@pytest.mark.parametrize("name", EVEN)
def test_text_is_shown_and_taken(tmp_path, caplog, info_log, name):
    """The first line of each file, also of a packed one."""
    path = write_file(tmp_path / "a.txt.gz", gzip.compress("\n".join(["", *EVEN[name]]).encode()))
    look_at({"en": str(path)})
    assert caplog.messages == [f"{path}: en: {line}" for line in EVEN[name][:1]]


def test_warn_about_html_in_some_lines(tmp_path, caplog):
    """It is asked about in most lines."""
    path = write(tmp_path / "a.txt", [f"{text}<br>" if n % 4 == 3 else text for n, text in enumerate(TEXTS)])
    look_at({"en": str(path)})
    assert [line for line in caplog.messages if line.startswith(f"{path}, line 4: 23% of the lines")]


@pytest.mark.parametrize(
    ("name", "line", "location", "said"),
    [
        ("a.txt", '{"content": "A dog"}', ", line 1", "content"),
        ("a.txt", '{"raw": "A dog \\"' + "at the door " * 9000, ", line 1", "JSON"),
        ("a.csv", "\ufeffid;Satz;lang", "", ": id;Satz;lang"),
    ],
)
def test_json_lines_and_tables_are_refused(tmp_path, name, line, location, said):
    """Of a table the first line is shown, which may name its columns."""
    path = write(tmp_path / name, [line] * 2)
    for read in (lambda: look_at({"en": str(path)}), lambda: Sentences(path)):
        check_error(error_of(read), said, start=f"{path}{location}: ")


def test_check_both_sides(tmp_path, caplog, info_log):
    """Of a table and of two files, for corpora and for training. The line is that among the rows."""
    tags = [f"<2de> {text}" for text in OTHERS]
    table = write(tmp_path / "en-de.tsv", map("\t".join, zip(TEXTS, tags)))
    files = [str(write(tmp_path / name, lines)) for name, lines in (("x.en", TEXTS), ("x.de", tags))]
    for notation in (str(table), f"en-de<={','.join(files)}"):
        assert ", line 1: " in error_of(PairRows, notation)
        rows = PairRows(notation, TableOptions(skip_text_checks=True))
        assert list(rows) == [list(pair) for pair in zip(TEXTS, tags)]
        assert f"{notation}: de: {tags[0]}" in caplog.messages
    for source in (str(table), ",".join(files)):
        assert ", line 1: " in error_of(look_at, None, {"en-de": source})
        look_at(None, {"en-de": source}, skip_text_checks=True)


def test_one_text_in_a_quarter_of_the_lines(tmp_path):
    """Of translations it is asked about; several questions may have one answer, also in sorted rows."""
    rows = [(f"{text} {n}", "kein Text" if n < 150 else f"{text}: {n}") for n, text in enumerate(TEXTS * 20)]
    lines = [*map("\t".join, rows)]
    assert ", line 1: 25% " in error_of(PairRows, write(tmp_path / "en-de.tsv", lines))
    assert len(PairRows(write(tmp_path / "faq.tsv", ["query\tpositive", *lines]))) == 600


@pytest.mark.parametrize(
    ("name", "header", "count"),
    [("en-ru", [], 0), ("ru-en", [], 2), ("en-el", [], 1), ("pairs", ["query\tpositive"], 0)],
)
def test_warn_about_swapped_sides_and_other_languages(tmp_path, caplog, name, header, count):
    """By their scripts, where the name of the file has the languages, and where a corpus is built."""
    rows = [*zip(ENGLISH, RUSSIAN), *zip(RUSSIAN[: len(header)], ENGLISH)]
    path = write(tmp_path / f"{name}.tsv", [*header, *map("\t".join, rows)])
    PairRows(path)
    if not header:
        look_at(None, {name: str(path)})
    lines = [line for line in caplog.messages if line.startswith(f"{path}: most letters are ")]
    assert len(lines) == 2 * count and all("swap the sides" in line for line in lines)
    assert "two scripts" not in caplog.text


@pytest.mark.parametrize(
    "language, files, said",
    [
        ("sr", [CYRILLIC], 0),
        ("ru", [RUSSIAN], 0),
        ("en", [RUSSIAN], 1),
        ("sr", [LATIN * 9 + CYRILLIC[:2]], 0),
        ("srp", [LATIN * 2 + CYRILLIC], 1),
        ("uz", [CYRILLIC + LATIN], 1),
        ("sr", [CYRILLIC, LATIN], 1),
        ("ru", [RUSSIAN * 2 + ENGLISH], 1),  # as where some sides are swapped
        ("en", [ENGLISH * 9 + RUSSIAN[:4]], 0),
        ("ja", [["カタカナ テスト"] * 5, ["漢字とひらがな", "カタカナ"] * 3], 0),
        ("sr_Latn", [CYRILLIC, CYRILLIC], 2),  # each is in another script than its language
    ],
)
def test_warn_about_a_language_in_two_scripts(tmp_path, caplog, language, files, said):
    look_at({language: [str(write(tmp_path / f"{n}", lines)) for n, lines in enumerate(files)]})
    assert len([line for line in caplog.messages if " letters are " in line or " scripts: " in line]) == said


@pytest.mark.parametrize(
    ("target", "error"), [("a.txt", "absent: "), ("b.txt", "absent: "), ("ids.txt", "ids.txt, line 1: ")]
)
def test_files_to_mine(tmp_path, caplog, target, error):
    """Ids before lines are asked about, and a file that is mined against itself is said.

    Before any model is opened; the model, which is missing, ends the command.
    """
    lines = {"a.txt": TEXTS, "b.txt": [*TEXTS[:3], *OTHERS], "ids.txt": ODD["ids of BUCC"][0]}
    paths = {name: str(write(tmp_path / name, lines[name])) for name in lines}
    files = {"source": paths["a.txt"], "target": paths[target]}
    options = MiningOptions(model=str(tmp_path / "absent"), output=str(tmp_path / "out"), **files)
    assert error in error_of(mine_pairs, options)
    assert ("paired with themselves" in caplog.text) == (target == "a.txt")
    assert "absent: " in error_of(mine_pairs, replace(options, skip_text_checks=True))


def test_the_option_decides_no_bytes():
    """So a corpus that was built without it is the same with it."""
    given = {"mono": {}, "parallel": {}, "output": "x"}
    assert "skip_text_checks" not in get_result_options(VocabOptions(**given))
