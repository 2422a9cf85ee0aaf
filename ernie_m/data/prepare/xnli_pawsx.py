"""XNLI and PAWS-X: pairs of texts with a label."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ernie_m.data.prepare.data_set import LANGUAGE, SPLIT, DataFile, DataSet, Prepared, read_lines
from ernie_m.reader.files.official_tsv import has_quotes, say_quoted
from ernie_m.utils.errors import UserError, say

COLUMNS = ("text_a", "text_b", "label")
# Columns here -> their names in the releases; of two, the later is read.
ALIASES = {
    "text_a": ("premise", "sentence1"),
    "text_b": ("hypo", "sentence2"),
    "label": ("label", "gold_label"),
    "language": ("language",),
    "qid": ("pairID", "id"),
}
NLI = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2


class PairTable(NamedTuple):
    """A TSV file.

    Attributes:
        places: the name of a column in `ALIASES` -> its place.
        width: the number of all columns.
        rows: the cells of each line except the header.
    """

    places: Mapping[str, int]
    width: int
    rows: list[list[str]]


def read_table(path: Path) -> PairTable:
    """Read a file of pairs of texts with labels.

    A header names the columns text_a, text_b and label, and perhaps others, by one of `ALIASES`. A file
    without a header has just these three, in this order.

    Raises:
        UserError: the file is not UTF-8, or has other columns.
    """
    rows = [line.split("\t") for line in read_lines(path) if line]
    first_row = rows[0] if rows else []
    width = len(first_row)
    places = {}
    for name, aliases in ALIASES.items():
        for alias in aliases:
            if alias in first_row:
                places[name] = first_row.index(alias)
    if all(name in places for name in COLUMNS):  # the first row is a header
        return PairTable(places, width, rows[1:])
    if width != len(COLUMNS):
        fault = "neither name two texts and a label nor are just these three"
        raise UserError(f"{path}, line 1: {width} columns, which {fault}")
    places = {name: place for place, name in enumerate(COLUMNS)}
    return PairTable(places, width, rows)


def read_pairs(file: DataFile, labels: Mapping[str, str], paraphrases: bool = False) -> Iterator[Prepared]:
    """Yield the pairs of texts of each language. Rows that cannot be used are left out and counted.

    Args:
        labels: label in the file -> label to write.
        paraphrases: whether this is PAWS-X. A row without a qid gets its number. In its training files, "NS"
            stands in place of some texts; in dev and test all rows are used, as in XTREME.

    Raises:
        UserError: the columns are not known, or there is no good row.
    """
    table = read_table(file.path)
    columns = list(COLUMNS)
    if paraphrases or "qid" in table.places:
        columns.append("qid")
    if not paraphrases:  # what stands in place of a text that is missing
        no_text = {""}
    elif file.split == "train":
        no_text = {"", "NS"}
    else:
        no_text = set()
    lines: dict[str, list[str]] = defaultdict(list)  # language -> the rows to write
    label_counts: dict[str, Counter[str]] = defaultdict(Counter)  # language -> label -> number of rows
    dropped: Counter[str] = Counter()  # reason -> number of rows
    for number, cells in enumerate(table.rows, 1):
        if len(cells) != table.width:
            dropped["malformed"] += 1
            continue
        row = {"qid": str(number), "language": file.language or ""}
        for name, place in table.places.items():  # a qid and a language in the file replace these two
            row[name] = cells[place].replace("\r", " ").strip()
        fault = fault_of_row(row, labels, no_text)
        if fault:
            dropped[fault] += 1
            continue
        row["label"] = labels[row["label"]]
        lines[row["language"]].append("\t".join(row[name] for name in columns))
        label_counts[row["language"]][row["label"]] += 1
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    if not lines:
        raise UserError(f"{file.path}: no usable row ({reasons or 'the file is empty'})")
    if reasons:
        say(f"left out: {reasons}")
    say_quoted(file.path, sum(map(has_quotes, table.rows)), len(table.rows), say)
    label_names = sorted(set(labels.values()))
    for language, rows in lines.items():
        content = "\n".join(["\t".join(columns), *rows, ""]).encode()
        counts = {label: label_counts[language][label] for label in label_names}
        yield Prepared(language, content, label_names, counts | {"rows": len(rows)})


def fault_of_row(row: Mapping[str, str], labels: Iterable[str], no_text: set[str]) -> str:
    """Why a row cannot be used, or "". `no_text`: what stands in place of a text that is missing."""
    if not re.fullmatch("[a-z]{2,3}", row["language"]):
        return "malformed"
    if row["label"] not in labels:
        return f"with the label '{row['label'][:30]}'"
    if row["text_a"] in no_text or row["text_b"] in no_text:
        return "without a text"
    return ""


def read_paraphrases(file: DataFile) -> Iterator[Prepared]:
    """The pairs of PAWS-X. Label 1 is a paraphrase."""
    return read_pairs(file, labels={"0": "0", "1": "1"}, paraphrases=True)


def read_inferences(file: DataFile) -> Iterator[Prepared]:
    """The pairs of XNLI, whose training files write "contradictory" for contradiction."""
    labels = {label: label for label in NLI}
    labels["contradictory"] = "contradiction"
    return read_pairs(file, labels)


XNLI = DataSet(
    languages=("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"),
    names=(
        r"xnli\.(?P<split>dev|test)\.tsv",
        rf"multinli\.(?P<split>train)\.{LANGUAGE}\.tsv",
        rf"(?:xnli-)?{SPLIT}[.-]{LANGUAGE}\.tsv",
    ),
    read=read_inferences,
)
PAWSX = DataSet(
    languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
    names=(
        rf"{LANGUAGE}/(?P<split>train|translated_train|dev_2k|test_2k)\.tsv",
        rf"{SPLIT}[.-]{LANGUAGE}\.tsv",
    ),
    read=read_paraphrases,
)
