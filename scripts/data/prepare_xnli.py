"""Turn public NLI releases into the layout of the official scripts, ./data/xnli.

    python scripts/data/prepare_xnli.py XNLI-1.0 XNLI-MT-1.0
    python scripts/data/prepare_xnli.py folder-of-plain-tsv --output data/my-nli

A source is a file, or a folder that is searched with its sub-folders. The name of a file says what it holds:

    xnli.dev.tsv, xnli.test.tsv (.jsonl)      XNLI-1.0: all languages in one file
    multinli.train.<language>.tsv             XNLI-MT-1.0: MultiNLI and its translations
    multinli_1.0_train.txt (.jsonl)           MultiNLI: English training pairs
    [xnli-]{train,dev,test}-<language>.tsv    premise, hypothesis, label, perhaps a header ("." for "-")

The script writes train/train.<language>.tsv, train/train.all.tsv (for several training languages),
dev/dev.<language>.tsv, test/test.<language>.tsv, label_map.json and lang_map.json. See docs/data_layout.md.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.data.sources import (
    ALL,
    DataFile,
    by_split,
    find_files,
    read_lines,
    source_parser,
    write_joint_files,
)
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2
LABEL_NAMES = {**{label: label for label in LABELS}, "contradictory": "contradiction"}
COLUMNS = ("text_a", "text_b", "label")
# The order of the paper's tables.
LANGUAGES = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur")
KNOWN = (
    "xnli.dev.tsv, multinli.train.<language>.tsv, train-<language>.tsv, ...; --help lists them); rename it "
    "or name another folder"
)
ALIASES = {
    "text_a": ("text_a", "premise", "sentence1"),
    "text_b": ("text_b", "hypothesis", "hypo", "sentence2"),
    "label": ("label", "gold_label"),
    "language": ("language",),
    "qid": ("qid", "pairID"),
}

_BY_LANGUAGE = re.compile(r"(?:(?:xnli|multinli)[-._])?(train|dev|valid|test)[-._](?!all\.)([a-z]{2,3})\.tsv")
_MIXED = re.compile(r"xnli\.(dev|test)\.(?:tsv|jsonl)")
_MULTINLI = re.compile(r"multinli_1\.0_train\.(?:txt|jsonl)")

# (split, language) -> label, or reason to drop a row -> rows
Counts = dict[tuple[str, str], Counter]


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, "data/xnli").parse_args(arguments)
    kept: Counts = {}
    dropped: Counts = defaultdict(Counter)
    for source in find_files(options.sources, recognise, LANGUAGES, KNOWN, options.output):
        print(f"reading {source.path}", flush=True)
        kept.update(convert(source, options.output, dropped))
    languages, header = by_split(kept, LANGUAGES), "\t".join(COLUMNS) + "\n"
    notes = write_joint_files(options.output, languages, LABELS, LANGUAGES, header)
    print("\n".join([*table(kept, dropped), *notes, f"written to {options.output}"]))


def recognise(path: Path) -> tuple[str, str] | None:
    """Split and language of a file."""
    if path.parent.name == "xnli" and (path.parent.parent / "multinli").is_dir():
        return None  # XNLI-MT-1.0/xnli: dev and test of other languages, translated into English by a machine
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return match[1].replace("valid", "dev"), match[2]
    if match := _MIXED.fullmatch(path.name):
        return match[1], ALL
    return ("train", "en") if _MULTINLI.fullmatch(path.name) else None


def convert(source: DataFile, output: Path, dropped: Counts) -> Counts:
    """Write the good rows of one file, a file for each language. They appear when the last row is read.

    Args:
        dropped: receives the number of rows that cannot be used.

    Returns:
        The number of rows written.

    Raises:
        UserError: `read_rows` raises it, or there is no good row.
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


def read_rows(path: Path) -> Iterator[dict[str, str] | None]:
    """Rows as text_a, text_b, label and, if the file has them, language and qid; None for a malformed row.

    Tabs and line ends inside a text become spaces, and white space at its ends is removed.

    Raises:
        UserError: bad UTF-8, bad JSON, or columns that are not known.
    """
    header: list[str] | None = None
    for number, line in read_lines(path):
        if not line:
            continue
        if path.suffix == ".jsonl":
            row = _named(_json(line, path, number))
            yield row if row.keys() >= {*COLUMNS} else None
            continue
        cells = line.split("\t")
        if header is None:
            if _named(dict.fromkeys(cells, "")).keys() >= {*COLUMNS}:
                header = cells
                continue
            header = list(COLUMNS)
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line 1: {len(cells)} columns that are neither a header naming premise, "
                    "hypothesis and label nor a row of just these three"
                )
        yield _named(dict(zip(header, cells))) if len(cells) == len(header) else None


def _json(line: str, path: Path, number: int) -> dict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error.msg}); fetch the file again") from error
    return value if isinstance(value, dict) else {}


def _named(cells: dict) -> dict[str, str]:
    """The cells under our names of the columns."""
    found = {
        name: next((alias for alias in aliases if alias in cells), None) for name, aliases in ALIASES.items()
    }
    return {
        name: re.sub(r"[\t\r\n]+", " ", str(cells[alias])).strip() for name, alias in found.items() if alias
    }


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
    return None if row["text_a"] and row["text_b"] else "with an empty text"


def table(kept: Counts, dropped: Counts) -> list[str]:
    """Lines with the rows of each split, language and label, and with the reasons for dropped rows."""
    heads = "".join(f"{label:>14}" for label in LABELS)
    lines = ["", f"{'split':<6} {'language':<9}{heads}{'rows':>10}{'dropped':>9}"]
    for (split, language), count in kept.items():
        numbers = "".join(f"{count[label]:>14,}" for label in LABELS)
        lost = sum(dropped.get((split, language), {}).values())
        lines.append(f"{split:<6} {language:<9}{numbers}{sum(count.values()):>10,}{lost:>9,}")
    return [*lines, *(f"dropped from {reason}" for reason in _reasons(dropped)), ""]


def _reasons(faults: Counts) -> list[str]:
    return [
        f"{split} {language}: {number:,} {fault}"
        for (split, language), counts in faults.items()
        for fault, number in counts.most_common()
    ]


if __name__ == "__main__":
    run(main)
