"""Turn PAWS-X into the layout of the official scripts, ./data/pawsx.

    python scripts/data/prepare_pawsx.py x-final

A source is a folder, searched with its sub-folders, or a file. The name of a file says what it holds:

    <language>/{train,translated_train,dev_2k,test_2k}.tsv   the public release: id, sentence1, sentence2,
                                                             label, under a header
    {train,dev,test}-<language>.tsv                          sentence1, sentence2, label, no header

The script writes train/train.<language>.tsv, train/train.all.tsv (for several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/data_layout.md.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.data.sources import by_split, find_files, read_lines, source_parser, write_joint_files
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("0", "1")  # 1: a paraphrase
LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "zh")  # the order of the paper's Table 4
HEADER = "text_a\ttext_b\tlabel\tqid\n"
KNOWN = "de/test_2k.tsv, test-de.tsv, ...; --help lists them); rename it or name another folder"

_PUBLIC = {"train": "train", "translated_train": "train", "dev_2k": "dev", "test_2k": "test"}
_FLAT = re.compile(r"(train|dev|test)-([a-z]{2})\.tsv")

PawsRow = tuple[str, str, str, str]  # text_a, text_b, label, qid


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print what was written."""
    options = source_parser(__doc__, "data/pawsx").parse_args(arguments)
    files = find_files(options.sources, recognise, LANGUAGES, KNOWN)
    for path, split, language in files:
        rows, dropped = good_rows(path, split)
        write_rows(options.output / split / f"{split}.{language}.tsv", rows)
        shown = ", ".join(f"{number} {why}" for why, number in dropped.items())
        print(f"{split:<6} {language:<3} {len(rows):>7,} rows" + (f"; dropped: {shown}" if shown else ""))
    languages = by_split((file[1:] for file in files), LANGUAGES)
    notes = write_joint_files(options.output, languages, LABELS, LANGUAGES, HEADER)
    print("\n".join([*notes, f"written to {options.output}"]))


def recognise(path: Path) -> tuple[str, str] | None:
    """Split and language of a file."""
    if match := _FLAT.fullmatch(path.name):
        return match[1], match[2]
    if path.suffix == ".tsv" and path.stem in _PUBLIC and re.fullmatch("[a-z]{2}", path.parent.name):
        return _PUBLIC[path.stem], path.parent.name
    return None


def good_rows(path: Path, split: str) -> tuple[list[PawsRow], Counter]:
    """The rows of a file that can be used, and the number of others by reason.

    Texts stay as they are. Some pairs were never translated, and the public files have "NS" in their place:
    they count in dev and test, as in XTREME, and are left out of training.
    """
    rows, dropped = [], Counter()
    for row in read_rows(path):
        if row is None:
            dropped["malformed"] += 1
        elif row[2] not in LABELS:
            dropped["without a label 0 or 1"] += 1
        elif split == "train" and not {row[0], row[1]}.isdisjoint({"", "NS"}):
            dropped["not translated"] += 1
        else:
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: no usable row ({dict(dropped) or 'the file is empty'})")
    return rows, dropped


def read_rows(path: Path) -> Iterator[PawsRow | None]:
    """The rows of a file in either form; None for a malformed one. The qid is the id, or the row's number."""
    for number, line in read_lines(path):
        cells = line.split("\t")
        if number == 1 and cells[:3] == ["id", "sentence1", "sentence2"]:
            continue
        if len(cells) == 3:
            cells = [str(number), *cells]
        yield (cells[1].strip(), cells[2].strip(), cells[3], cells[0]) if len(cells) == 4 else None


def write_rows(path: Path, rows: Iterable[PawsRow]) -> None:
    """Write one file of the official layout."""
    with atomic_file(path, "w", newline="\n") as file:
        file.write(HEADER)
        file.writelines("\t".join(row) + "\n" for row in rows)


if __name__ == "__main__":
    run(main)
