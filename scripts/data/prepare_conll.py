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
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.tagging import JOINT, OUTSIDE, entity_starts, is_tag, read_columns, to_iob2
from scripts.data.sources import DataFile, by_split, find_files, source_parser, write_joint_files
from utils.errors import UserError, run
from utils.files import atomic_file

LANGUAGES = ("en", "nl", "es", "de")  # the order of the paper's Table 2
TYPES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order
HEADER = "text_a\tlabel\n"
KNOWN = (
    "eng.train, ned.testa, train-<language>.tsv, ...; --help lists them); say what it is (train.en=FILE), "
    "or name another folder"
)

_SHARED_TASK = re.compile(r"(eng|deu|esp|ned)\.(train|testa|testb)(?:\.[\w-]+)*")
_BY_LANGUAGE = re.compile(
    r"(?:(?:conll\w*|panx|wikiann|ner)[-._])?(train|dev|valid|test)[-._](?!all\.)([a-z]{2,3})"
    r"\.(?:tsv|txt|conll|bio|iob2?)(?:\.gz)?"
)
_NAMED = re.compile(r"(train|dev|test)\.([a-z]{2,3})=(.+)")
_LANGUAGE_NAMES = {"eng": "en", "deu": "de", "esp": "es", "ned": "nl"}
_SPLIT_NAMES = {"testa": "dev", "testb": "test", "valid": "dev"}
_DOCUMENT = "-DOCSTART-"
_LARGEST_FILE = 256 << 20  # bytes; the largest real file has 5 MB


class TaggedLine(NamedTuple):
    """One sentence and the line where it begins. Words may be empty."""

    line_number: int
    words: list[str]
    tags: list[str]


class WrittenFile(NamedTuple):
    """What became of one source."""

    source: DataFile
    sentences: int
    words: int
    entities: Counter  # type -> number
    form: str  # as it was found
    notes: list[str]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    parser = source_parser(__doc__, "data/conll")
    parser.add_argument("--lower_case", action="store_true", help="words in lower case")
    options = parser.parse_args(arguments)
    done = []
    sources = [named(source) or source for source in options.sources]
    for source in find_files(sources, recognise, LANGUAGES, KNOWN, options.output):
        print(f"reading {source.path}", flush=True)
        done.append(convert(source, options.output, options.lower_case))
    labels = [f"{part}-{type_}" for type_ in entity_types(done) for part in "BI"] + [OUTSIDE]
    languages = by_split((one.source[1:] for one in done), LANGUAGES)
    notes = [note for one in done for note in one.notes]
    notes += write_joint_files(options.output, languages, labels, LANGUAGES, HEADER)
    notes += [f"--num_labels is {len(labels)}", f"written to {options.output}"]
    print("\n".join([*table(done), *notes]))


def named(source: str) -> DataFile | None:
    """The file of `dev.de=FILE`."""
    match = _NAMED.fullmatch(source)
    if match and not Path(match[3]).is_file():
        raise UserError(f"{match[3]}: no such file")
    return DataFile(Path(match[3]), match[1], match[2]) if match else None


def recognise(path: Path) -> tuple[str, str] | None:
    """Split and language of a file."""
    if match := _SHARED_TASK.fullmatch(path.name):
        return _SPLIT_NAMES.get(match[2], match[2]), _LANGUAGE_NAMES[match[1]]
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return _SPLIT_NAMES.get(match[1], match[1]), match[2]
    if path.name in ("train", "dev", "test") and re.fullmatch("[a-z]{2,3}", path.parent.name):
        return path.name, path.parent.name
    return None


def convert(source: DataFile, output: Path, lower_case: bool = False) -> WrittenFile:
    """Write one source in the official form.

    Raises:
        UserError: `read_sentences` raises it, or there is no sentence.
    """
    rows, form = read_sentences(source)
    empty = sum(not word for row in rows for word in row.words)
    rows = [row for row in map(_without_empty_words, rows) if row.words]
    if not rows:
        raise UserError(f"{source.path}: no sentence in it")
    scheme, notes = _scheme(rows, source)
    if empty:
        notes.append(f"{source.split} {source.language}: {empty:,} lines without a word are left out")
    entities: Counter = Counter()
    path = output / source.split / f"{source.split}.{source.language}.tsv"
    with atomic_file(path, "w", newline="\n") as file:
        file.write(HEADER)
        for row in rows:
            tags = to_iob2(row.tags)
            entities.update(start.tag[2:] for start in entity_starts(tags))
            text = JOINT.join(row.words)
            file.write(f"{text.lower() if lower_case else text}\t{JOINT.join(tags)}\n")
    words = sum(len(row.words) for row in rows)
    return WrittenFile(source, len(rows), words, entities, f"{form}, {scheme}", notes)


def read_sentences(source: DataFile) -> tuple[list[TaggedLine], str]:
    """The sentences of a file in columns or in the official form, and a description of that form.

    Raises:
        UserError: no whole gzip file, a line with another number of columns, or something that is not a tag.
    """
    path = source.path
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(_LARGEST_FILE + 1)
            if len(data) > _LARGEST_FILE:
                raise UserError(
                    f"{path}: more than {_LARGEST_FILE >> 20} MiB when unpacked; not a file of CoNLL"
                )
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a whole gzip file"
        raise UserError(f"{path}: cannot read it ({reason}); fetch it again") from error
    try:
        text, encoding = data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:  # text with accents in ISO-8859-1 is practically never valid UTF-8
        text, encoding = data.decode("iso-8859-1"), "ISO-8859-1"
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").rstrip("\r\n").split("\n")]
    header = lines[0].split("\t")
    official = {"text_a", "label"} <= {*header}
    rows = list(_official_rows(lines, header, path) if official else _column_rows(lines, path))
    for row in rows:
        for number, tag in enumerate(row.tags):
            if not is_tag(tag):
                line = row.line_number if official else row.line_number + number
                raise UserError(
                    f"{path}, line {line}: '{tag}' in the last column is not O, B-<type> or I-<type>"
                )
    prefix = f"{source.language}:"
    if all(word.startswith(prefix) for row in rows for word in row.words):
        rows = [row._replace(words=[word.removeprefix(prefix) for word in row.words]) for row in rows]
    columns = next((len(cells) for cells in map(_cells, lines) if cells), 0)
    return rows, f"{columns} columns, {encoding}"


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line and of -DOCSTART-."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    return cells if any(cells) and cells[0] != _DOCUMENT else []


def _column_rows(lines: list[str], path: Path) -> Iterator[TaggedLine]:
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    for number, rows in read_columns(lines, path, _cells, form):
        yield TaggedLine(number, [cells[0] for cells in rows], [cells[-1] for cells in rows])


def _official_rows(lines: list[str], header: list[str], path: Path) -> Iterator[TaggedLine]:
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, but the header names {len(header)}"
            )
        words, tags = (cells[header.index(name)].split(JOINT) for name in ("text_a", "label"))
        if len(words) != len(tags):
            raise UserError(f"{path}, line {number}: {len(words)} tokens but {len(tags)} tags")
        yield TaggedLine(number, words, tags)


def _without_empty_words(row: TaggedLine) -> TaggedLine:
    # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other as a
    # space.
    words = [word.replace(JOINT, "").replace("\t", " ") for word in row.words]
    kept = [(word, tag) for word, tag in zip(words, row.tags) if word]
    return TaggedLine(row.line_number, [word for word, _ in kept], [tag for _, tag in kept])


def _scheme(rows: list[TaggedLine], source: DataFile) -> tuple[str, list[str]]:
    """The scheme of the tags, and a note if they fit neither."""
    odd: dict[str, list[str]] = {"I": [], "B": []}  # where an entity begins as only IOB1, only IOB2 writes it
    for row in rows:
        for start in entity_starts(row.tags):
            if start.tag[0] == "I" or not start.adjoins:
                odd[start.tag[0]].append(f"the sentence of line {row.line_number}, {start.tag}")
    if not odd["I"] or not odd["B"]:
        return ("IOB1" if odd["I"] else "IOB2"), []
    scheme, few = ("IOB2", odd["I"]) if len(odd["B"]) >= len(odd["I"]) else ("IOB1", odd["B"])
    note = (
        f"{source.split} {source.language}: {len(few):,} tags break {scheme}; an entity begins at each, as "
        f"for conlleval (the first: {source.path}, {few[0]})"
    )
    return f"{scheme}, broken", [note]


def entity_types(done: list[WrittenFile]) -> list[str]:
    """All types, in the official order."""
    found = {type_ for one in done for type_ in one.entities}
    return sorted(found, key=lambda type_: (TYPES.index(type_) if type_ in TYPES else len(TYPES), type_))


def table(done: list[WrittenFile]) -> list[str]:
    """Lines with the sentences, words and entities of each file, and with the form that it had."""
    types = entity_types(done)
    heads = "".join(f"{type_:>9}" for type_ in types)
    lines = ["", f"{'split':<6} {'language':<9}{'sentences':>10}{'words':>11}{heads}  read as"]
    for one in done:
        numbers = f"{one.sentences:>10,}{one.words:>11,}" + "".join(f"{one.entities[t]:>9,}" for t in types)
        lines.append(f"{one.source.split:<6} {one.source.language:<9}{numbers}  {one.form}")
    return [*lines, ""]


if __name__ == "__main__":
    run(main)
