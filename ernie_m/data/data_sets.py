"""Public data sets: their file names, and conversion to the official formats.

XNLI and PAWS-X are labeled pairs of texts; CoNLL and PAN-X are words with entity tags; MLQA, SQuAD and XQuAD
are questions about contexts.
"""

import codecs
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.find_files import LANGUAGE, SPLIT, SPLITS, NamedFile
from ernie_m.reader.files.official_tsv import decode_line, has_quotes, log_quoted_rows, split_cells
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tag_schemes import ENTITIES, JOINT, find_entities, make_tag_names, to_iob2
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_bytes
from ernie_m.utils.languages import language_tag

WRITTEN = (*SPLITS, "xquad")  # xquad: additional test questions
# Names in the released files -> names in this project.
RENAMED = {
    "testa": "dev",
    "testb": "test",
    "translated_train": "train",
    "dev_2k": "dev",
    "test_2k": "test",
    "eng": "en",
    "deu": "de",
    "esp": "es",
    "ned": "nl",
}


class ConvertedFile(NamedTuple):
    """The converted content of a file, or of one language in a file.

    Attributes:
        language: the language code.
        content: the content of the output file.
        labels: the labels of the rows; () for questions.
        counts: column of the printed table, such as "rows" -> its value.
    """

    language: str
    content: bytes
    labels: Sequence[str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DataSet:
    """The file names and formats of a public data set."""

    languages: Sequence[str]  # in the order of the paper's tables, then alphabetically
    names: Sequence[str]  # patterns for `parse_file_name`
    read: Callable[[NamedFile, TableOptions], Iterable[ConvertedFile]]
    label_names: Callable[[set[str]], Sequence[str]] = sorted  # all labels -> ordered by id
    ending: str = "tsv"

    def sort_key(self, key: tuple[str, str]) -> tuple[int, int, str]:
        """Return the key by which a (split, language) is sorted in the printed table."""
        split, language = key
        # Unlisted languages come last.
        return WRITTEN.index(split), [*self.languages, language].index(language), language


COLUMNS = ("text_a", "text_b", "label")
# Columns in the releases -> their names here; of two, the later is used.
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
    """Read a TSV file of labeled pairs of texts from a public data set.

    A header contains names for text_a, text_b and label, and possibly others, in `ALIASES`. A file without a
    header has exactly these three columns, in this order.

    Returns:
        Column name -> its index; the number of columns; and the cells of each row.

    Raises:
        UserError: the file is not UTF-8, or has unknown columns.
    """
    lines = read_bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    rows = [
        split_cells(decode_line(line, path, number))
        for number, line in enumerate(lines, 1)
        if line.strip(b"\r")
    ]
    first_row = rows[0] if rows else []
    columns = {name: first_row.index(alias) for alias, name in ALIASES.items() if alias in first_row}
    if columns.keys() >= {*COLUMNS}:  # the first row is a header
        return columns, len(first_row), rows[1:]
    if len(first_row) != len(COLUMNS):
        raise UserError(
            f"{path}, line 1: {len(first_row)} columns (expected a header that names two text columns "
            "and a label column, or exactly three columns: two texts and a label). XTREME's test files have "
            "no labels: pass the files of the release instead"
        )
    return {name: column for column, name in enumerate(COLUMNS)}, len(COLUMNS), rows


def read_pairs(
    file: NamedFile, labels: Mapping[str, str], missing_placeholders: Collection[str], add_qid: bool = False
) -> Iterator[ConvertedFile]:
    """Convert a file of labeled pairs of texts, and yield the content for each language.

    Unusable rows are dropped, and their number is printed.

    Args:
        labels: label in the file -> label in the output.
        missing_placeholders: placeholders for missing texts.
        add_qid: whether to write the row number as qid if the file has no qid.

    Raises:
        UserError: the columns are unknown, or no row is usable.
    """
    indices, width, rows = read_table(file.path)
    columns = [*COLUMNS, "qid"] if add_qid or "qid" in indices else list(COLUMNS)
    used: dict[str, list[tuple[str, str]]] = defaultdict(list)  # language -> label and line of each row
    dropped: Counter[str] = Counter()  # reason -> number of rows
    for number, cells in enumerate(rows, 1):
        row = {"qid": str(number), "language": file.language or ""}
        if len(cells) == width:  # a qid and a language in the file replace these two
            row |= {name: cells[column].replace("\r", " ").strip() for name, column in indices.items()}
        row["language"] = language_tag(row["language"])
        if len(cells) != width or not row["language"]:
            dropped["malformed"] += 1
        elif row["label"] not in labels:
            dropped[f"with the label '{row['label'][:30]}'"] += 1
        elif row["text_a"] in missing_placeholders or row["text_b"] in missing_placeholders:
            dropped["without a text"] += 1
        else:
            row["label"] = labels[row["label"]]
            used[row["language"]].append((row["label"], "\t".join(row[name] for name in columns)))
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    if not used:
        raise UserError(f"{file.path}: no usable row ({reasons or 'the file is empty'})")
    if reasons:
        say(f"dropped: {reasons}")
    log_quoted_rows(file.path, sum(map(has_quotes, rows)), len(rows), say)
    label_names = sorted(set(labels.values()))
    for language, rows_of_language in used.items():
        of_labels, lines = zip(*rows_of_language)
        counts = {**dict.fromkeys(label_names, 0), **Counter(of_labels), "rows": len(lines)}
        content = "\n".join(["\t".join(columns), *lines, ""]).encode()
        yield ConvertedFile(language, content, label_names, counts)


def read_paraphrases(file: NamedFile, _: TableOptions) -> Iterator[ConvertedFile]:
    """Convert a PAWS-X file, in which label 1 means paraphrase.

    In training files, rows with the placeholder "NS" are dropped; in dev and test files, all rows are used,
    as in XTREME.
    """
    return read_pairs(
        file,
        {"0": "0", "1": "1"},
        missing_placeholders={"", "NS"} if file.split == "train" else (),
        add_qid=True,
    )


def read_nli(file: NamedFile, _: TableOptions) -> Iterator[ConvertedFile]:
    """Convert an XNLI file; the label "contradictory" of the training files becomes "contradiction"."""
    return read_pairs(
        file, {**dict(zip(NLI, NLI)), "contradictory": "contradiction"}, missing_placeholders={""}
    )


def read_tags(file: NamedFile, options: TableOptions) -> Iterator[ConvertedFile]:
    """Convert a file of words with entity tags to the official format, with tags in IOB2.

    Raises:
        UserError: see `read_tagged_words`.
    """
    types: Counter[str] = Counter()  # type -> number of its entities
    counts: Counter[str] = Counter()  # column of the printed table -> number
    output_lines = ["text_a\tlabel"]
    for sentence in read_tagged_words(file.path, make_tag_names(ENTITIES), options):
        iob2 = to_iob2(sentence.tags)
        types.update(type_ for type_, _first, _last in find_entities(iob2))
        counts["sentences"] += 1
        counts["words"] += len(sentence.words)
        counts["tags rewritten"] += sum(old != new for old, new in zip(sentence.tags, iob2))
        output_lines.append(f"{JOINT.join(sentence.words)}\t{JOINT.join(iob2)}")
    in_order = [tag[2:] for tag in make_tag_names(types) if tag.startswith("B-")]
    counts_by_type = {type_: types[type_] for type_ in in_order}
    yield ConvertedFile(
        file.language, "\n".join([*output_lines, ""]).encode(), in_order, counts_by_type | counts
    )


def read_questions(file: NamedFile, _: TableOptions) -> Iterator[ConvertedFile]:
    """Validate a file in SQuAD format, and yield its content unchanged.

    Raises:
        UserError: see `read_squad`.
    """
    # Ids may repeat in training files; in dev and test every answer needs a unique one.
    content = read_squad(file.path, purpose="train" if file.split == "train" else "dev")
    unanswered = sum(question.span is None for question in content.questions)
    counts = {"texts": len(content.contexts), "questions": len(content.questions), "unanswered": unanswered}
    yield ConvertedFile(file.language or "en", file.path.read_bytes(), (), counts)


XNLI = DataSet(
    languages=("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"),
    names=(
        r"xnli\.(?P<split>dev|test)\.tsv",
        rf"multinli\.(?P<split>train)\.{LANGUAGE}\.tsv",
        rf"(?:xnli-)?{SPLIT}[.-]{LANGUAGE}\.tsv",
    ),
    read=read_nli,
)
PAWSX = DataSet(
    languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
    names=(
        rf"{LANGUAGE}/(?P<split>train|translated_train|dev_2k|test_2k)\.tsv",
        rf"{SPLIT}[.-]{LANGUAGE}\.tsv",
    ),
    read=read_paraphrases,
)
TAGGED = DataSet(
    languages=("en", "nl", "es", "de"),
    names=(
        r"(?P<language>eng|deu|esp|ned)\.(?P<split>train|testa|testb)",
        rf"{SPLIT}[.-]{LANGUAGE}\.(?:tsv|txt)",
        rf"{LANGUAGE}/{SPLIT}(?:\.(?:tsv|txt|conll))?",
    ),
    read=read_tags,
    label_names=make_tag_names,
)
MLQA = DataSet(
    languages=("en", "es", "de", "ar", "hi", "vi", "zh"),
    names=(
        rf"(?P<split>dev|test)-context-{LANGUAGE}-question-(?P=language)\.json",
        rf"{SPLIT}[.-]{LANGUAGE}(?:[.-].*)?\.json",
        rf"(?P<split>xquad)\.{LANGUAGE}\.json",
        r"(?P<split>train)-v1\.1\.json",
        r"(?P<split>train|dev)-v2\.0\.json",
    ),
    read=read_questions,
    ending="json",
)
DATA_SETS = {"xnli": XNLI, "pawsx": PAWSX, "conll": TAGGED, "panx": TAGGED, "mlqa": MLQA}
