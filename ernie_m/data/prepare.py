"""Turn public data sets into the layout of the official scripts, ./data/<task>.

    .venv/bin/ernie-m prepare xnli|pawsx|conll|panx|mlqa|pairs SOURCE

A source is a file, or a folder that is searched with its sub-folders. docs/data.md and docs/tasks.md
list the names of files that are known, and what is written.
"""

import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ernie_m.data.own_pairs import prepare_pairs
from ernie_m.model.conventions import PLACES
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.own_files import files_in
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.files.tagged_sentences import JOINT, read_columns
from ernie_m.reader.label_map import write_places
from ernie_m.reader.tags import OUTSIDE, entity_starts, is_tag, to_iob2
from ernie_m.utils.command_line import command_name, load_config
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file, only_writer_of, read_bytes
from ernie_m.utils.logging import setup_console
from ernie_m.utils.options import option
from ernie_m.utils.text_tables import in_columns

SPLITS = ("train", "dev", "test", "xquad")
# Names in the files of the releases -> names here.
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
COMMENT = re.compile(r"# *id\b|#.*=")  # a line before a sentence in MultiCoNER, or in CoNLL-U
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
ENTITIES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order


class DataFile(NamedTuple):
    """An input file. If its language is None, its rows name their languages."""

    path: Path
    split: str
    language: str | None


class Prepared(NamedTuple):
    """What an input file has of a language.

    Attributes:
        content: the file to write.
        labels: all labels of its rows; () for questions.
        counts: column of the printed table, such as "rows" -> its number.
    """

    language: str
    content: bytes
    labels: Sequence[str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    languages: Sequence[str]  # in the order of the paper's tables; others follow in alphabetical order
    names: Sequence[str]  # patterns of the end of a path, with the groups "split" (train) and "language"
    read: Callable[[DataFile], Iterable[Prepared]]
    label_names: Callable[[set[str]], Sequence[str]] = sorted  # all labels -> in the order of their ids
    ending: str = "tsv"

    def recognise(self, path: Path) -> DataFile | None:
        """The file with the split and the language that its name says; None if the name is not known."""
        for pattern in self.names:
            # A pattern may begin with the name of the folder.
            match = re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}")
            if not match:
                continue
            groups = match.groupdict()
            split = groups.get("split", "train")  # a pattern of training files alone has no such group
            language = groups.get("language")
            split = RENAMED.get(split, split)
            language = RENAMED.get(language, language)
            return DataFile(path, split, language)
        return None

    def place(self, key: tuple[str, str]) -> tuple[int, int, str]:
        """A sort key for (split, language)."""
        split, language = key
        place = len(self.languages)  # a language that is not listed comes after all that are
        if language in self.languages:
            place = self.languages.index(language)
        return SPLITS.index(split), place, language


@dataclass
class PrepareFlags:
    """What to prepare, and where to write it."""

    task: Literal["xnli", "pawsx", "conll", "panx", "mlqa", "pairs"] = option(positional=True)
    """The data set, or your own sentence pairs (pairs)."""

    sources: list[str] = option(positional=True)
    """Files or folders; of two files for the same, the first counts."""

    output: str | None = None
    """The folder to write. Default: data/<task>."""

    model: str | None = None
    """pairs: the model that will be trained on them, whose vocabulary must have their languages."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["own"]:
        raise UserError(
            f"prepare own: own tables need no preparing; {command_name()} run_classifier --train_set "
            f"{shlex.join(words[1:2])} --init_pretraining_params MODEL --checkpoints FOLDER trains on them"
        )
    flags = load_config(PrepareFlags, words, __doc__)
    setup_console()
    output = Path(flags.output or f"data/{flags.task}")
    with only_writer_of(output):
        write_data(flags, output)


def write_data(flags: PrepareFlags, output: Path) -> None:
    """Prepare the sources of the flags, while no other command writes the folder."""
    if flags.task == "pairs":
        prepare_pairs(flags.sources, output, flags.model)
        return
    sources = [Path(source) for source in flags.sources]
    data_set = DATA_SETS[flags.task]
    written: dict[tuple[str, str], Prepared] = {}  # (split, language) -> what was written
    for file in find_files(data_set, sources, output):
        print(f"reading {file.path}", flush=True)
        for prepared in data_set.read(file):
            key = (file.split, prepared.language)
            path = output / file.split / f"{file.split}.{prepared.language}.{data_set.ending}"
            if key in written:
                print(f"not used: {file.split} {prepared.language} is there already")
                continue
            with atomic_file(path) as target:
                target.write(prepared.content)
            written[key] = prepared._replace(content=b"")  # it is on disk
    written = {key: written[key] for key in sorted(written, key=data_set.place)}
    write_maps(data_set, output, written)
    print("", table(written), "", f"written to {output}", sep="\n")


def table(written: Mapping[tuple[str, str], Prepared]) -> str:
    """What was written: a row for each split and language, and a column for each thing that was counted."""
    columns: list[str] = []  # in the order in which they occur
    for prepared in written.values():
        columns += [column for column in prepared.counts if column not in columns]
    rows = [["split", "language", *columns]]
    for (split, language), prepared in written.items():
        counts = [f"{prepared.counts.get(column, 0):,}" for column in columns]
        rows.append([split, language, *counts])
    return in_columns(rows)


def find_files(data_set: DataSet, sources: Iterable[Path], output: Path) -> list[DataFile]:
    """The files in the sources whose names are known. Files below `output` are left out.

    Raises:
        UserError: a source does not exist, or has no such file.
    """
    files = []
    for source in sources:
        files_of_source = []
        for path in files_in(source, output):
            file = data_set.recognise(path)
            if file is not None:
                files_of_source.append(file)
        if not files_of_source:
            raise UserError(
                f"{source}: no file there has a known name; docs/data.md and docs/tasks.md list them"
            )
        files += files_of_source
    return files


def write_maps(data_set: DataSet, output: Path, written: Mapping[tuple[str, str], Prepared]) -> None:
    """Write lang_map.json for dev and test and for XQuAD, label_map.json, and train.all.tsv.

    Args:
        written: (split, language) -> what was written.
    """
    languages: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, language in written:
        languages[split].append(language)
    evaluated = evaluation_languages(languages["dev"], languages["test"])
    if evaluated:
        write_places(output / "lang_map.json", evaluated)
    if set(languages["test"]) - set(evaluated):  # languages without dev files
        write_places(output / "test" / "lang_map.json", languages["test"])
    if languages["xquad"]:
        write_places(output / "xquad" / "lang_map.json", languages["xquad"])
    labels: set[str] = set()
    for prepared in written.values():
        labels.update(prepared.labels)
    if not labels:  # questions have none
        return
    names = data_set.label_names(labels)
    write_places(output / "label_map.json", names)
    print(f"--num_labels is {len(names)}")
    if len(languages["train"]) > 1:
        join_training_files(output / "train", languages["train"])


def evaluation_languages(dev: list[str], test: list[str]) -> list[str]:
    """The languages of lang_map.json: those that have both a dev and a test file.

    If none has both, those that have a dev file, and if none has that, those that have a test file.
    """
    in_both = [language for language in dev if language in test]
    return in_both or dev or test


def join_training_files(folder: Path, languages: Sequence[str]) -> None:
    """Write train.all.tsv: the header of the first language, and the rows of all.

    Some files have a last column, qid, that others do not have. Then it is left out.
    """
    paths = [folder / f"train.{language}.tsv" for language in languages]
    columns_of_files = []
    for path in paths:
        with open(path, "rb") as file:
            columns_of_files.append(len(file.readline().split(b"\t")))
    columns = min(columns_of_files)
    with atomic_file(folder / "train.all.tsv") as joint:
        for number, path in enumerate(paths):
            lines = path.read_bytes().splitlines()
            if number > 0:  # the header of the first language stays
                lines = lines[1:]
            for line in lines:
                cells = line.split(b"\t")[:columns]
                joint.write(b"\t".join(cells) + b"\n")


def read_lines(path: Path, or_latin: bool = False) -> list[str]:
    """The lines of a file without line ends.

    Args:
        or_latin: read a file that is not UTF-8 as ISO-8859-1. Text with accents in ISO-8859-1 is practically
            never valid UTF-8.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not or_latin:
            line = content.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}, line {line}: not UTF-8; fetch or convert the file again") from error
        text = content.decode("iso-8859-1")
    return [line.rstrip("\r") for line in text.split("\n")]


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
    is_header = all(name in places for name in COLUMNS)
    if is_header:
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
        print(f"left out: {reasons}")
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


def read_tags(file: DataFile) -> Iterator[Prepared]:
    """Sentences in IOB2. The first column is the word and the last its tag, read as conlleval reads it.

    Raises:
        UserError: the number of columns changes, a tag is none, or there is no sentence.
    """
    lines = read_lines(file.path, or_latin=True)
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    # Of each sentence, the number of its first line, and the cells of its lines.
    sentences = list(read_columns(lines, file.path, _cells, form))
    for first_line, rows in sentences:
        for line, cells in enumerate(rows, first_line):
            tag = normal_label(cells[-1])
            cells[-1] = PLACES.get(tag[:1], tag[:1]) + tag[1:]
            if not is_tag(cells[-1], "IOBES"):
                raise UserError(
                    f"{file.path}, line {line}: '{tag}' in the last column is not O, nor B-<type> or another "
                    "letter of a scheme; where there are types alone, write I-<type>"
                )
    prefix = prefix_of_words(file, [cells[0] for _, rows in sentences for cells in rows])
    entities: Counter[str] = Counter()  # type -> number
    counts: Counter[str] = Counter()  # column of the printed table -> number
    output_lines = ["text_a\tlabel"]
    for _, rows in sentences:
        words, tags = words_and_tags(rows, prefix)
        if not words:
            continue
        iob2 = to_iob2(tags)
        entities.update(type_ for _, type_ in entity_starts(iob2))
        counts["sentences"] += 1
        counts["words"] += len(words)
        counts["tags rewritten"] += sum(old != new for old, new in zip(tags, iob2))
        output_lines.append(f"{JOINT.join(words)}\t{JOINT.join(iob2)}")
    if not counts:
        raise UserError(f"{file.path}: no sentence in it")
    types = sorted(entities, key=_place_of_type)
    entity_counts = {type_: entities[type_] for type_ in types}
    content = "\n".join([*output_lines, ""]).encode()
    yield Prepared(file.language, content, types, {**entity_counts, **counts})


def prefix_of_words(file: DataFile, words: Sequence[str]) -> str:
    """What stands before each word of a file: "de:" in WikiANN, and "" in CoNLL."""
    prefix = f"{file.language}:"
    without = sum(not word.startswith(prefix) for word in words)
    if 2 * without > len(words):
        return ""
    if without:
        print(f"{file.path}: {without:,} of {len(words):,} words are without the prefix {prefix}")
    return prefix


def words_and_tags(rows: Iterable[Sequence[str]], prefix: str) -> tuple[list[str], list[str]]:
    """The words of a sentence without the prefix, and their tags; rows without a word are left out.

    Args:
        rows: the cells of each line, of which the first is the word and the last its tag.
    """
    words = []
    tags = []
    for word, *_, tag in rows:
        # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other
        # as a space.
        word = word.removeprefix(prefix).replace(JOINT, "").replace("\t", " ")
        if word:
            words.append(word)
            tags.append(tag)
    return words, tags


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line, of -DOCSTART-, and of a comment such as "# id = 7"."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    if "\t" in line:
        cells = line.split("\t")
    else:
        cells = [cell for cell in line.split(" ") if cell]
    is_blank = not any(cells)
    if COMMENT.match(line) and not is_tag(cells[-1], "IOBES"):
        return []
    if is_blank or cells[0] == "-DOCSTART-":
        return []
    return cells


def _place_of_type(type_: str) -> tuple[int, str]:
    """A sort key for a type of entity."""
    place = ENTITIES.index(type_) if type_ in ENTITIES else len(ENTITIES)
    return place, type_


def tag_names(types: Iterable[str]) -> list[str]:
    """B- and I- of every type, in the official order, and O."""
    names = []
    for type_ in sorted(types, key=_place_of_type):
        names += [f"B-{type_}", f"I-{type_}"]
    return [*names, OUTSIDE]


def read_questions(file: DataFile) -> Iterator[Prepared]:
    """A file in SQuAD's form, checked.

    Raises:
        UserError: as `read_squad`.
    """
    # Ids may repeat in training files; in dev and test every answer needs its own.
    content = read_squad(file.path, purpose="train" if file.split == "train" else "dev")
    unanswered = sum(question.span is None for question in content.questions)
    counts = {"texts": len(content.contexts), "questions": len(content.questions), "unanswered": unanswered}
    yield Prepared(file.language or "en", file.path.read_bytes(), (), counts)


def read_paraphrases(file: DataFile) -> Iterator[Prepared]:
    """The pairs of PAWS-X. Label 1 is a paraphrase."""
    return read_pairs(file, labels={"0": "0", "1": "1"}, paraphrases=True)


def read_inferences(file: DataFile) -> Iterator[Prepared]:
    """The pairs of XNLI, whose training files write "contradictory" for contradiction."""
    labels = {label: label for label in NLI}
    labels["contradictory"] = "contradiction"
    return read_pairs(file, labels)


SPLIT = "(?P<split>train|dev|test)"
LANGUAGE = r"(?P<language>(?!all\b)[a-z]{2,3})"
TAGGED = DataSet(
    languages=("en", "nl", "es", "de"),
    names=(
        r"(?P<language>eng|deu|esp|ned)\.(?P<split>train|testa|testb)",
        rf"{SPLIT}[.-]{LANGUAGE}\.(?:tsv|txt)",
        rf"{LANGUAGE}/{SPLIT}(?:\.(?:tsv|txt|conll))?",
    ),
    read=read_tags,
    label_names=tag_names,
)
DATA_SETS = {
    "xnli": DataSet(
        languages=("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur"),
        names=(
            r"xnli\.(?P<split>dev|test)\.tsv",
            rf"multinli\.(?P<split>train)\.{LANGUAGE}\.tsv",
            rf"(?:xnli-)?{SPLIT}[.-]{LANGUAGE}\.tsv",
        ),
        read=read_inferences,
    ),
    "pawsx": DataSet(
        languages=("en", "de", "es", "fr", "ja", "ko", "zh"),
        names=(
            rf"{LANGUAGE}/(?P<split>train|translated_train|dev_2k|test_2k)\.tsv",
            rf"{SPLIT}[.-]{LANGUAGE}\.tsv",
        ),
        read=read_paraphrases,
    ),
    "conll": TAGGED,
    "panx": TAGGED,
    "mlqa": DataSet(
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
    ),
}
