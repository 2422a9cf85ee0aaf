"""Turn public tagged text (CoNLL-2002 and 2003, PAN-X) into the layout of the official scripts, ./data/conll.

    python scripts/data/prepare_conll.py conll2003 conll2002
    python scripts/data/prepare_conll.py panx --output data/panx
    python scripts/data/prepare_conll.py train.en=my-train.txt dev.en=my-dev.txt --output data/my-ner

A source is <split>.<language>=FILE, a file, or a folder that is searched with its sub-folders. The name of a
file says what it holds:

    {eng,deu,esp,ned}.{train,testa,testb}     CoNLL-2003 and 2002; an ending may follow (.gz, .utf8)
    [panx-]{train,dev,test}-<language>.tsv    PAN-X of XTREME ("." or "_" for "-", .txt for .tsv)
    <language>/{train,dev,test}               PAN-X of WikiANN, with "en:" before each word

A line has a word, perhaps further columns, and a tag, with spaces or a tab between. Blank lines and
-DOCSTART- end a sentence. Files are UTF-8 or else ISO-8859-1, and may be packed (.gz). Tags are IOB1 or
IOB2 and become IOB2; what fits neither is read as conlleval reads it, and counted. The script reads its own
output, too.

It writes train/train.<language>.tsv, train/train.all.tsv (for several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/ner.md.
"""

import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.tagging import JOINT, OUTSIDE, entity_starts, is_tag, read_columns, to_iob2
from scripts.data.sources import DataFile, DataSet, WrittenFile, prepare, source_parser
from utils.errors import UserError, run
from utils.files import atomic_file

TYPES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order
CONLL = DataSet(
    output="data/conll",
    languages=("en", "nl", "es", "de"),
    names=(
        r"(?P<language>eng|deu|esp|ned)\.(?P<split>train|testa|testb)(?:\.[\w-]+)*",
        r"(?:(?:conll\w*|panx|wikiann|ner)[-._])?(?P<split>train|dev|valid|test)[-._](?!all\.)"
        r"(?P<language>[a-z]{2,3})\.(?:tsv|txt|conll|bio|iob2?)(?:\.gz)?",
        r"(?P<language>[a-z]{2,3})/(?P<split>train|dev|test)",
    ),
    examples="eng.train, ned.testa, train-<language>.tsv",
)
LARGEST_FILE = 256 << 20  # bytes; the largest real file has 5 MB
_DOCUMENT = "-DOCSTART-"


class _Row(NamedTuple):
    """One sentence, and the line of each word."""

    lines: Sequence[int]
    words: Sequence[str]
    tags: Sequence[str]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    parser = source_parser(__doc__, CONLL.output)
    parser.add_argument("--lower_case", action="store_true", help="words in lower case")
    options = parser.parse_args(arguments)
    written = prepare(CONLL, options, partial(convert, lower_case=options.lower_case), label_names)
    print(f"--num_labels is {len(label_names(written))}")


def label_names(written: Sequence[WrittenFile]) -> list[str]:
    """B- and I- of every type that was found, in the official order, and O."""
    types = {head for one in written for head in one.counts} - {"read as", "sentences", "words"}
    return [f"{part}-{type_}" for type_ in sorted(types, key=_place) for part in "BI"] + [OUTSIDE]


def _place(type_: str) -> tuple[int, str]:
    return TYPES.index(type_) if type_ in TYPES else len(TYPES), type_


def convert(source: DataFile, output: Path, lower_case: bool = False) -> list[WrittenFile]:
    """Write one source in the official form.

    Raises:
        UserError: `read_sentences` raises it, or there is no sentence.
    """
    rows, form = read_sentences(source)
    scheme, broken = _scheme(rows)
    notes = [f"{source.split} {source.language}: {broken} ({source.path})"] if broken else []
    entities, sentences, words, empty = Counter(), [], 0, 0
    for row in rows:
        # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other
        # as a space.
        clean = [word.replace(JOINT, "").replace("\t", " ") for word in row.words]
        kept = [(word.lower() if lower_case else word, tag) for word, tag in zip(clean, row.tags) if word]
        empty += len(clean) - len(kept)
        if kept:
            tags = to_iob2([tag for _, tag in kept])
            entities.update(start.tag[2:] for start in entity_starts(tags))
            words += len(kept)
            sentences.append(f"{JOINT.join(word for word, _ in kept)}\t{JOINT.join(tags)}\n")
    if not sentences:
        raise UserError(f"{source.path}: no sentence in it")
    if empty:
        notes.append(f"{source.split} {source.language}: {empty:,} lines without a word are left out")
    with atomic_file(
        output / source.split / f"{source.split}.{source.language}.tsv", "w", newline="\n"
    ) as file:
        file.writelines(["text_a\tlabel\n", *sentences])
    cells = {"read as": f"{form}, {scheme}", "sentences": len(sentences), "words": words}
    cells |= {type_: entities[type_] for type_ in sorted(entities, key=_place)}
    return [WrittenFile(source.split, source.language, cells, notes)]


def read_sentences(source: DataFile) -> tuple[list[_Row], str]:
    """The sentences of a file in columns or in the official form, and a description of that form.

    Raises:
        UserError: no whole gzip file, a line with another number of columns, or something that is not a tag.
    """
    path = source.path
    data = _read_bytes(path)
    try:
        text, encoding = data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:  # text with accents in ISO-8859-1 is practically never valid UTF-8
        text, encoding = data.decode("iso-8859-1"), "ISO-8859-1"
    lines = [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]
    official = {"text_a", "label"} <= {*lines[0].split("\t")}
    rows = list(_official_rows(lines, path) if official else _column_rows(lines, path))
    for row in rows:
        for line, tag in zip(row.lines, row.tags):
            if not is_tag(tag):
                raise UserError(
                    f"{path}, line {line}: '{tag}' in the last column is not O, B-<type> or I-<type>"
                )
    prefix = f"{source.language}:"
    if all(word.startswith(prefix) for row in rows for word in row.words):
        rows = [row._replace(words=[word.removeprefix(prefix) for word in row.words]) for row in rows]
    columns = next((len(cells) for cells in map(_cells, lines) if cells), 0)
    return rows, f"{columns} columns, {encoding}"


def _read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a whole gzip file"
        raise UserError(f"{path}: cannot read it ({reason}); fetch it again") from error
    if len(data) > LARGEST_FILE:
        raise UserError(f"{path}: more than {LARGEST_FILE >> 20} MiB when unpacked; not a file of CoNLL")
    return data


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line and of -DOCSTART-."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    return cells if any(cells) and cells[0] != _DOCUMENT else []


def _column_rows(lines: list[str], path: Path) -> Iterator[_Row]:
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    for first, rows in read_columns(lines, path, _cells, form):
        numbers = range(first, first + len(rows))
        yield _Row(numbers, [cells[0] for cells in rows], [cells[-1] for cells in rows])


def _official_rows(lines: list[str], path: Path) -> Iterator[_Row]:
    header = lines[0].split("\t")
    for number, line in enumerate(lines[1:], 2):
        cells = dict(zip(header, line.split("\t")))
        words, tags = (cells.get(name, "").split(JOINT) for name in ("text_a", "label"))
        if len(words) != len(tags):
            raise UserError(f"{path}, line {number}: {len(words)} tokens but {len(tags)} tags")
        yield _Row([number] * len(words), words, tags)


def _scheme(rows: Sequence[_Row]) -> tuple[str, str]:
    """The scheme of the tags, and a note if they fit neither."""
    odd: dict[str, list[str]] = {"I": [], "B": []}  # where an entity begins as only IOB1, only IOB2 writes it
    for row in rows:
        for start in entity_starts(row.tags):
            if start.tag[0] == "I" or not start.adjoins:
                odd[start.tag[0]].append(f"line {row.lines[start.position]}, {start.tag}")
    if not odd["I"] or not odd["B"]:
        return "IOB1" if odd["I"] else "IOB2", ""
    scheme, few = ("IOB2", odd["I"]) if len(odd["B"]) >= len(odd["I"]) else ("IOB1", odd["B"])
    return f"{scheme}, broken", (
        f"{len(few):,} tags break {scheme}; an entity begins at each, as for conlleval; the first: {few[0]}"
    )


if __name__ == "__main__":
    run(main)
