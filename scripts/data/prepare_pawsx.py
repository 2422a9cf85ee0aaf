"""Turn PAWS-X into the layout of the official scripts, ./data/pawsx.

    python scripts/data/prepare_pawsx.py x-final

A source is a folder, looked through with its sub-folders, or a file. A file is known by its name:

    <language>/{train,translated_train,dev_2k,test_2k}.tsv   the public release: id, sentence1, sentence2,
                                                             label, under a header
    {train,dev,test}-<language>.tsv                          sentence1, sentence2, label, no header

Written are train/train.<language>.tsv, train/train.all.tsv (when there are several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/data_layout.md.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a script's own folder is on the path, not the root

from scripts.data.joint_files import place_in, write_joint_files
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("0", "1")  # 1: a paraphrase
LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "zh")  # Table 4
SPLITS = ("train", "dev", "test")
HEADER = "text_a\ttext_b\tlabel\tqid\n"

_PUBLIC = {"train": "train", "translated_train": "train", "dev_2k": "dev", "test_2k": "test"}
_FLAT = re.compile(r"(train|dev|test)-([a-z]{2})\.tsv")

Row = tuple[str, str, str, str]  # text_a, text_b, label, qid


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources that the command line names, and say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", type=Path, help="folders or files")
    parser.add_argument(
        "--output", type=Path, default=Path("data/pawsx"), help="folder to write (data/pawsx)"
    )
    options = parser.parse_args(arguments)

    files = find_files(options.sources)
    for (split, language), path in files.items():
        rows, dropped = good_rows(path, split)
        write_rows(options.output / split / f"{split}.{language}.tsv", rows)
        shown = ", ".join(f"{number} {why}" for why, number in dropped.items())
        print(f"{split:<6} {language:<3} {len(rows):>7,} rows" + (f"; dropped: {shown}" if shown else ""))
    languages = {split: [language for name, language in files if name == split] for split in SPLITS}
    notes = write_joint_files(options.output, languages, LABELS, by_paper, HEADER)
    for note in [*notes, f"written to {options.output}"]:
        print(note)


def find_files(sources: Iterable[Path]) -> dict[tuple[str, str], Path]:
    """(split, language) -> file, training first, languages as in the paper.

    Raises:
        UserError: a source that is not there or has no file of a known name; two files for the same.
    """
    found: dict[tuple[str, str], Path] = {}
    for source in sources:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")
        known = {}
        for path in [source] if source.is_file() else sorted(source.rglob("*.tsv")):
            if match := _FLAT.fullmatch(path.name):
                known[path] = match[1], match[2]
            elif path.stem in _PUBLIC and re.fullmatch("[a-z]{2}", path.parent.name):
                known[path] = _PUBLIC[path.stem], path.parent.name
        if not known:
            raise UserError(f"{source}: no file of a known name there, such as de/test_2k.tsv or test-de.tsv")
        for path, key in known.items():
            if key in found:
                raise UserError(f"{path} and {found[key]} are both {' '.join(key)}; name one of them")
            found[key] = path
    return dict(sorted(found.items(), key=lambda item: (SPLITS.index(item[0][0]), by_paper(item[0][1]))))


def by_paper(language: str) -> tuple[int, str]:
    """Sort key of languages."""
    return place_in(LANGUAGES, language)


def good_rows(path: Path, split: str) -> tuple[list[Row], Counter]:
    """The rows of a file that can be used, and how many cannot, by reason.

    Texts stay as they are. Some pairs were never translated and stand as "NS" in the public files: they count
    in dev and test, as in XTREME, and are left out of training.
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


def read_rows(path: Path) -> Iterator[Row | None]:
    """The rows of a file in either form; None for a malformed one. The qid is the id, or the row's number."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                cells = raw.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8; fetch the file again") from error
            if number == 1 and cells[:3] == ["id", "sentence1", "sentence2"]:
                continue
            if len(cells) == 3:
                cells = [str(number), *cells]
            yield (cells[1].strip(), cells[2].strip(), cells[3], cells[0]) if len(cells) == 4 else None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One file of the official layout."""
    with atomic_file(path, "w", newline="\n") as file:
        file.write(HEADER)
        file.writelines("\t".join(row) + "\n" for row in rows)


if __name__ == "__main__":
    run(main)
