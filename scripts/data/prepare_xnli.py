"""Turn public NLI releases into the layout of the official scripts, ./data/xnli.

    python scripts/data/prepare_xnli.py XNLI-1.0 XNLI-MT-1.0
    python scripts/data/prepare_xnli.py folder-of-plain-tsv --output data/my-nli

A source is a file, or a folder that is looked through with its sub-folders. A file is known by its name:

    xnli.dev.tsv, xnli.test.tsv (.jsonl)      XNLI-1.0: all languages in one file
    multinli.train.<language>.tsv             XNLI-MT-1.0: MultiNLI and its translations
    multinli_1.0_train.txt (.jsonl)           MultiNLI: English training pairs
    [xnli-]{train,dev,test}-<language>.tsv    premise, hypothesis, label, perhaps a header ("." does for "-")

Written are train/train.<language>.tsv, train/train.all.tsv (when there are several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/data_layout.md.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a script's own folder is on the path, not the root

from scripts.data.joint_files import write_joint_files
from scripts.data.nli_sources import ALL, SPLITS, Source, by_paper, find_sources, read_rows
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2
LABEL_NAMES = {**{label: label for label in LABELS}, "contradictory": "contradiction"}
COLUMNS = ("text_a", "text_b", "label")

# (split, language) -> label, or reason why not -> rows
Counts = dict[tuple[str, str], Counter]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources that the command line names, and print a table of what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, help="folders or files; of two for the same, the first counts"
    )
    parser.add_argument("--output", type=Path, default=Path("data/xnli"), help="folder to write (data/xnli)")
    options = parser.parse_args(arguments)

    kept: Counts = {}
    dropped: Counts = defaultdict(Counter)
    for source in find_sources(options.sources, options.output):
        print(f"reading {source.path}", flush=True)
        kept.update(convert(source, options.output, dropped))
    languages = {split: sorted((key[1] for key in kept if key[0] == split), key=by_paper) for split in SPLITS}
    header = "\t".join(COLUMNS) + "\n"
    notes = write_joint_files(options.output, languages, LABELS, by_paper, header, without_further_columns)
    print(table(kept, dropped))
    for note in [*notes, f"written to {options.output}"]:
        print(note)


def convert(source: Source, output: Path, dropped: Counts) -> Counts:
    """Write the good rows of one file, a file per language; all of them appear when the last row is read.

    Args:
        dropped: is added to.

    Returns:
        the rows written.

    Raises:
        UserError: what `read_rows` raises, or there is no good row.
    """
    kept: Counts = {}
    faults: Counts = defaultdict(Counter)
    with ExitStack() as stack:
        files = {}
        for row in read_rows(source.path):
            language = (row or {}).get("language", "?") if source.language == ALL else source.language
            key = source.split, language
            if fault := _fault(row, language):
                faults[key][fault] += 1
                continue
            columns = (*COLUMNS, "qid") if "qid" in row else COLUMNS
            if key not in kept:
                kept[key] = Counter()
                path = output / source.split / f"{source.split}.{language}.tsv"
                files[key] = stack.enter_context(atomic_file(path, "w", newline="\n"))
                files[key].write("\t".join(columns) + "\n")
            row["label"] = LABEL_NAMES[row["label"]]
            files[key].write("\t".join(row[name] for name in columns) + "\n")
            kept[key][row["label"]] += 1
        if not kept:
            reasons = "; ".join(_reasons(faults)) or "the file is empty"
            raise UserError(f"{source.path}: no usable row ({reasons})")
    dropped.update(faults)
    return kept


def _fault(row: dict[str, str] | None, language: str) -> str | None:
    """Why a row cannot be used."""
    if row is None:
        return "malformed"
    if not re.fullmatch("[a-z]{2,3}", language):
        return "without a language code"
    if row["label"] in ("-", ""):
        return "without a gold label"
    if row["label"] not in LABEL_NAMES:
        return f"with the unknown label '{row['label'][:30]}'"
    if not row["text_a"] or not row["text_b"]:
        return "with an empty text"
    return None


def without_further_columns(line: str) -> str:
    """Translations have no `qid`, so the file of all languages has none either."""
    return "\t".join(line.rstrip("\n").split("\t")[: len(COLUMNS)]) + "\n"


def table(kept: Counts, dropped: Counts) -> str:
    """Rows per split, language and label, and why rows were left out."""
    lines = [
        f"{'split':<6} {'language':<9}"
        + "".join(f"{label:>14}" for label in LABELS)
        + f"{'rows':>10}{'dropped':>9}"
    ]
    for split, language in kept:
        count = kept[split, language]
        numbers = "".join(f"{count[label]:>14,}" for label in LABELS)
        lost = sum(dropped.get((split, language), {}).values())
        lines.append(f"{split:<6} {language:<9}{numbers}{sum(count.values()):>10,}{lost:>9,}")
    return "\n".join(["", *lines, *(f"dropped from {reason}" for reason in _reasons(dropped)), ""])


def _reasons(faults: Counts) -> list[str]:
    return [
        f"{split} {language}: {number:,} {fault}"
        for (split, language), counts in faults.items()
        for fault, number in counts.most_common()
    ]


if __name__ == "__main__":
    run(main)
