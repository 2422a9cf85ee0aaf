"""Turn PAWS-X into the layout of the official scripts, ./data/pawsx.

    python scripts/data/prepare_pawsx.py x-final

A source is a folder, searched with its sub-folders, or a file. The name of a file says what it holds:

    <language>/{train,translated_train,dev_2k,test_2k}.tsv   the public release: id, sentence1, sentence2,
                                                             label, under a header
    {train,dev,test}-<language>.tsv                          sentence1, sentence2, label, no header

The script writes train/train.<language>.tsv, train/train.all.tsv (for several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/data_layout.md.
"""

import sys
from collections import Counter
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.data.prepare_xnli import read_pairs
from scripts.data.sources import DataFile, DataSet, Written, prepare, source_parser
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("0", "1")  # 1: a paraphrase
COLUMNS = ("text_a", "text_b", "label", "qid")
PAWSX = DataSet(
    output="data/pawsx",
    languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
    names={
        r"(?P<split>train|dev|test)-(?P<language>[a-z]{2})\.tsv": (None, None),
        r"(?P<language>[a-z]{2})/(?P<split>train|translated_train|dev_2k|test_2k)\.tsv": (None, None),
    },
    examples="de/test_2k.tsv, test-de.tsv",
)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, PAWSX.output).parse_args(arguments)
    prepare(PAWSX, options, convert, lambda _: LABELS)


def convert(source: DataFile, output: Path) -> list[Written]:
    """Write the rows of a file that can be used. The qid is the id, or the row's number.

    Some pairs were never translated, and the public files have "NS" in their place: they count in dev and
    test, as in XTREME, and are left out of training.

    Raises:
        UserError: `read_pairs` raises it, or there is no usable row.
    """
    rows, dropped = [], Counter()
    for number, row in enumerate(read_pairs(source.path), 1):
        if row is None:
            dropped["malformed"] += 1
        elif row["label"] not in LABELS:
            dropped["without a label 0 or 1"] += 1
        elif source.split == "train" and not {row["text_a"], row["text_b"]}.isdisjoint({"", "NS"}):
            dropped["not translated"] += 1
        else:
            rows.append("\t".join(({"qid": str(number)} | row)[name] for name in COLUMNS) + "\n")
    if not rows:
        raise UserError(f"{source.path}: no usable row ({dict(dropped) or 'the file is empty'})")
    path = output / source.split / f"{source.split}.{source.language}.tsv"
    with atomic_file(path, "w", newline="\n") as file:
        file.writelines(["\t".join(COLUMNS) + "\n", *rows])
    cells = {"rows": len(rows), **dropped}
    return [Written(source.split, source.language, cells)]


if __name__ == "__main__":
    run(main)
