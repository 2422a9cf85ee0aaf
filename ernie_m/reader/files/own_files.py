"""The files of a folder with labelled tables: train.en.tsv, dev.en.tsv, dev.de.csv, test.de.tsv.gz, ...

Some are no tables: tagged words, and questions with answers.
"""

import re
import zipfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.plain_text import TextFile
from ernie_m.reader.label_map import ALL_LANGUAGES
from ernie_m.reader.tags import JOINT, OUTSIDE, TAG_KEYS, WORD_KEYS
from ernie_m.utils.errors import UserError, listed
from ernie_m.utils.logging import logger

SPLITS = ("train", "dev", "test")
_ENDINGS = ("tsv", "csv", "json", "jsonl", "conll", "txt", "xlsx", "tsv.gz", "csv.gz")
_FILE_NAME = re.compile(rf"(?P<split>train|dev|test)[.-](?P<language>[^.]+)\.({'|'.join(_ENDINGS)})")

_HEAD = 1 << 16  # bytes by which the kind of a file is known
_TAG = re.compile("O|[BIESLUMW]-.+")
# Sentences: comments, and then words that are numbered from 1, with nine more columns.
_CONLL_U = re.compile(
    r"((\s|#([^\t\n]*|.*=.*)\n)*+(?=1[\t-]|0\.1\t)([\d.-]++(\t[^\t\n]*+){9}\n)++)++(\s|#([^\t\n]*|.*=.*)\n)*+"
)
# JSON with a list of words; and a line with an object that has lists of words and of tags.
_WORDS = re.compile(rf'"({"|".join(WORD_KEYS)})"\s*:\s*\[\s*"')
_WORDS_AND_TAGS = re.compile(rf'\s*\{{(?=.*{_WORDS.pattern}).*"({"|".join(TAG_KEYS)})"\s*:\s*\[\s*"')
_SPANS = re.compile(
    r'"(spans|entities|labels?)"\s*:\s*\[\s*(\[\s*\d|\{\s*"(id|start|end|label|token))'
    r'|"type"\s*:\s*"(hypertext)?labels"'
)


class LabelledFile(NamedTuple):
    """A table of one language, and what it is for: "train", "dev" or "test"."""

    path: Path
    split: str
    language: str


def find_tables(source: Path, output: Path) -> list[LabelledFile]:
    """The files in a folder whose names are known, by split and language; English is first.

    A source that is a file is the training file, whatever its name. Files below `output` are passed over.
    Files that are not used are named in the log.

    Raises:
        UserError: there is no such source, or no training file in it.
    """
    files: dict[tuple[str, str], LabelledFile] = {}  # (split, language) -> file
    unread: dict[str, list[str]] = {}  # why -> files
    for path in files_in(source, output):
        match = _FILE_NAME.fullmatch(path.name)
        fault = _fault_of_name(path.name, match)
        if path == source:
            return [LabelledFile(path, "train", ALL_LANGUAGES if fault else match["language"])]
        if fault:
            unread.setdefault(fault, []).append(str(path))
            continue
        file = LabelledFile(path, match["split"], match["language"])
        used = files.setdefault((file.split, file.language), file)  # the first of several is used
        if used != file:
            logger.warning("not used: %s; %s %s is %s", path, file.split, file.language, used.path)
    for fault, paths in unread.items():
        logger.warning("not read: %s (%s)", listed(paths, 10), fault)
    if not any(file.split == "train" for file in files.values()):
        raise UserError(
            f"{source}: no training file there, such as train.en.tsv; docs/data.md lists the names under "
            "Your own labels"
        )
    by_language = sorted(files.values(), key=lambda file: (file.language != "en", file.language))
    return sorted(by_language, key=lambda file: SPLITS.index(file.split))


def files_in(source: Path, output: Path) -> list[Path]:
    """The files in a folder and its sub-folders, in alphabetical order; or the one file that is the source.

    Args:
        output: a folder whose files are left out: an earlier call wrote them.

    Raises:
        UserError: there is no such source.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in paths if output.resolve() not in path.resolve().parents]


def _fault_of_name(name: str, match: re.Match | None) -> str:
    """Why the name of a file says that it is not to be read, or "". `match`: of `_FILE_NAME`."""
    if not name.lower().endswith(_ENDINGS):
        return f"a name ends in .{', .'.join(_ENDINGS)}"
    if match is None:
        return "a name is train, dev or test with a language, as in train.en.tsv"
    if not re.fullmatch("[a-z]{2,3}", match["language"]) or match["language"] == ALL_LANGUAGES:
        return "a language has two or three small letters, as in train.en.tsv"
    return ""


def holds_tags(path: Path, spans: bool = False) -> bool:
    """Whether a file has tagged words: in CoNLL form, as JSON lines of tokens, or in the official form.

    Args:
        spans: whether other JSON counts, too: lists, words without tags, and spans of a text as annotation
            tools write them.
    """
    head = _head_of(path)
    lines = head.splitlines()
    if not lines:
        return False
    if head.lstrip()[:1] in ("{", "["):
        if not spans:
            return _WORDS_AND_TAGS.match(lines[0]) is not None
        return _SPANS.search(head) is not None or _WORDS.search(head) is not None
    if lines[0].startswith("text_a") and JOINT in "".join(lines[1:2]):
        return True
    # Words stand in blocks with blank lines between, and one of the columns has tags.
    rows = [line for line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    if _CONLL_U.fullmatch(head) and len(lines) > len(rows):  # a table has no blank lines and no comments
        return True
    # Any column between tabs may have the tag; with spaces between, the last one, if there are two.
    cells = [line.split("\t") if "\t" in line else line.split()[1:][-1:] for line in rows]
    tags = [[cell for cell in row if _TAG.fullmatch(cell.strip())] for row in cells]
    tagged = [tags_of_row for tags_of_row in tags if tags_of_row]
    return 2 * len(tagged) > len(rows) and any(set(tags_of_row) != {OUTSIDE} for tags_of_row in tagged)


def _head_of(path: Path) -> str:
    """The beginning of a text, unpacked; of a sheet ""."""
    if zipfile.is_zipfile(path):
        return ""
    with closing(TextFile(str(path), any_form=True)) as file:
        return file.start(_HEAD).decode(errors="replace")


def holds_questions(path: Path, whole: bool = False) -> bool:
    """Whether a file has questions with contexts: SQuAD, or, unless it must be `whole`, one on each line."""
    head = _head_of(path)
    keys = "qas" if whole else "qas|question"
    is_json = head.lstrip()[:1] in ("{", "[")
    return is_json and re.search(rf'"({keys})"\s*:', head) is not None and '"context"' in head
