"""Tagged sentences: the official files, files in CoNLL form, and how their words are split."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.official_tsv import parse_header, parse_row, read_all
from ernie_m.reader.tags import JOINT, OUTSIDE, SCHEMES, is_tag, to_iob2
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# A line before a sentence in MultiCoNER, or in CoNLL-U.
_COMMENT = re.compile(r"# *id\b|#.*=")
_LONGEST_SENTENCE = 500  # words, above which a file without a blank line lacks the ends of sentences
# What JSON lines call the words of a sentence, and their tags.
_WORD_KEYS = ("tokens", "words")
_TAG_KEYS = ("tags", "ner_tags", "labels", "pos_tags")
_FORM = "text_a, label; tokens and tags are joined by U+0002"
# What stands beside a word and not inside it: brackets, quotation marks, and marks of sentences.
_MARKS = re.escape("()[]{}\"'`«»‹›„“”‚‘’¡¿.,;:!?…،؛؟。、，！？：；।॥")
_WITH_MARKS = re.compile(rf"([{_MARKS}]*)(.*?)([{_MARKS}]*)", re.DOTALL)
_EQUAL_MARKS = re.compile(r"(.)\1*")  # a mark, as often as it follows itself
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # without its last full stop: U.N, J


def split_words(text: str, marks_apart: bool) -> list[tuple[int, int]]:
    """The words of a raw text: the characters [start, end) of each.

    White space of every kind separates words.

    Args:
        marks_apart: whether marks at the edge of a word are words themselves, as `has_marks_apart` finds
            it in training data: "(CDU)," is four words, "..." one, and "U.N." one.
    """
    spans = []
    for chunk in re.finditer(r"\S+", text):
        if not marks_apart:
            spans.append(chunk.span())
            continue
        before, word, after = _WITH_MARKS.fullmatch(chunk[0]).groups()
        if after.startswith(".") and _ABBREVIATION.fullmatch(word):
            word += "."
            after = after[1:]
        parts = [match[0] for match in _EQUAL_MARKS.finditer(before)]
        if word:
            parts.append(word)
        parts += [match[0] for match in _EQUAL_MARKS.finditer(after)]
        start = chunk.start()
        for part in parts:
            spans.append((start, start + len(part)))
            start += len(part)
    return spans


def has_marks_apart(sentences: Iterable["Sentence"]) -> bool:
    """Whether marks are words themselves in most places of a file, as in CoNLL and WikiANN."""
    apart = attached = 0
    for sentence in sentences:
        for word in sentence.words:
            # A full stop may belong to an abbreviation.
            ends_in_mark = word[-1] in ",;:!?)" and len(word) > 1
            apart += word in ",;:!?)."
            attached += ends_in_mark and word[0].isalnum()
    return apart >= attached


def entities_on_marks(sentences: Iterable["Sentence"], begins: Collection[int]) -> float:
    """The share of the entities that begin with a word of marks alone.

    In WikiANN it is at most 0.5 % in ten languages. If the tags are shifted by a word, it is 17 to 55 %, but
    for a shift to the right in Chinese (1 %).

    Args:
        begins: the ids of the tags with which entities begin.
    """
    count = on_marks = 0
    for sentence in sentences:
        for word, label in zip(sentence.words, sentence.labels or ()):
            if label in begins:
                count += 1
                on_marks += not any(map(str.isalnum, word))
    return on_marks / max(count, 1)


class Sentence(NamedTuple):
    """One row. `text`: its words joined by U+0002; `labels`: an id per word, None without a label column."""

    text: str
    labels: tuple[int, ...] | None

    @property
    def words(self) -> list[str]:
        """The words of the text."""
        return self.text.split(JOINT)


class TaggedWords(NamedTuple):
    """A sentence of any file: its words, the tag of each, and the number of the line of each."""

    words: list[str]
    tags: list[str]
    lines: list[int]

    @classmethod
    def of_line(cls, line: int, words: list[str], tags: list[str]) -> "TaggedWords":
        return cls(words, tags, [line] * len(words))


def read_words(
    path: Path, letters: Mapping[str, str], language: str | None = None, entities: bool = False
) -> list[TaggedWords]:
    """The sentences of a file in CoNLL form, of JSON lines with tokens and tags, or in the official form.

    In CoNLL form a line has a word, what else is known of it, and its tag, as conlleval reads it, and a blank
    line stands behind each sentence.

    Args:
        letters: the letters of tags as people write them -> those of IOBES.
        language: that of the file, which WikiANN writes before each word ("de:").
        entities: whether each tag must be one of an entity. Otherwise tags may also stand for themselves, as
            parts of speech do, if none is one of an entity.

    Raises:
        UserError: the file has another form, a tag is none of an entity, or what look like words are numbers,
            or the whole file is one sentence; names the lines.
    """
    lines = lines_of(path)
    if lines[0].startswith("{"):
        sentences = _of_objects(lines, path)
    elif any(JOINT in line for line in lines[:2]):
        header, *rows = (line.split("\t") for line in lines if line)
        places = [header.index(name) for name in ("text_a", "label")]
        sentences = [
            TaggedWords.of_line(line, *(cells[place].split(JOINT) for place in places))
            for line, cells in enumerate(rows, 2)
        ]
    else:
        sentences = list(_of_columns(lines, path, language))
    if not sentences:
        raise UserError(f"{path}: no sentence in it")
    words = [word for sentence in sentences for word in sentence.words]
    if all(word.isdecimal() for word in words):
        raise UserError(
            f"{path}, line {sentences[0].lines[0]}: the first column is of numbers; words must be first; "
            "remove it: cut -f2- FILE > NEW"
        )
    if len(sentences) == 1 and len(words) > _LONGEST_SENTENCE:
        raise UserError(
            f"{path}: {len(words):,} words, and no blank line behind a sentence; put one behind each"
        )
    return _with_tags_checked(path, sentences, letters, entities)


def lines_of(path: Path) -> list[str]:
    """The lines of a file without their ends.

    A file that is not UTF-8 is read as ISO-8859-1: text with accents in ISO-8859-1 is practically never valid
    UTF-8.
    """
    content = read_all(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("iso-8859-1")
    return [line.rstrip("\r") for line in text.split("\n")]


def _with_tags_checked(
    path: Path, sentences: list[TaggedWords], letters: Mapping[str, str], entities: bool
) -> list[TaggedWords]:
    """The sentences with the letters of IOBES, after all tags were looked at; see `read_words`."""
    faults = Faults(path)
    read = []
    for sentence in sentences:
        tags = [letters.get(tag[:1], tag[:1]) + tag[1:] for tag in map(normal_label, sentence.tags)]
        read.append(sentence._replace(tags=tags))
        for line, written, tag in zip(sentence.lines, sentence.tags, tags):
            if not is_tag(tag, "IOBES"):
                what = f"'{written}' in the last column is no tag of an entity"
                faults.add(
                    line, what, "a tag is O or B-<type>, or has another letter of a scheme; write I-<type>"
                )
    # In a file without entities every tag stands for itself, and O for nothing.
    are_entities = any(is_tag(tag, "IOBES") and tag != OUTSIDE for sentence in read for tag in sentence.tags)
    if not entities and not are_entities:
        return [sentence._replace(tags=list(map(normal_label, sentence.tags))) for sentence in sentences]
    faults.end(logger.warning)
    return read


def _of_columns(lines: Sequence[str], path: Path, language: str | None) -> Iterator[TaggedWords]:
    """The sentences of a file in CoNLL form. Words without a character are left out."""
    form = "a word, what else is known of it, and its tag, with spaces or tabs between"
    sentences = list(read_columns(lines, path, _cells, form))
    words = [cells[0] for _, rows in sentences for cells in rows]
    prefix = f"{language}:"
    without = sum(not word.startswith(prefix) for word in words)
    if 2 * without > len(words):
        prefix = ""
    elif without:
        logger.warning(
            "%s: %s of %s words are without the prefix %s", path, f"{without:,}", f"{len(words):,}", prefix
        )
    for line, rows in sentences:
        # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other
        # as a space.
        kept = []
        for number, (word, *_, tag) in enumerate(rows, line):
            word = word.removeprefix(prefix).replace(JOINT, "").replace("\t", " ")
            if word:
                kept.append((word, tag, number))
        if kept:
            yield TaggedWords(*map(list, zip(*kept)))


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line, of -DOCSTART-, and of a comment such as "# id = 7"."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    if "\t" in line:
        cells = line.split("\t")
    else:
        cells = [cell for cell in line.split(" ") if cell]
    is_blank = not any(cells)
    if _COMMENT.match(line) and not is_tag(cells[-1], "IOBES"):
        return []
    if is_blank or cells[0] == "-DOCSTART-":
        return []
    return cells


def _of_objects(lines: Sequence[str], path: Path) -> list[TaggedWords]:
    """The sentences of JSON lines: in each two lists of texts that are equally long, words and then tags."""
    faults = Faults(path)
    sentences = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not JSON ({error})", "each line is one object")
            continue
        lists = [value.get(name) for names in (_WORD_KEYS, _TAG_KEYS) for name in names if name in value]
        are_texts = [isinstance(part, list) and all(isinstance(item, str) for item in part) for part in lists]
        if len(lists) != 2 or not all(are_texts) or len(lists[0]) != len(lists[1]):
            what = f"it has {', '.join(value)}" if isinstance(value, dict) else "it is no object"
            faults.add(number, what, "tokens and tags must be two lists of texts, one tag for each token")
        elif lists[0]:
            sentences.append(TaggedWords.of_line(number, *lists))
    faults.end(logger.warning)
    return sentences


def read_columns(
    lines: Iterable[str], path: str | os.PathLike, cells_of: Callable[[str], list[str]], form: str
) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the number of its first line, and the cells of its lines.

    Args:
        path: of the file, for the error.
        cells_of: line -> its cells; an empty list for a line that ends a sentence.
        form: what a line holds, for the error.

    Raises:
        UserError: the number of columns changes, or a line has only one.
    """
    rows: list[list[str]] = []  # the lines of this sentence
    width = 0  # the number of columns
    for number, line in enumerate([*lines, ""], 1):  # the empty line ends the last sentence
        cells = cells_of(line)
        if cells:
            width = width or len(cells)  # the first line decides
            if len(cells) != width or width < 2:
                expected = max(width, 2)  # there must be two at least
                fault = f"{len(cells)} columns, not {expected}"
                raise UserError(f"{path}, line {number}: {fault}; a line is {form}")
            rows.append(cells)
        elif rows:
            yield number - len(rows), rows
            rows = []


def read_tagged(
    path: str | os.PathLike, label_map: Mapping[str, int], scheme: str = "IOB", labels: bool = True
) -> list[Sentence]:
    """Read and check a TSV file with the columns text_a and label, each joined by U+0002; tags become IOB2.

    Args:
        label_map: tag -> id, with B- and I- of each type unless the scheme is NONE.
        scheme: that of the tags, a key of `SCHEMES`.
        labels: False accepts a file without tags.

    Raises:
        UserError: the file cannot be read, a line has another form, or a tag is unknown.
    """
    path = Path(path)
    label_map = {normal_label(label): id_ for label, id_ in label_map.items()}
    required = ["text_a", "label"] if labels else ["text_a"]
    lines = read_all(path).rstrip(b"\r\n").split(b"\n")
    header = parse_header(lines[0], path, required, _FORM)
    sentences = []
    for number, line in enumerate(lines[1:], 2):
        place = f"{path}, line {number}"
        row = dict(zip(header, parse_row(line, path, number, header)))
        words = row["text_a"].split(JOINT)
        if "" in words:
            raise UserError(f"{place}: token {words.index('') + 1} of {len(words)} is empty")
        label_ids = None
        if "label" in row:
            tags = [normal_label(tag) for tag in row["label"].split(JOINT)]
            label_ids = _label_ids(tags, len(words), label_map, scheme, place)
        sentences.append(Sentence(row["text_a"], label_ids))
    if not sentences:
        raise UserError(f"{path}: no rows after the header")
    return sentences


def _label_ids(
    tags: list[str], word_count: int, label_map: Mapping[str, int], scheme: str, place: str
) -> tuple[int, ...]:
    """The label ids of a sentence.

    Args:
        word_count: the number of words.
        place: the file and the line, the beginning of an error.

    Raises:
        UserError: there is not one tag for each word, or a tag is empty or unknown.
    """
    if len(tags) != word_count:
        raise UserError(f"{place}: {word_count} tokens but {len(tags)} tags; U+0002 joins both")
    if "" in tags:
        raise UserError(f"{place}: the tag of token {tags.index('') + 1} is empty")
    labels = tags if scheme == "NONE" else to_iob2(tags)
    for number, (tag, label) in enumerate(zip(tags, labels), 1):
        if not is_tag(tag, scheme) or label not in label_map:
            letters = ", ".join(SCHEMES[scheme]) or "no letters"
            raise UserError(
                f"{place}, token {number}: unknown tag '{tag}'; --chunk_scheme {scheme} has "
                f"{letters}, and the label map has {', '.join(label_map)}"
            )
    return tuple(label_map[label] for label in labels)
