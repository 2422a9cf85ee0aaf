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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.data.sources import ALL, DataFile, DataSet, WrittenFile, prepare, read_lines, source_parser
from utils.errors import UserError, run
from utils.files import atomic_file

LABELS = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2
LABEL_NAMES = {**{label: label for label in LABELS}, "contradictory": "contradiction"}
COLUMNS = ("text_a", "text_b", "label")
ALIASES = {
    "text_a": ("text_a", "premise", "sentence1"),
    "text_b": ("text_b", "hypothesis", "hypo", "sentence2"),
    "label": ("label", "gold_label"),
    "language": ("language",),
    "qid": ("qid", "pairID", "id"),
}


def _translated_by_machine(path: Path) -> bool:
    """XNLI-MT-1.0/xnli: dev and test of other languages, translated into English."""
    return path.parent.name == "xnli" and (path.parent.parent / "multinli").is_dir()


XNLI = DataSet(
    output="data/xnli",
    languages=("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"),
    names=(
        r"(?:(?:xnli|multinli)[-._])?(?P<split>train|dev|valid|test)[-._](?!all\.)(?P<language>[a-z]{2,3})"
        r"\.tsv",
        r"xnli\.(?P<split>dev|test)\.(?:tsv|jsonl)",
        r"multinli_1\.0_train\.(?:txt|jsonl)",
    ),
    examples="xnli.dev.tsv, multinli.train.<language>.tsv, train-<language>.tsv",
    skips=_translated_by_machine,
)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, XNLI.output).parse_args(arguments)
    prepare(XNLI, options, convert, lambda _: LABELS)


def _empty(row: Mapping[str, str], _) -> str | None:
    return None if row["text_a"] and row["text_b"] else "with an empty text"


def convert(
    source: DataFile,
    output: Path,
    labels: Mapping[str, str] = LABEL_NAMES,
    fault: Callable[[Mapping[str, str], str], str | None] = _empty,
    numbered: bool = False,
) -> list[WrittenFile]:
    """Write the good rows of one file, a file for each language. They appear when the last row is read.

    Args:
        labels: label in the file -> label to write.
        fault: why the texts of a row cannot be used in a split.
        numbered: give a row without a qid its number as the qid.

    Raises:
        UserError: `read_pairs` raises it, or there is no good row.
    """
    kept: dict[str, Counter] = defaultdict(Counter)  # language -> label -> rows
    dropped: dict[str, Counter] = defaultdict(Counter)  # language -> reason -> rows
    with ExitStack() as stack:
        files = {}
        for number, row in enumerate(read_pairs(source.path), 1):
            row = {"label": "", "language": "?"} if row is None else row
            language = row.get("language", "?") if source.language == ALL else source.language
            label = row["label"]
            if "text_a" not in row:
                why = "malformed"
            elif not re.fullmatch("[a-z]{2,3}", language):
                why = "without a language code"
            elif label not in labels:
                why = (
                    "without a gold label" if label in ("-", "") else f"with the unknown label '{label[:30]}'"
                )
            else:
                why = fault(row, source.split)
            if why:
                dropped[language][why] += 1
                continue
            row = ({"qid": str(number)} if numbered else {}) | row | {"label": labels[label]}
            columns = (*COLUMNS, "qid") if "qid" in row else COLUMNS
            if language not in files:
                path = output / source.split / f"{source.split}.{language}.tsv"
                files[language] = stack.enter_context(atomic_file(path, "w", newline="\n"))
                files[language].write("\t".join(columns) + "\n")
            files[language].write("\t".join(row[name] for name in columns) + "\n")
            kept[language][row["label"]] += 1
        notes = [
            f"dropped from {source.split} {language}: {number:,} {why}"
            for language, reasons in dropped.items()
            for why, number in reasons.most_common()
        ]
        if not kept:
            raise UserError(f"{source.path}: no usable row ({'; '.join(notes) or 'the file is empty'})")
    written = []
    for language, found in kept.items():
        cells = {label: found[label] for label in sorted({*labels.values()})}
        cells |= {"rows": found.total(), "dropped": dropped[language].total()}
        written.append(WrittenFile(source.split, language, cells, () if written else notes))
    return written


def read_pairs(path: Path) -> Iterator[dict[str, str] | None]:
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
                    f"{path}, line 1: {len(cells)} columns that are neither a header naming two texts and a "
                    "label nor a row of just these three"
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
    return {
        name: re.sub(r"[\t\r\n]+", " ", str(cells[alias])).strip()
        for name, aliases in ALIASES.items()
        if (alias := next((alias for alias in aliases if alias in cells), None))
    }


if __name__ == "__main__":
    run(main)
