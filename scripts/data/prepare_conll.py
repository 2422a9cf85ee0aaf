"""Turn public tagged text (CoNLL-2002 and 2003, PAN-X) into the layout of the official scripts, ./data/conll.

    python scripts/data/prepare_conll.py conll2003 conll2002
    python scripts/data/prepare_conll.py panx --output data/panx
    python scripts/data/prepare_conll.py train.en=my-train.txt dev.en=my-dev.txt --output data/my-ner

A source is <split>.<language>=FILE, or a file, or a folder that is looked through with its sub-folders. These
files are known by their names:

    {eng,deu,esp,ned}.{train,testa,testb}     CoNLL-2003 and 2002; anything may follow (.gz, .utf8)
    [panx-]{train,dev,test}-<language>.tsv    PAN-X as XTREME has it ("." or "_" does for "-", .txt for .tsv)
    <language>/{train,dev,test}               PAN-X as WikiANN has it, with "en:" before each word

A line is a word, whatever else, and its tag, with spaces or a tab between; blank lines and -DOCSTART- end
sentences. Files are UTF-8, or else ISO-8859-1, and may be packed (.gz). Tags are IOB1 or IOB2 and become
IOB2; what is neither is read as conlleval reads it, and counted. The official form (text_a, label) is read
too.

Written are train/train.<language>.tsv, train/train.all.tsv (when there are several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/ner.md.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a script's own folder is on the path, not the root

from reader.tagging import JOINT, OUTSIDE, entity_starts, to_iob2
from scripts.data.conll_sources import SPLITS, Row, Source, by_paper, find_sources, read_tables
from scripts.data.joint_files import write_joint_files
from utils.errors import UserError, run
from utils.files import atomic_file

TYPES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order
HEADER = "text_a\tlabel\n"


class Written(NamedTuple):
    """What became of one source."""

    source: Source
    sentences: int
    words: int
    entities: Counter  # type -> number
    form: str  # as it was found
    notes: list[str]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources that the command line names, and print a table of what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", help="folders or files; of two for the same, the first counts")
    parser.add_argument(
        "--output", type=Path, default=Path("data/conll"), help="folder to write (data/conll)"
    )
    parser.add_argument("--lower_case", action="store_true", help="words in lower case")
    options = parser.parse_args(arguments)

    done = []
    for source in find_sources(options.sources, options.output):
        print(f"reading {source.path}", flush=True)
        done.append(convert(source, options.output, options.lower_case))
    labels = [f"{part}-{type_}" for type_ in entity_types(done) for part in "BI"] + [OUTSIDE]
    languages = {
        split: [one.source.language for one in done if one.source.split == split] for split in SPLITS
    }
    notes = write_joint_files(options.output, languages, labels, by_paper, HEADER)
    notes.append(f"--num_labels is {len(labels)}")
    print(table(done))
    for note in [*(note for one in done for note in one.notes), *notes, f"written to {options.output}"]:
        print(note)


def convert(source: Source, output: Path, lower_case: bool = False) -> Written:
    """Write one source in the official form.

    Raises:
        UserError: what `read_tables` raises, or there is no sentence.
    """
    tables = read_tables(source)
    empty = sum(not word for row in tables.rows for word in row.words)
    rows = [row for row in map(_without_empty_words, tables.rows) if row.words]
    if not rows:
        raise UserError(f"{source.path}: no sentence in it")
    scheme, notes = _scheme(rows, source)
    if empty:
        notes.append(f"{source.split} {source.language}: {empty:,} lines without a word are left out")
    entities: Counter = Counter()
    with atomic_file(
        output / source.split / f"{source.split}.{source.language}.tsv", "w", newline="\n"
    ) as file:
        file.write(HEADER)
        for row in rows:
            tags = to_iob2(row.tags)
            entities.update(start.tag[2:] for start in entity_starts(tags))
            text = JOINT.join(row.words)
            file.write(f"{text.lower() if lower_case else text}\t{JOINT.join(tags)}\n")
    form = f"{tables.columns} columns, {tables.encoding}, {scheme}"
    return Written(source, len(rows), sum(len(row.words) for row in rows), entities, form, notes)


def _without_empty_words(row: Row) -> Row:
    # U+0002 joins words, a tab parts columns. The tokenizer drops the first and makes a space of the other.
    words = [word.replace(JOINT, "").replace("\t", " ") for word in row.words]
    kept = [(word, tag) for word, tag in zip(words, row.tags) if word]
    return Row(row.line_number, [word for word, _ in kept], [tag for _, tag in kept])


def _scheme(rows: list[Row], source: Source) -> tuple[str, list[str]]:
    """The scheme of the tags, and a note where it is neither."""
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


def entity_types(done: list[Written]) -> list[str]:
    """All types, in the official order."""
    found = {type_ for one in done for type_ in one.entities}
    return sorted(found, key=lambda type_: (TYPES.index(type_) if type_ in TYPES else len(TYPES), type_))


def table(done: list[Written]) -> str:
    """Sentences, words and entities per file, and how it was read."""
    types = entity_types(done)
    lines = [
        f"{'split':<6} {'language':<9}{'sentences':>10}{'words':>11}"
        + "".join(f"{type_:>9}" for type_ in types)
        + "  read as"
    ]
    for one in done:
        numbers = f"{one.sentences:>10,}{one.words:>11,}" + "".join(f"{one.entities[t]:>9,}" for t in types)
        lines.append(f"{one.source.split:<6} {one.source.language:<9}{numbers}  {one.form}")
    return "\n".join(["", *lines, ""])


if __name__ == "__main__":
    run(main)
