"""Tagged words of users: CoNLL and CoNLL-U, JSON of tokens and tags, and the official form.

A word is in the first column of CoNLL and its tag in the last one, as conlleval reads it. CoNLL-U names its
columns: FORM, and UPOS for the tag. Others are named by --columns, or by a first line of known names.

Tags mark entities. They stand for themselves, as parts of speech do, where the name of their column says so.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.official_tags import words_error
from ernie_m.reader.files.plain_text import OBJECTS, TextFile, named_form
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import OF_TABLES, TableOptions
from ernie_m.reader.files.tables import WORDS, Dialect, Table, open_table
from ernie_m.reader.labels import normal_label
from ernie_m.reader.tag_schemes import JOINT, OUTSIDE, PARTS_OF_SPEECH, entity_tags, is_entity_tag
from ernie_m.utils.errors import UserError, listed, shown
from ernie_m.utils.logging import logger

# A line before a sentence in MultiCoNER, CoNLL-U, CoNLL-2012 or GermEval.
_COMMENT = re.compile(r"# *(id|newpar|newdoc|(begin|end) document)\b|#.*=|#\s+\w+://")
_NAMES = re.compile(r"^# *global\.columns *= *(.*)", re.MULTILINE)
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
# The names in a first line of CoNLL, of the words and of their tags.
_HEADER = [
    {"form", *WORDS["words"], "token", "word"},
    {"upos", "xpos", "pos", "pos_tag", "pos_tags", *WORDS["tags"], "tag", "ner_tag", "label", "labels"},
]
# The names of columns whose tags mark no entities.
_OF_THEMSELVES = re.compile(r"[ux]?pos([_:]?tags?)?|feats|deprel", re.IGNORECASE)
# The name of a type of entities, which no further tag follows.
_TYPE = re.compile(r"(?!.*[ /+&][BIMELSUW]-)[^\W\d][\w.:/+&#%' -]*")
_IN_MISC = re.compile(r"(?:.*\|)?(?:name|NER)=([^|]*).*")  # of entities in CoNLL-U, as in NorNE
_CHUNKS = re.compile("[BI][-_](ADJP|ADVP|CONJP|INTJ|LST|NC|NP|PC|PP|PRT|SBAR|UCP|VC|VP)")  # of CoNLL-2003
# What other tools write, by the first line -> how it becomes tagged words.
_OF_TOOLS = {
    "#FORMAT=WebAnno": "of WebAnno; export it as CoNLL 2002",
    "T1\t": "spans of brat; its anntoconll makes words of them, of which --columns 4,1 are read",
}
_FORM = "a line is a word, what else is known of it, and its tag, with spaces or tabs between, not commas"
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
        written: the tag of each word as the file has it; empty: the tags stand for themselves.
    """

    words: list[str]
    tags: list[str]
    lines: list[int]
    written: Sequence[str] = ()


def read_words(
    path: Path,
    labels: Collection[str] | None = (),
    options: TableOptions | None = None,
) -> list[TaggedWords]:
    """The sentences of a file with tagged words.

    A blank line stands behind each sentence of CoNLL. A file that is not UTF-8 is read as ISO-8859-1, as
    CoNLL-2002 is, with a warning: text with accents in ISO-8859-1 is practically never valid UTF-8.

    Args:
        labels: tags of entities, of a model or of other files, which show the scheme if the file does not,
            and the case of types; the tags must be of entities, too. None: each tag stands for itself.

    Raises:
        UserError: the file has another form, it is not known which columns are meant, or a tag is none of an
            entity; names the lines.
    """
    options = options or TableOptions()
    errors = RowErrors(path, options.on_error == "skip")
    name = ""  # of the column of the tags
    if named_form(path) == OBJECTS:
        options.reject_others(path, "tagged words in JSON", "columns", *OF_TABLES)
        table = open_table(path, options, errors)
        word, tag = table.two_columns(options.columns, [*WORDS.values()], _ASKED)
        sentences, name = list(_read_objects(table, word, tag, errors)), table.names[tag]
    else:
        options.reject_others(path, "tagged words", "columns", "encoding", "on_error")
        text = _text(path, options, logger.warning)
        if any(JOINT in line for line in text.split("\n", 2)[:2]):  # the official form
            sentences = list(_read_official(_lines(text), path, errors))
        else:
            sentences, name = _read_columns(text, path, options, errors)
    errors.end(logger.warning, sentences)
    longest = max(sentences, key=lambda sentence: len(sentence.words))
    if len(longest.words) > _LONGEST_SENTENCE:
        line = "%s, line %d: %d words, and no blank line behind a sentence; put one behind each"
        logger.warning(line, path, longest.lines[0], len(longest.words))
    if labels is None or (_OF_THEMSELVES.fullmatch(name) and not labels):
        return [each._replace(tags=list(map(normal_label, each.tags))) for each in sentences]
    return _with_tags_checked(sentences, labels, errors)


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


def _read_objects(table: Table, word: int, tag: int, errors: RowErrors) -> Iterator[TaggedWords]:
    """The sentences of JSON: in each two lists of texts that are equally long, in two columns."""
    for line, cells in table.rows:
        words, tags = cells[word], cells[tag]
        are_lists = isinstance(words, list) and isinstance(tags, list)
        if not are_lists or not all(isinstance(text, str) for text in words):
            errors.add(line, "the words are no list of texts, or the tags no list", _FITTING)
        elif error := words_error(words, tags):
            errors.add(line, error, _FITTING)
        elif words:
            yield TaggedWords(words, tags, [line] * len(words))


def _read_official(lines: Iterator[str], path: Path, errors: RowErrors) -> Iterator[TaggedWords]:
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
            if error := words_error(words, tags):
                errors.add(line, error, "U+0002 joins the words in text_a, and a tag for each in label")
            else:
                yield TaggedWords(words, tags, [line] * len(words))


def _read_columns(
    text: str, path: Path, options: TableOptions, errors: RowErrors
) -> tuple[list[TaggedWords], str]:
    """The sentences of a file in CoNLL form, and the name of the column of the tags.

    Words without a character are left out.

    Raises:
        UserError: as `_places`, or another tool wrote the file.
    """
    for begin, way in _OF_TOOLS.items():
        if text.removeprefix("\ufeff").startswith(begin):
            raise UserError(f"{path}, line 1: {way}")
    blocks = list(read_columns(_lines(text), _cells, errors))
    if not blocks:
        return [], ""
    word, tag, number, name = _places(path, text, blocks, options.columns)
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
                cell = _IN_MISC.sub(r"\1", cells[tag]) if name == "MISC" else cells[tag]
                kept.append((text, cell, line))
        sentences += [TaggedWords(*map(list, zip(*kept)))] if kept else []
    return sentences, name


def _places(
    path: Path, text: str, blocks: list[list[tuple[int, list[str]]]], columns: str | None
) -> tuple[int, int, int | None, str]:
    """The places of the columns of the words, of their tags, and of the numbers of the words in CoNLL-U.

    The last is the name of the column of the tags.

    Args:
        text: of the file, in which a line may name the columns.
        blocks: the numbers and the cells of the lines of each sentence; a first line of names is taken out.
        columns: the value of --columns.

    Raises:
        UserError: there is no such column, or it is not known which are meant: CoNLL-U names no UPOS, the
            first column of another file numbers words or sentences, or several have tags of entities.
    """
    line, cells = blocks[0][0]
    named = _NAMES.search(text)
    names = named[1].split() if named else []
    if not named and len(cells) == len(_CONLL_U) and cells[0].startswith("1"):
        names = _CONLL_U
    number = names.index("ID") if "ID" in names else None
    known = [{"form"}, {"upos"}]
    by_number = re.fullmatch(r"\d+,\d+", columns or "")
    in_small = {cell.strip().lower() for cell in cells}
    is_named = columns and not by_number and {*columns.split(",")} <= {*cells}
    if not names and (is_named or not any(map(in_small.isdisjoint, _HEADER))):
        names, known = cells, _HEADER
        blocks[0] = blocks[0][1:]
    sample = [cells for _, cells in blocks[0][:3]]
    if not names or by_number:
        names = [str(place) for place in range(1, len(cells) + 1)]
        in_columns = list(zip(*(cells for rows in blocks for _, cells in rows)))
        filled = [name for name, column in zip(names, in_columns) if any(map(str.strip, column))]
        is_clear = not _are_line_numbers(blocks) and sum(map(_are_tags, in_columns[1:])) < 2
        known = [{"1"}, {*filled[-1:]}] if is_clear else []
    table = Table(path, names, line, Dialect(), sample, iter(()))
    word, tag = table.two_columns(columns, known, _ASKED)
    return word, tag, number, names[tag]


def _are_tags(cells: Collection[str]) -> bool:
    """Whether cells are tags of entities, and not of chunks, which stand beside them in CoNLL-2003."""
    others = {*cells} - {OUTSIDE}
    are_chunks = bool(others) and all(map(_CHUNKS.fullmatch, others))
    return all(map(is_entity_tag, others)) and not are_chunks


def _are_line_numbers(blocks: Sequence[Sequence[tuple[int, list[str]]]]) -> bool:
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
    is_comment = is_first and cells and _COMMENT.match(line) and not is_entity_tag(cells[-1])
    return cells if any(cells) and cells[0] != "-DOCSTART-" and not is_comment else []


def read_columns(
    lines: Iterable[str], cells_of: Callable[[str, bool], list[str]], errors: RowErrors
) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the numbers and the cells of its lines.

    Args:
        cells_of: line, and whether it may be the first of a sentence -> its cells; an empty list for a line
            that ends a sentence.
        errors: receives lines with another number of columns than the first, or with one alone; their
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
            errors.add(place, f"{len(cells)} columns, not {width}", _FORM)
        if rows and not odd:
            yield rows
        rows = []


def _with_tags_checked(
    sentences: list[TaggedWords], labels: Collection[str], errors: RowErrors
) -> list[TaggedWords]:
    """The sentences with tags in IOBES, after all were looked at; see `read_words`."""
    cells = [[normal_label(cell) for cell in sentence.tags] for sentence in sentences]
    own = {*chain.from_iterable(cells)}
    found = entity_tags(own) or entity_tags({*own, *labels})
    types = [tag[2:] for tag in entity_tags(labels).values()]
    of_other_case = {type_.casefold(): type_ for type_ in types} | {type_: type_ for type_ in types}
    tag_of = {
        cell: tag[:2] + of_other_case.get(tag[2:], of_other_case.get(tag[2:].casefold(), tag[2:]))
        for cell, tag in found.items()
        if tag == OUTSIDE or _TYPE.fullmatch(tag[2:])
    }
    kept = []
    for sentence, tags in zip(sentences, cells):
        for line, cell in zip(sentence.lines, tags):
            if cell not in tag_of:
                errors.add(
                    line,
                    f"'{cell}' is no tag of an entity",
                    "a tag is O or B-<type>, or has another letter of a scheme; write I-<type>, or name the "
                    f"columns of words and tags: --columns 1,2; other tags: fit --task {PARTS_OF_SPEECH}",
                )
        if tag_of.keys() >= {*tags}:
            kept.append(sentence._replace(tags=[tag_of[cell] for cell in tags], written=tags))
    errors.end(logger.warning)
    return kept
