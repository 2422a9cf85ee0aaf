"""Tagged words of users: CoNLL and CoNLL-U, JSON of tokens and tags, and the official form.

A word is in the first column of CoNLL and its tag in the last one, as conlleval reads it. CoNLL-U names its
columns: FORM, and UPOS for the tag. Others are named by --columns.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.official_tags import fault_of_words
from ernie_m.reader.files.plain_text import OBJECTS, TextFile, named_form
from ernie_m.reader.files.row_errors import Faults
from ernie_m.reader.files.table_options import OF_TABLES, TableOptions
from ernie_m.reader.files.tables import WORDS, Form, Table, open_table
from ernie_m.reader.labels import normal_label
from ernie_m.reader.tag_schemes import JOINT, entity_tags, is_tag
from ernie_m.utils.errors import UserError, listed, shown
from ernie_m.utils.logging import logger

# A line before a sentence in MultiCoNER, CoNLL-U or GermEval.
_COMMENT = re.compile(r"# *(id|newpar|newdoc)\b|#.*=|#\s+\w+://")
_NAMES = re.compile(r"^# *global\.columns *= *(.*)", re.MULTILINE)
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_FORM = "a line is a word, what else is known of it, and its tag, with spaces or tabs between"
_FITTING = "each sentence has a list of words, and a list with a tag for each"
_ASKED = "which columns have the words, and their tags?"
_LANGUAGE = re.compile("[a-z][a-z-]+:")
_LONGEST_SENTENCE = 500  # words, above which the ends of sentences may be missing


class TaggedWords(NamedTuple):
    """A sentence of any file.

    Attributes:
        words: its words.
        tags: of each word, in the scheme IOBES if the tags mark entities.
        lines: the number of the line of each word.
        written: the tag of each word as the file has it.
    """

    words: list[str]
    tags: list[str]
    lines: list[int]
    written: Sequence[str] = ()


def read_words(
    path: Path,
    labels: Collection[str] | None = (),
    entities: bool = False,
    options: TableOptions | None = None,
) -> list[TaggedWords]:
    """The sentences of a file with tagged words.

    A blank line stands behind each sentence of CoNLL. A file that is not UTF-8 is read as ISO-8859-1, as
    CoNLL-2002 is, with a warning: text with accents in ISO-8859-1 is practically never valid UTF-8.

    Args:
        labels: of a model or of other files, which show the scheme if the file does not; None: each tag
            stands for itself.
        entities: whether each tag must be one of an entity. Otherwise tags may also stand for themselves, as
            parts of speech do.

    Raises:
        UserError: the file has another form, it is not known which columns are meant, or a tag is none of an
            entity; names the lines.
    """
    options = options or TableOptions()
    faults = Faults(path, options.on_error == "skip")
    if named_form(path) == OBJECTS:
        options.refuse_others(path, "tagged words in JSON", "columns", *OF_TABLES)
        sentences = list(_of_objects(path, options, faults))
    else:
        options.refuse_others(path, "tagged words", "columns", "encoding", "on_error")
        text = _text(path, options, logger.warning)
        if any(JOINT in line for line in text.split("\n", 2)[:2]):  # the official form
            sentences = list(_of_official(_lines(text), path, faults))
        else:
            sentences = _of_columns(text, path, options, faults)
    faults.end(logger.warning, sentences)
    longest = max(sentences, key=lambda sentence: len(sentence.words))
    if len(longest.words) > _LONGEST_SENTENCE:
        line = "%s, line %d: %d words, and no blank line behind a sentence; put one behind each"
        logger.warning(line, path, longest.lines[0], len(longest.words))
    return _with_tags_checked(sentences, labels, entities, faults)


def lines_of(path: Path, options: TableOptions) -> list[str]:
    """The lines of a file without their ends, as `read_words` counts them."""
    return list(_lines(_text(path, options, logger.debug)))  # `read_words` has said what is odd


def _text(path: Path, options: TableOptions, say: Callable[[str], None]) -> str:
    """The text of a file. `say`: is told if it is not UTF-8."""
    is_json = named_form(path) == OBJECTS
    content = TextFile(str(path), encoding=options.encoding, any_form=is_json).rest()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        text = content.decode("iso-8859-1")
        line = content.count(b"\n", 0, error.start) + 1
        words = [shown(word) for word in dict.fromkeys(text.split()) if not word.isascii()]
        say(
            f"{path}, line {line}: not UTF-8, and read as ISO-8859-1: {listed(words, 5)}; if one of "
            "these words is wrong, save the file as UTF-8, or give its encoding, as in --encoding cp1254"
        )
        return text


def _lines(text: str) -> Iterator[str]:
    """The lines of a text without their ends, one at a time."""
    return (match[0].rstrip("\r\n") for match in re.finditer(r".*\n|.+", text))


def _of_objects(path: Path, options: TableOptions, faults: Faults) -> Iterator[TaggedWords]:
    """The sentences of JSON: in each two lists of texts that are equally long.

    Raises:
        UserError: it is not known which columns are meant.
    """
    table = open_table(path, options, faults)
    word, tag = table.two_columns(options.columns, [*WORDS.values()], _ASKED)
    for line, cells in table.rows:
        words, tags = cells[word], cells[tag]
        are_lists = isinstance(words, list) and isinstance(tags, list)
        if not are_lists or not all(isinstance(text, str) for text in words):
            faults.add(line, "the words are no list of texts, or the tags no list", _FITTING)
        elif fault := fault_of_words(words, tags):
            faults.add(line, fault, _FITTING)
        elif words:
            yield TaggedWords(words, tags, [line] * len(words))


def _of_official(lines: Iterator[str], path: Path, faults: Faults) -> Iterator[TaggedWords]:
    """The sentences of the official form, in whose lines U+0002 joins the words, and the tags.

    Without a header a line is words, a tab, and tags.

    Raises:
        UserError: the header has no column of words, or none of tags.
    """
    header = ["text_a", "label"]
    for line, text in enumerate(lines, 1):
        cells = text.removeprefix("\ufeff").split("\t")
        if line == 1 and JOINT not in text:
            header = cells
            if not {"text_a", "label"} <= {*header}:
                raise UserError(
                    f"{path}, line 1: it names no columns text_a and label; words that have no tags are "
                    'tagged as JSON lines, {"words": ["a", "b"]}'
                )
        elif text.strip():
            row = dict(zip(header, cells))
            words, tags = (row.get(name, "").split(JOINT) for name in ("text_a", "label"))
            if fault := fault_of_words(words, tags):
                faults.add(line, fault, "U+0002 joins the words in text_a, and a tag for each in label")
            else:
                yield TaggedWords(words, tags, [line] * len(words))


def _of_columns(text: str, path: Path, options: TableOptions, faults: Faults) -> list[TaggedWords]:
    """The sentences of a file in CoNLL form. Words without a character are left out."""
    blocks = list(read_columns(_lines(text), _cells, faults))
    if not blocks:
        return []
    word, tag, number = _places(path, text, blocks, options.columns)
    if number is not None:
        # CoNLL-U numbers the words. Where two are written as one, a row 1-2 stands before them.
        blocks = [[(line, cells) for line, cells in rows if cells[number].isdecimal()] for rows in blocks]
    words = [cells[word] for rows in blocks for _, cells in rows]
    # WikiANN writes the language before each word ("de:").
    prefixes = Counter(match[0] for written in words if (match := _LANGUAGE.match(written)))
    ((prefix, count),) = prefixes.most_common(1) or [("", 0)]
    without = len(words) - count
    if 0 < 2 * without <= len(words):
        line = "%s: %d of %d words are without the prefix %s"
        logger.warning(line, path, without, len(words), prefix)
    elif without:
        prefix = ""
    sentences = []
    for rows in blocks:
        kept = []
        for line, cells in rows:
            # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the
            # other as a space.
            if text := cells[word].removeprefix(prefix).replace(JOINT, "").replace("\t", " "):
                kept.append((text, cells[tag], line))
        sentences += [TaggedWords(*map(list, zip(*kept)))] if kept else []
    return sentences


def _places(
    path: Path, text: str, blocks: Sequence[Sequence[tuple[int, list[str]]]], columns: str | None
) -> tuple[int, int, int | None]:
    """The places of the columns of the words and their tags, and of the numbers of the words in CoNLL-U.

    Args:
        text: of the file, in which a line may name the columns.
        blocks: the numbers and the cells of the lines of each sentence.
        columns: the value of --columns.

    Raises:
        UserError: there is no such column, or it is not known which are meant: CoNLL-U names no UPOS, or the
            first column of another file numbers words or sentences.
    """
    line, cells = blocks[0][0]
    named = _NAMES.search(text)
    names = named[1].split() if named else []
    if not named and len(cells) == len(_CONLL_U) and cells[0].startswith("1"):
        names = _CONLL_U
    number = names.index("ID") if "ID" in names else None
    known = [["form"], ["upos"]]
    if not names or re.fullmatch(r"\d+,\d+", columns or ""):
        names = [str(place) for place in range(1, len(cells) + 1)]
        known = [] if _are_numbers_of(blocks) else [["1"], names[-1:]]
    sample = [cells for _, cells in blocks[0][:3]]
    table = Table(path, names, line, Form(), sample, iter(()))
    return *table.two_columns(columns, known, _ASKED), number


def _are_numbers_of(blocks: Sequence[Sequence[tuple[int, list[str]]]]) -> bool:
    """Whether the first column numbers the words, or is the same in all lines of each sentence."""
    columns = [[cells[0] for _, cells in rows] for rows in blocks]
    cells = list(chain.from_iterable(columns))
    is_same = len(cells) > 2 * len(blocks) > 2 and all(len(set(column)) == 1 for column in columns)
    return is_same or sum(map(str.isdecimal, cells)) > 0.9 * len(cells)


def _cells(line: str, is_first: bool) -> list[str]:
    """The columns of a line; none of a blank line, a comment and -DOCSTART-.

    Args:
        is_first: whether it stands before a sentence, as a comment does.
    """
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    is_comment = is_first and cells and _COMMENT.match(line) and not is_tag(cells[-1], "IOBES")
    return cells if any(cells) and cells[0] != "-DOCSTART-" and not is_comment else []


def read_columns(
    lines: Iterable[str], cells_of: Callable[[str, bool], list[str]], faults: Faults
) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the numbers and the cells of its lines.

    Args:
        cells_of: line, and whether it may be the first of a sentence -> its cells; an empty list for a line
            that ends a sentence.
        faults: receives lines with another number of columns than the first, or with one alone; their
            sentence is left out.
    """
    rows: list[tuple[int, list[str]]] = []  # the lines of this sentence
    width = 0  # the number of columns
    for number, line in enumerate(chain(lines, [""]), 1):  # the empty line ends the last sentence
        if cells := cells_of(line, not rows) if line else []:
            width = width or max(len(cells), 2)  # the first line decides
            rows.append((number, cells))
            continue
        odd = [(number, cells) for number, cells in rows if len(cells) != width]
        for place, cells in odd:
            faults.add(place, f"{len(cells)} columns, not {width}", _FORM)
        if rows and not odd:
            yield rows
        rows = []


def _with_tags_checked(
    sentences: list[TaggedWords], labels: Collection[str] | None, entities: bool, faults: Faults
) -> list[TaggedWords]:
    """The sentences with tags in IOBES, if they mark entities, after all were looked at; see `read_words`."""
    cells = [[normal_label(cell) for cell in sentence.tags] for sentence in sentences]
    own = {*chain.from_iterable(cells)}
    tag_of = {} if labels is None else entity_tags(own) or entity_tags({*own, *labels})
    if not (tag_of or entities):  # each tag stands for itself
        return [sentence._replace(tags=tags) for sentence, tags in zip(sentences, cells)]
    kept = []
    for sentence, tags in zip(sentences, cells):
        for line, cell in zip(sentence.lines, tags):
            if cell not in tag_of:
                faults.add(
                    line,
                    f"'{cell}' is no tag of an entity",
                    "a tag is O or B-<type>, or has another letter of a scheme; write I-<type>",
                )
        if tag_of.keys() >= {*tags}:
            kept.append(sentence._replace(tags=[tag_of[cell] for cell in tags], written=tags))
    faults.end(logger.warning)
    return kept
