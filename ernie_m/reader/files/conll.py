"""Readers of tagged sentences: CoNLL and CoNLL-U, JSON of tokens and tags, and the official format.

In CoNLL, the first column is the word and the last one the tag, as in conlleval. In CoNLL-U, the columns are
FORM and UPOS. Other columns are set by --columns, or by a header of known names.

Tags mark entities, unless the name of the tag column indicates other tags, such as parts of speech.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from ernie_m.reader.files.official_tags import find_words_error
from ernie_m.reader.files.plain_text import OBJECTS, TextFile, detect_format
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import OF_TABLES, TableOptions
from ernie_m.reader.files.tables import WORDS, Dialect, Table, open_table
from ernie_m.reader.labels import normalize_label
from ernie_m.reader.tag_schemes import JOINT, OUTSIDE, PARTS_OF_SPEECH, is_entity_tag, map_labels_to_iobes
from ernie_m.utils.errors import UserError, format_value, join_items
from ernie_m.utils.languages import base_language
from ernie_m.utils.logging import logger

# Comment line before a sentence in MultiCoNER, CoNLL-U, CoNLL-2012 or GermEval.
_COMMENT = re.compile(r"# *(id|newpar|newdoc|(begin|end) document)\b|#.*=|#\s+\w+://")
_NAMES = re.compile(r"^# *global\.columns *= *(.*)", re.MULTILINE)
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
# Header names in CoNLL, of words and of tags.
_HEADER = [
    {"form", *WORDS["words"], "token", "word"},
    {"upos", "xpos", "pos", "pos_tag", "pos_tags", *WORDS["tags"], "tag", "ner_tag", "label", "labels"},
]
# Names of columns whose tags do not mark entities.
_OF_THEMSELVES = re.compile(r"[ux]?pos([_:]?tags?)?|feats|deprel", re.IGNORECASE)
# An entity type, without a further tag after it.
_TYPE = re.compile(r"(?!.*[ /+&][BIMELSUW]-)[^\W\d][\w.:/+&#%' -]*")
_IN_MISC = re.compile(r"(?:.*\|)?(?:name|NER)=([^|]*).*")  # of entities in CoNLL-U, as in NorNE
_CHUNKS = re.compile("[BI][-_](ADJP|ADVP|CONJP|INTJ|LST|NC|NP|PC|PP|PRT|SBAR|UCP|VC|VP)")  # of CoNLL-2003
# First line of the formats of other tools -> how to convert them.
_OF_TOOLS = {
    "#FORMAT=WebAnno": "unsupported WebAnno format. Export it as CoNLL 2002",
    "T1\t": "unsupported brat format. Convert it with brat's anntoconll, and set --columns 4,1",
}
_FORM = (
    "Write one word per line, with its tag in the last column, separated by spaces or tabs, not commas. "
    "Leave out files without tags, such as XTREME's test files"
)
_FITTING = "Each sentence requires a list of words, and a list with one tag per word"
_ASKED = "ambiguous columns of words and tags."
_LANGUAGE = re.compile("[a-z][a-z-]+:")
_LONGEST_SENTENCE = 500  # words; in longer sentences a blank line may be missing


class TaggedWords(NamedTuple):
    """A tagged sentence of a file.

    Attributes:
        words: the words of the sentence.
        tags: the tag of each word, in the IOBES scheme if the tags mark entities.
        lines: the line number of each word.
        written: the tag of each word in the scheme of the file; empty if the tags do not mark entities.
    """

    words: list[str]
    tags: list[str]
    lines: list[int]
    written: Sequence[str] = ()


def read_tagged_words(
    path: Path,
    labels: Collection[str] | None = (),
    options: TableOptions | None = None,
    missing_tag: str | None = None,
) -> list[TaggedWords]:
    """Read the tagged sentences of a file.

    In CoNLL, a blank line ends a sentence. A file that is not UTF-8 is read as ISO-8859-1, the encoding of
    CoNLL-2002, with a warning: accented text in ISO-8859-1 is almost never valid UTF-8.

    Args:
        labels: the entity tags of a model or of other files, which determine the tagging scheme if it is
            ambiguous, and the case of entity types. None: the tags do not mark entities.
        options: the options for reading tables.
        missing_tag: the tag of all words of a CoNLL file with words alone; None: such a file is rejected.

    Raises:
        UserError: the file has another format, its columns are ambiguous, or a tag is not an entity tag;
            the message names the lines.
    """
    options = options or TableOptions()
    errors = RowErrors(path, options.on_error == "skip")
    name = ""  # of the tag column
    if detect_format(path) == OBJECTS:
        options.reject_unused(path, "tagged words in JSON", "columns", *OF_TABLES)
        table = open_table(path, options, errors)
        word, tag = table.find_two_columns(options.columns, [*WORDS.values()], _ASKED)
        sentences, name = list(_read_objects(table, word, tag, errors)), table.names[tag]
    else:
        options.reject_unused(path, "tagged words", "columns", "encoding", "on_error")
        text = _read_text(path, options, logger.warning)
        if any(JOINT in line for line in text.split("\n", 2)[:2]):  # the official format
            sentences = list(_read_official(_split_lines(text), path, errors))
        else:
            sentences, name = _read_columns(text, path, options, errors, missing_tag)
    errors.report(logger.warning, sentences)
    longest = max(sentences, key=lambda sentence: len(sentence.words))
    if len(longest.words) > _LONGEST_SENTENCE:
        line = "%s, line %d: sentence of %d words. Add a blank line after each sentence"
        logger.warning(line, path, longest.lines[0], len(longest.words))
    if labels is None or (_OF_THEMSELVES.fullmatch(name) and not labels):
        return [each._replace(tags=list(map(normalize_label, each.tags))) for each in sentences]
    return _convert_tags(sentences, labels, errors)


def read_lines(path: Path, options: TableOptions) -> list[str]:
    """Return the lines of a file of tagged words without line endings, numbered as in `read_tagged_words`."""
    # `read_tagged_words` logs the warnings.
    return list(_split_lines(_read_text(path, options, logger.debug)))


def _read_text(path: Path, options: TableOptions, log: Callable[[str], None]) -> str:
    """Read and decode a file of tagged words.

    Args:
        log: logs a warning if the file is not UTF-8.
    """
    is_json = detect_format(path) == OBJECTS
    content = TextFile(str(path), encoding=options.encoding, allow_json=is_json).read_rest()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        text = content.decode("iso-8859-1")
        line = content.count(b"\n", 0, error.start) + 1
        words = [format_value(word) for word in dict.fromkeys(text.split()) if not word.isascii()]
        log(
            f"{path}, line {line}: not UTF-8, decoded as ISO-8859-1: {join_items(words, 5)}. If a word is "
            "wrong, save the file as UTF-8, or set --encoding, as in --encoding cp1254"
        )
        return text


def _split_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text without their line endings."""
    return (match[0].rstrip("\r\n") for match in re.finditer(r".*\n|.+", text))


def _read_objects(
    table: Table, word_column: int, tag_column: int, errors: RowErrors
) -> Iterator[TaggedWords]:
    """Yield the sentences of a JSON file; each object has the words and the tags as lists of equal length.

    Args:
        table: the open file.
        word_column, tag_column: the column indices of the words and the tags.
        errors: collects invalid objects.
    """
    for line, cells in table.rows:
        words, tags = cells[word_column], cells[tag_column]
        are_lists = isinstance(words, list) and isinstance(tags, list)
        if not are_lists or not all(isinstance(text, str) for text in words):
            errors.add(line, "invalid words or tags (expected two lists)", _FITTING)
        elif error := find_words_error(words, tags):
            errors.add(line, error, _FITTING)
        elif words:
            yield TaggedWords(words, tags, [line] * len(words))


def _read_official(lines: Iterator[str], path: Path, errors: RowErrors) -> Iterator[TaggedWords]:
    """Yield the sentences of a file in the official format, with words and tags joined by U+0002.

    Without a header, a line consists of the words, a tab, and the tags.

    Raises:
        UserError: the header has no column text_a or label.
    """
    header = ["text_a", "label"]
    for line, text in enumerate(lines, 1):
        cells = text.removeprefix("\ufeff").split("\t")
        if line == 1 and JOINT not in text:
            header = cells
            if not {"text_a", "label"} <= {*header}:
                raise UserError(
                    f"{path}, line 1: missing column text_a or label. For words without tags, use JSON "
                    'lines, as in {"words": ["a", "b"]}'
                )
        elif text.strip():
            row = dict(zip(header, cells))
            words, tags = (row.get(name, "").split(JOINT) for name in ("text_a", "label"))
            if error := find_words_error(words, tags):
                errors.add(line, error, "Join the words in text_a, and one tag per word in label, by U+0002")
            else:
                yield TaggedWords(words, tags, [line] * len(words))


def _read_columns(
    text: str, path: Path, options: TableOptions, errors: RowErrors, missing_tag: str | None
) -> tuple[list[TaggedWords], str]:
    """Parse the text of a CoNLL file into sentences; also return the name of the tag column.

    Empty words, and the language prefixes of WikiANN ("de:"), are dropped.

    Args:
        missing_tag: see `read_tagged_words`.

    Raises:
        UserError: the file is in the format of another tool; see also `_find_columns`.
    """
    for begin, way in _OF_TOOLS.items():
        if text.startswith(begin):
            raise UserError(f"{path}, line 1: {way}")
    blocks = list(read_columns(_split_lines(text), _split_cells, errors, 2 if missing_tag is None else 1))
    if not blocks:
        return [], ""
    if missing_tag is not None and len(blocks[0][0][1]) == 1:
        blocks = [[(line, [*cells, missing_tag]) for line, cells in rows] for rows in blocks]
        word, tag, number, name = 0, 1, None, ""
    else:
        word, tag, number, name = _find_columns(path, text, blocks, options.columns)
    if number is not None:
        # In CoNLL-U, words are numbered, and a row 1-2 precedes the parts of a contraction.
        blocks = [[(line, cells) for line, cells in rows if cells[number].isdecimal()] for rows in blocks]
    words = [cells[word] for rows in blocks for _, cells in rows]
    # In WikiANN, each word has a language prefix ("de:"); in one language it may be unknown ("map-bms:").
    counts = Counter(match[0] for written in words if (match := _LANGUAGE.match(written)))
    prefixes = {prefix for prefix in counts if base_language(prefix[:-1])}.union(dict(counts.most_common(1)))
    without = len(words) - sum(map(counts.__getitem__, prefixes))
    if 2 * without > len(words):
        prefixes.clear()
    elif without:
        logger.warning(
            "%s: %d of %d words lack the language prefix %s",
            path,
            without,
            len(words),
            join_items(sorted(prefixes), 10),
        )
    prefix = re.compile(rf"\A(?:{'|'.join(map(re.escape, prefixes))})")
    sentences = []
    for rows in blocks:
        kept = []
        for line, cells in rows:
            # U+0002 joins words, and the tokenizer drops it.
            if text := prefix.sub("", cells[word]).replace(JOINT, ""):
                cell = _IN_MISC.sub(r"\1", cells[tag]) if name == "MISC" else cells[tag]
                kept.append((text, cell, line))
        sentences += [TaggedWords(*map(list, zip(*kept)))] if kept else []
    return sentences, name


def _find_columns(
    path: Path, text: str, blocks: list[list[tuple[int, list[str]]]], columns: str | None
) -> tuple[int, int, int | None, str]:
    """Find the columns of words, tags and word numbers (CoNLL-U), and the name of the tag column.

    Args:
        text: the text of the file, which may contain column names in a comment.
        blocks: the line number and cells of each word, by sentence; a header is removed.
        columns: the value of --columns; None if not set.

    Raises:
        UserError: a column is missing, or columns are ambiguous: CoNLL-U without UPOS, a first column of
            numbers, or several columns of entity tags.
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
        names = [str(index) for index in range(1, len(cells) + 1)]
        in_columns = list(zip(*(cells for rows in blocks for _, cells in rows)))
        filled = [name for name, column in zip(names, in_columns) if any(map(str.strip, column))]
        is_clear = not _are_line_numbers(blocks) and sum(map(_are_entity_tags, in_columns[1:])) < 2
        known = [{"1"}, {*filled[-1:]}] if is_clear else []
    table = Table(path, names, line, Dialect(), sample, iter(()))
    word, tag = table.find_two_columns(columns, known, _ASKED)
    return word, tag, number, names[tag]


def _are_entity_tags(cells: Collection[str]) -> bool:
    """Return whether the cells of a column are entity tags, and not the chunk tags of CoNLL-2003."""
    others = {*cells} - {OUTSIDE}
    are_chunks = bool(others) and all(map(_CHUNKS.fullmatch, others))
    return all(map(is_entity_tag, others)) and not are_chunks


def _are_line_numbers(blocks: Sequence[Sequence[tuple[int, list[str]]]]) -> bool:
    """Return whether the first column of a CoNLL file has word numbers, or one value per sentence."""
    columns = [[cells[0] for _, cells in rows] for rows in blocks]
    cells = list(chain.from_iterable(columns))
    is_same = len(cells) > 2 * len(blocks) > 2 and all(len(set(column)) == 1 for column in columns)
    return is_same or sum(map(str.isdecimal, cells)) > 0.9 * len(cells)


def _split_cells(line: str, is_first: bool) -> list[str]:
    """Split a line of a CoNLL file into cells; [] for a blank line, a comment or -DOCSTART-.

    Args:
        is_first: whether the line may be a comment, because no word of a sentence precedes it.
    """
    # Only spaces and tabs separate columns: a no-break space is part of a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    is_comment = is_first and cells and _COMMENT.match(line) and not is_entity_tag(cells[-1])
    return cells if any(cells) and cells[0] != "-DOCSTART-" and not is_comment else []


def read_columns(
    lines: Iterable[str],
    split_cells: Callable[[str, bool], list[str]],
    errors: RowErrors,
    fewest_columns: int = 2,
) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield the line number and cells of each word, by sentence of a CoNLL file.

    Args:
        split_cells: splits a line, given whether it may be the first of a sentence; an empty list ends a
            sentence.
        errors: collects lines whose number of columns differs from the first line; their sentences are
            skipped.
        fewest_columns: minimum number of columns.
    """
    rows: list[tuple[int, list[str]]] = []  # the lines of the current sentence
    width = 0  # the number of columns
    # The empty line at the end ends the last sentence.
    for number, (before, line) in enumerate(pairwise(chain([""], lines, [""])), 1):
        # A line without the tabs of the line before may be a comment: HIPE has some behind its header.
        if cells := split_cells(line, not rows or ("\t" not in line and "\t" in before)) if line else []:
            width = width or max(len(cells), fewest_columns)  # of the first line
            rows.append((number, cells))
            continue
        odd = [(number, cells) for number, cells in rows if len(cells) != width]
        for index, cells in odd:
            errors.add(index, f"{len(cells)} columns (expected {width})", _FORM)
        if rows and not odd:
            yield rows
        rows = []


def _convert_tags(
    sentences: list[TaggedWords], labels: Collection[str], errors: RowErrors
) -> list[TaggedWords]:
    """Check that all tags are entity tags, and return the sentences with tags in the IOBES scheme.

    Args:
        labels: see `read_tagged_words`.
        errors: collects the lines with invalid tags; their sentences are dropped.

    Raises:
        UserError: tags are invalid, and invalid rows are not dropped.
    """
    cells = [[normalize_label(cell) for cell in sentence.tags] for sentence in sentences]
    own = {*chain.from_iterable(cells)}
    found = map_labels_to_iobes(own) or map_labels_to_iobes({*own, *labels})
    types = [tag[2:] for tag in map_labels_to_iobes(labels).values()]
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
                    f"invalid entity tag '{cell}'",
                    "Write O, B-<type> or I-<type>, set the columns of words and tags, as in --columns "
                    f"1,2, or for other tags run fit --task {PARTS_OF_SPEECH}. If a cell has all tags "
                    'of a sentence, write JSON lines, as in {"words": ["a", "b"], "tags": ["O", "O"]}',
                )
        if tag_of.keys() >= {*tags}:
            kept.append(sentence._replace(tags=[tag_of[cell] for cell in tags], written=tags))
    errors.report(logger.warning)
    return kept
