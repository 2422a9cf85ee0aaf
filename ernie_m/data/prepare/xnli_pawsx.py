"""XNLI and PAWS-X: pairs of texts with a label."""

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ernie_m.data.prepare.data_set import LANGUAGE, SPLIT, DataFile, DataSet, Prepared
from ernie_m.reader.files.official_tsv import decode, has_quotes, say_quoted, split_cells
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_bytes

COLUMNS = ("text_a", "text_b", "label")
# Columns in the releases -> their names here; of two, the later is read.
ALIASES = {
    "premise": "text_a",
    "sentence1": "text_a",
    "hypo": "text_b",
    "sentence2": "text_b",
    "label": "label",
    "gold_label": "label",
    "language": "language",
    "pairID": "qid",
    "id": "qid",
}
NLI = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2


def read_table(path: Path) -> tuple[dict[str, int], int, list[list[str]]]:
    """Read a TSV file of pairs of texts with labels.

    A header names the columns text_a, text_b and label, and perhaps others, by `ALIASES`. A file without a
    header has just these three, in this order.

    Returns:
        the name of a column here -> its place; the number of columns; the cells of each line except the
        header.

    Raises:
        UserError: the file is not UTF-8, or has other columns.
    """
    lines = read_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    rows = [
        split_cells(decode(line, path, number)) for number, line in enumerate(lines, 1) if line.strip(b"\r")
    ]
    first_row = rows[0] if rows else []
    places = {name: first_row.index(alias) for alias, name in ALIASES.items() if alias in first_row}
    if places.keys() >= {*COLUMNS}:  # the first row is a header
        return places, len(first_row), rows[1:]
    if len(first_row) != len(COLUMNS):
        fault = "neither name two texts and a label nor are just these three"
        raise UserError(f"{path}, line 1: {len(first_row)} columns, which {fault}")
    return {name: place for place, name in enumerate(COLUMNS)}, len(COLUMNS), rows


def read_pairs(
    file: DataFile, labels: Mapping[str, str], no_text: Collection[str], with_qid: bool = False
) -> Iterator[Prepared]:
    """Yield the pairs of texts of each language. Rows that cannot be used are left out and counted.

    Args:
        labels: label in the file -> label to write.
        no_text: what stands in place of a text that is missing.
        with_qid: whether rows have a qid, and a row without one gets its number. Otherwise if the file has.

    Raises:
        UserError: the columns are not known, or there is no good row.
    """
    places, width, rows = read_table(file.path)
    columns = [*COLUMNS, "qid"] if with_qid or "qid" in places else list(COLUMNS)
    lines: dict[str, list[str]] = defaultdict(list)  # language -> the rows to write
    label_counts: dict[str, Counter[str]] = defaultdict(Counter)  # language -> label -> number of rows
    dropped: Counter[str] = Counter()  # reason -> number of rows
    for number, cells in enumerate(rows, 1):
        row = {"qid": str(number), "language": file.language or ""}
        if len(cells) == width:  # a qid and a language in the file replace these two
            row |= {name: cells[place].replace("\r", " ").strip() for name, place in places.items()}
        if len(cells) != width or not re.fullmatch("[a-z]{2,3}", row["language"]):
            dropped["malformed"] += 1
        elif row["label"] not in labels:
            dropped[f"with the label '{row['label'][:30]}'"] += 1
        elif row["text_a"] in no_text or row["text_b"] in no_text:
            dropped["without a text"] += 1
        else:
            row["label"] = labels[row["label"]]
            lines[row["language"]].append("\t".join(row[name] for name in columns))
            label_counts[row["language"]][row["label"]] += 1
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    if not lines:
        raise UserError(f"{file.path}: no usable row ({reasons or 'the file is empty'})")
    if reasons:
        say(f"left out: {reasons}")
    say_quoted(file.path, sum(map(has_quotes, rows)), len(rows), say)
    label_names = sorted(set(labels.values()))
    for language, of_language in lines.items():
        content = "\n".join(["\t".join(columns), *of_language, ""]).encode()
        counts = {label: label_counts[language][label] for label in label_names}
        yield Prepared(language, content, label_names, counts | {"rows": len(of_language)})


def read_paraphrases(file: DataFile) -> Iterator[Prepared]:
    """The pairs of PAWS-X. Label 1 is a paraphrase.

    In its training files, "NS" stands in place of some texts; in dev and test all rows are used, as in
    XTREME.
    """
    return read_pairs(
        file, {"0": "0", "1": "1"}, no_text={"", "NS"} if file.split == "train" else (), with_qid=True
    )


def read_inferences(file: DataFile) -> Iterator[Prepared]:
    """The pairs of XNLI, whose training files write "contradictory" for contradiction."""
    return read_pairs(file, {**dict(zip(NLI, NLI)), "contradictory": "contradiction"}, no_text={""})


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
