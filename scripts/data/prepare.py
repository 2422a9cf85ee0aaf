"""Turn public data sets into the layout of the official scripts, ./data/<task>.

    .venv/bin/python scripts/data/prepare.py xnli|pawsx|conll|panx|mlqa SOURCE...

A source is a file, or a folder that is searched with its sub-folders. docs/data_layout.md, docs/ner.md and
docs/qa.md list the names of files that are known, and what is written.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.question_answering import read_squad
from reader.tagging import JOINT, OUTSIDE, entity_starts, is_tag, read_columns, to_iob2
from utils.command_line import Parser
from utils.errors import UserError, run
from utils.files import atomic_file, read_bytes, write_json
from utils.logging import setup_console
from utils.tables import in_columns

SPLITS = ("train", "dev", "test", "xquad")
RENAMED = {
    "testa": "dev", "testb": "test", "translated_train": "train", "dev_2k": "dev", "test_2k": "test",
    "eng": "en", "deu": "de", "esp": "es", "ned": "nl",
}  # fmt: skip
COLUMNS = ("text_a", "text_b", "label")
ALIASES = {
    "text_a": ("premise", "sentence1"), "text_b": ("hypo", "sentence2"), "label": ("label", "gold_label"),
    "language": ("language",), "qid": ("pairID", "id"),
}  # fmt: skip
NLI = ("contradiction", "entailment", "neutral")  # ids 0, 1, 2
ENTITIES = ("PER", "ORG", "LOC", "MISC")  # the official order; others follow in alphabetical order


class DataFile(NamedTuple):
    """An input file. Without a language its rows name their languages."""

    path: Path
    split: str
    language: str | None


class Prepared(NamedTuple):
    """What an input file has of a language: the file to write, its labels, columns of the printed table."""

    language: str
    content: bytes
    labels: Sequence[str]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    languages: Sequence[str]  # in the order of the paper's tables; others follow in alphabetical order
    names: Sequence[str]  # patterns of the end of a path, with the groups "split" (train) and "language"
    read: Callable[[DataFile, bool], Iterable[Prepared]]  # the second argument is that of --lower_case
    label_names: Callable[[set[str]], Sequence[str]] = sorted  # all labels -> in the order of their ids
    ending: str = "tsv"

    def recognise(self, path: Path) -> DataFile | None:
        """The file with the split and the language that its name says."""
        for pattern in self.names:
            if match := re.search(f"/{pattern}$", f"/{path.parent.name}/{path.name}"):
                named = {"split": "train", "language": None} | match.groupdict()
                return DataFile(path, *(RENAMED.get(named[key], named[key]) for key in ("split", "language")))
        return None

    def place(self, key: tuple[str, str]) -> tuple[int, int, str]:
        """A sort key for (split, language)."""
        split, language = key
        return SPLITS.index(split), (*self.languages, language).index(language), language


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    parser = Parser(__doc__)
    parser.add_argument("task", choices=DATA_SETS)
    parser.add_argument("sources", nargs="+", type=Path, help="of two files for the same, the first counts")
    parser.add_argument("--output", type=Path, help="folder to write (data/<task>)")
    parser.add_argument("--lower_case", action="store_true", help="conll and panx: words in lower case")
    options = parser.parse_args(arguments)
    setup_console()
    data_set, output = DATA_SETS[options.task], options.output or Path("data", options.task)
    written: dict[tuple[str, str], Prepared] = {}
    for file in find_files(data_set, options.sources, output):
        print(f"reading {file.path}", flush=True)
        for found in data_set.read(file, options.lower_case):
            key = file.split, found.language
            if key in written:
                print(f"not used: {file.split} {found.language} is there already")
                continue
            with atomic_file(output / file.split / f"{'.'.join(key)}.{data_set.ending}") as target:
                target.write(found.content)
            written[key] = found._replace(content=found.content.partition(b"\n")[0])  # the header alone
    written = {key: written[key] for key in sorted(written, key=data_set.place)}
    write_maps(data_set, output, written)
    columns = list(dict.fromkeys(column for found in written.values() for column in found.counts))
    rows = [[*key, *(f"{one.counts.get(name, 0):,}" for name in columns)] for key, one in written.items()]
    print("", in_columns([["split", "language", *columns], *rows]), "", f"written to {output}", sep="\n")


def find_files(data_set: DataSet, sources: Iterable[Path], output: Path) -> list[DataFile]:
    """The files with known names; none below `output`. UserError: a source has none."""
    chosen = []
    for source in sources:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder")
        paths = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        paths = [path for path in paths if output.resolve() not in path.resolve().parents]
        found = [file for file in map(data_set.recognise, paths) if file]
        if not found:
            raise UserError(
                f"{source}: no file there has a known name; docs/data_layout.md, ner.md, qa.md list them"
            )
        chosen += found
    return chosen


def write_maps(data_set: DataSet, output: Path, written: Mapping[tuple[str, str], Prepared]) -> None:
    """Write lang_map.json for dev and test and for XQuAD, label_map.json, and train.all.tsv."""
    languages = {split: [language for one, language in written if one == split] for split in SPLITS}
    dev, test = languages["dev"], languages["test"]
    if dev or test:
        common = [language for language in dev or test if language in (test or dev)] or dev
        write_numbers(output / "lang_map.json", common)
    if languages["xquad"]:
        write_numbers(output / "xquad" / "lang_map.json", languages["xquad"])
    labels = {label for one in written.values() for label in one.labels}
    if not labels:
        return
    names = data_set.label_names(labels)
    write_numbers(output / "label_map.json", names)
    print(f"--num_labels is {len(names)}")
    if len(languages["train"]) > 1:
        paths = [output / "train" / f"train.{language}.tsv" for language in languages["train"]]
        # Some files have a last column, qid, that others do not have.
        columns = min(written["train", one].content.count(b"\t") for one in languages["train"]) + 1
        with atomic_file(output / "train" / "train.all.tsv") as joint:
            for path in paths:
                lines = path.read_bytes().splitlines()[0 if path == paths[0] else 1 :]
                joint.writelines(b"\t".join(line.split(b"\t")[:columns]) + b"\n" for line in lines)


def write_numbers(path: Path, names: Iterable[str]) -> None:
    """Write a JSON object that gives each name its place, from 0."""
    write_json(path, {name: number for number, name in enumerate(names)})


def read_lines(path: Path, or_latin: bool = False) -> list[str]:
    """The lines of a file without line ends. UserError: it is not UTF-8 (`or_latin`: nor ISO-8859-1)."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not or_latin:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}, line {line}: not UTF-8; fetch or convert the file again") from error
        text = data.decode("iso-8859-1")  # which with accents is practically never valid UTF-8
    return [line.rstrip("\r") for line in text.split("\n")]


def read_pairs(file: DataFile, labels: Mapping[str, str], paraphrases: bool = False) -> Iterator[Prepared]:
    """The pairs of texts of each language; rows that cannot be used are left out and counted.

    PAWS-X (`paraphrases`) has numbers as qids, and "NS" in place of some texts, which count in dev and test
    as in XTREME. `labels`: label in the file -> label to write. UserError: the columns are not known, or
    there is no good row.
    """
    missing = {""} if not paraphrases else {"", "NS"} if file.split == "train" else set()
    header, *rows = [line.split("\t") for line in read_lines(file.path) if line] or [[]]
    known = [(name, alias) for name, several in ALIASES.items() for alias in several]
    places = {name: header.index(alias) for name, alias in known if alias in header}
    if not places.keys() >= {*COLUMNS}:
        if len(header) != len(COLUMNS):
            fault = "neither name two texts and a label nor are just these three"
            raise UserError(f"{file.path}, line 1: {len(header)} columns, which {fault}")
        places, rows = {name: place for place, name in enumerate(COLUMNS)}, [header, *rows]
    columns = [*COLUMNS, *["qid"] * (paraphrases or "qid" in places)]
    kept, found, dropped = defaultdict(list), defaultdict(Counter), Counter()
    for number, cells in enumerate(rows, 1):
        row = {"qid": str(number), "language": file.language or "", "label": ""}
        if len(cells) == len(header):
            row |= {name: cells[place].replace("\r", " ").strip() for name, place in places.items()}
        if "text_a" not in row or not re.fullmatch("[a-z]{2}", row["language"]):
            dropped["malformed"] += 1
        elif row["label"] not in labels:
            dropped[f"with the label '{row['label'][:30]}'"] += 1
        elif not missing.isdisjoint((row["text_a"], row["text_b"])):
            dropped["without a text"] += 1
        else:
            row["label"] = labels[row["label"]]
            kept[row["language"]].append("\t".join(row[name] for name in columns))
            found[row["language"]][row["label"]] += 1
    reasons = "; ".join(f"{count:,} {why}" for why, count in dropped.most_common())
    if not kept:
        raise UserError(f"{file.path}: no usable row ({reasons or 'the file is empty'})")
    if reasons:
        print(f"left out: {reasons}")
    for language, lines in kept.items():
        content = "\n".join(["\t".join(columns), *lines, ""]).encode()
        names = sorted({*labels.values()})
        counts = {label: found[language][label] for label in names} | {"rows": len(lines)}
        yield Prepared(language, content, names, counts)


def read_tags(file: DataFile, lower_case: bool) -> Iterator[Prepared]:
    """Sentences in IOB2. The first column is the word and the last its tag, read as conlleval reads it.

    UserError: the number of columns changes, a tag is none, or there is no sentence.
    """
    lines = read_lines(file.path, or_latin=True)
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    rows = list(read_columns(lines, file.path, _cells, form))
    prefix = f"{file.language}:"
    prefixed = all(cells[0].startswith(prefix) for _, row in rows for cells in row)
    entities, counts, sentences = Counter(), Counter(), ["text_a\tlabel"]
    for first, row in rows:
        words, tags = [], []
        for line, (word, *_, tag) in enumerate(row, first):
            if not is_tag(tag):
                fault = f"'{tag}' in the last column is not O, B-<type> or I-<type>"
                raise UserError(f"{file.path}, line {line}: {fault}")
            # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the
            # other as a space.
            word = word.removeprefix(prefix if prefixed else "").replace(JOINT, "").replace("\t", " ")
            if word:
                words.append(word.lower() if lower_case else word)
                tags.append(tag)
        if words:
            joined = to_iob2(tags)
            entities.update(start.tag[2:] for start in entity_starts(joined))
            rewritten = sum(old != new for old, new in zip(tags, joined))
            counts.update({"sentences": 1, "words": len(words), "tags rewritten": rewritten})
            sentences.append(f"{JOINT.join(words)}\t{JOINT.join(joined)}")
    if not counts:
        raise UserError(f"{file.path}: no sentence in it")
    types = sorted(entities, key=_place)
    counts = {type_: entities[type_] for type_ in types} | counts
    yield Prepared(file.language, "\n".join([*sentences, ""]).encode(), types, counts)


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line and of -DOCSTART-."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    return cells if any(cells) and cells[0] != "-DOCSTART-" else []


def _place(type_: str) -> tuple[int, str]:
    return ENTITIES.index(type_) if type_ in ENTITIES else len(ENTITIES), type_


def tag_names(types: Iterable[str]) -> list[str]:
    """B- and I- of every type, in the official order, and O."""
    return [f"{part}-{type_}" for type_ in sorted(types, key=_place) for part in "BI"] + [OUTSIDE]


def read_questions(file: DataFile, _) -> Iterator[Prepared]:
    """A file in SQuAD's form, checked. UserError: `read_squad` raises it."""
    # Ids may repeat in training files; in dev and test every answer needs its own.
    content = read_squad(file.path, "train" if file.split == "train" else "dev")
    unanswered = sum(question.span is None for question in content.questions)
    counts = {"texts": len(content.contexts), "questions": len(content.questions), "unanswered": unanswered}
    yield Prepared(file.language or "en", file.path.read_bytes(), (), counts)


def read_paraphrases(file: DataFile, _) -> Iterator[Prepared]:
    return read_pairs(file, {"0": "0", "1": "1"}, paraphrases=True)  # 1: a paraphrase


def read_inferences(file: DataFile, _) -> Iterator[Prepared]:
    return read_pairs(file, {label: label for label in NLI} | {"contradictory": "contradiction"})


SPLIT, LANGUAGE = "(?P<split>train|dev|test)", "(?P<language>[a-z]{2})"
TAGGED = DataSet(
    languages=("en", "nl", "es", "de"),
    names=(
        r"(?P<language>eng|deu|esp|ned)\.(?P<split>train|testa|testb)",
        rf"{SPLIT}[.-]{LANGUAGE}\.(?:tsv|txt)",
        f"{LANGUAGE}/{SPLIT}",
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
        ),
        read=read_questions,
        ending="json",
    ),
}


if __name__ == "__main__":
    run(main)
