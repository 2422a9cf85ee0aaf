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
from collections.abc import Mapping
from functools import partial
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.data.prepare_xnli import convert
from scripts.data.sources import DataSet, prepare, source_parser
from utils.errors import run

LABELS = {"0": "0", "1": "1"}  # 1: a paraphrase
PAWSX = DataSet(
    output="data/pawsx",
    languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
    names=(
        r"(?P<split>train|dev|test)-(?P<language>[a-z]{2})\.tsv",
        r"(?P<language>[a-z]{2})/(?P<split>train|translated_train|dev_2k|test_2k)\.tsv",
    ),
    examples="de/test_2k.tsv, test-de.tsv",
)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, PAWSX.output).parse_args(arguments)
    convert_pairs = partial(convert, labels=LABELS, fault=_not_translated, numbered=True)
    prepare(PAWSX, options, convert_pairs, lambda _: LABELS)


def _not_translated(row: Mapping[str, str], split: str) -> str | None:
    # The public files have "NS" in place of some pairs, which count in dev and test, as in XTREME.
    missing = split == "train" and not {row["text_a"], row["text_b"]}.isdisjoint({"", "NS"})
    return "not translated" if missing else None


if __name__ == "__main__":
    run(main)
