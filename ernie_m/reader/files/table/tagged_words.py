"""Tagged words of users: CoNLL and CoNLL-U, JSON lines of tokens and tags, and texts with marked spans."""

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.plain_text import TextFile
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.columns import place_of
from ernie_m.reader.files.table.form import options_of
from ernie_m.reader.files.table.objects import SPANS, answered_objects, objects_of, plain_object
from ernie_m.reader.files.table.words import TEXT, purpose_of
from ernie_m.reader.files.tagged_sentences import fault_of_words, split_words
from ernie_m.reader.tags import JOINT, OUTSIDE, TAG_KEYS, WORD_KEYS, is_tag
from ernie_m.utils.errors import UserError, listed, shown
from ernie_m.utils.logging import logger

# A line before a sentence in MultiCoNER, CoNLL-U or GermEval.
_COMMENT = re.compile(r"# *(id|newpar|newdoc)\b|#.*=|#\s+\w+://")
_NAMES = re.compile(r"^# *global\.columns *= *(.*)", re.MULTILINE)
_CONLL_U = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_FORM = "a line is a word, what else is known of it, and its tag, with spaces or tabs between"
_LONGEST_SENTENCE = 500  # words, above which the ends of sentences may be missing
_MOST_CUT = 0.02  # the greatest share of spans that cut words without a warning
_MOST_OF_ONE_LETTER = 0.8  # the greatest share of words of one letter without a warning


class TaggedWords(NamedTuple):
    """A sentence of any file: its words, the tag of each, and the number of the line of each."""

    words: list[str]
    tags: list[str]
    lines: list[int]

    @classmethod
    def of_line(cls, line: int, words: list[str], tags: list[str]) -> "TaggedWords":
        return cls(words, tags, [line] * len(words))


def head_of(path: Path, size: int) -> str:
    """The lines in about the first `size` bytes of a file, unpacked; of JSON these bytes, of a sheet ""."""
    if zipfile.is_zipfile(path):
        return ""
    with closing(TextFile(str(path), any_form=True)) as file:
        is_json = file.buffer.lstrip()[:1] in (b"{", b"[")  # which may be one line
        return (file.start(size) if is_json else file.head(size)).decode(errors="replace")


def read_words(
    path: Path,
    letters: Mapping[str, str],
    language: str | None = None,
    entities: bool = False,
    options: TableOptions | None = None,
) -> list[TaggedWords]:
    """The sentences of a file with tagged words, or with texts in which spans are marked.

    In CoNLL form a line has a word, what else is known of it, and its tag, as conlleval reads it, and a blank
    line stands behind each sentence. CoNLL-U numbers the words of a sentence, and the words are second; its
    tags are in the last column that has tags of entities, or are parts of speech. A file that is not UTF-8 is
    read as ISO-8859-1, as CoNLL-2002 is, with a warning: text with accents in ISO-8859-1 is practically never
    valid UTF-8. JSON has tokens and tags, or is what Label Studio, doccano or Prodigy write for spans.

    Args:
        letters: the letters of tags as people write them -> those of IOBES.
        language: that of the file, which WikiANN writes before each word ("de:").
        entities: whether each tag must be one of an entity. Otherwise tags may also stand for themselves, as
            parts of speech do, if none is one of an entity.

    Raises:
        UserError: the file has another form, a tag is none of an entity, the first column numbers rows or
            sentences, or the whole file is one sentence; names the lines.
    """
    options = options_of(path, options or TableOptions())
    faults = Faults(path, options.on_error == "skip")
    file = TextFile(str(path), encoding=options.encoding, any_form=True)
    objects = objects_of(file, faults)
    if objects:
        # A list on a line is an object with no key that is known.
        objects = ((line, value if isinstance(value, dict) else {"a list": value}) for line, value in objects)
        sentences = list(_of_objects(answered_objects(objects, str(path), spans=True), faults))
    else:
        text = _text(file, logger.warning)
        if any(JOINT in line for line in text.split("\n", 2)[:2]):  # the official form
            sentences = list(_of_official(_lines(text), path, faults))
        else:
            sentences = _of_columns(text, path, language, options.word_column, letters, faults)
    faults.end(logger.warning)
    if not sentences:
        raise UserError(f"{path}: no sentence in it")
    _say_what_is_odd(sentences, path)
    return _with_tags_checked(sentences, letters, entities, faults)


def lines_of(path: Path, options: TableOptions) -> list[str]:
    """The lines of a file without their ends, as `read_words` counts them."""
    file = TextFile(str(path), encoding=options_of(path, options).encoding, any_form=True)
    return list(_lines(_text(file, logger.debug)))  # `read_words` has said what is odd


def _text(file: TextFile, say: Callable[[str], None]) -> str:
    """The text of a file. `say`: is told if it is not UTF-8."""
    content = file.rest()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        text = content.decode("iso-8859-1")
        line = content.count(b"\n", 0, error.start) + 1
        words = [shown(word) for word in dict.fromkeys(text.split()) if not word.isascii()]
        say(
            f"{file.path}, line {line}: not UTF-8, and read as ISO-8859-1: {listed(words, 5)}; if one of "
            "these words is wrong, save the file as UTF-8, or give its encoding, as in --encoding cp1254"
        )
        return text


def _of_official(lines: Iterator[str], path: Path, faults: Faults) -> Iterator[TaggedWords]:
    """The sentences of the official form, in whose lines U+0002 joins the words, and the tags.

    Raises:
        UserError: there is no column of words, or none of tags.
    """
    header = next(lines).removeprefix("\ufeff").split("\t")
    for name in ("text_a", "label"):
        if name not in header:
            raise UserError(
                f"{path}, line 1: no column '{name}'; words that have no tags are tagged as JSON lines, "
                '{"words": ["a", "b"]}'
            )
    for line, text in enumerate(lines, 2):
        if not text.strip():
            continue
        row = dict(zip(header, text.split("\t")))
        words, tags = (row.get(name, "").split(JOINT) for name in ("text_a", "label"))
        if fault := fault_of_words(words, tags):
            faults.add(line, fault, "U+0002 joins the words in text_a, and a tag for each in label")
        else:
            yield TaggedWords.of_line(line, words, tags)


def _lines(text: str) -> Iterator[str]:
    """The lines of a text without their ends, one at a time."""
    return (match[0].rstrip("\r\n") for match in re.finditer(r".*\n|.+", text))


def _say_what_is_odd(sentences: Sequence[TaggedWords], path: Path) -> None:
    """Warn of words that may be none, and of sentences that may be none.

    Raises:
        UserError: the whole file is one sentence.
    """
    lengths = [len(sentence.words) for sentence in sentences]
    longest = max(lengths)
    if longest > _LONGEST_SENTENCE:
        line = sentences[lengths.index(longest)].lines[0]
        what = f"{path}, line {line}: {longest:,} words, and no blank line behind a sentence"
        if len(sentences) == 1:
            raise UserError(f"{what}; put one behind each")
        logger.warning("%s", what)
    words = [word for sentence in sentences for word in sentence.words]
    letters = sum(len(word) == 1 and word.isalpha() for word in words)
    if letters > _MOST_OF_ONE_LETTER * len(words):
        logger.warning("%s: %s of %s words are one letter", path, f"{letters:,}", f"{len(words):,}")
    alone = lengths.count(1)
    if 2 * alone > len(lengths) > 4:
        logger.warning(
            "%s: %s of %s sentences are one word; a blank line ends a sentence, and a text must be cut into "
            "words",
            path,
            f"{alone:,}",
            f"{len(lengths):,}",
        )


def _with_tags_checked(
    sentences: list[TaggedWords], letters: Mapping[str, str], entities: bool, faults: Faults
) -> list[TaggedWords]:
    """The sentences with the letters of IOBES, after all tags were looked at; see `read_words`."""
    read = []
    found = set()
    for sentence in sentences:
        tags = [_tag(cell, letters) for cell in sentence.tags]
        found |= {tag for tag in tags if is_tag(tag, "IOBES")}
        if found.issuperset(tags):
            read.append(sentence._replace(tags=tags))
            continue
        for line, cell, tag in zip(sentence.lines, sentence.tags, tags):
            if tag not in found:
                faults.add(
                    line,
                    f"'{cell}' in the last column is no tag of an entity",
                    "a tag is O or B-<type>, or has another letter of a scheme; write I-<type>",
                )
    # In a file without entities every tag stands for itself, and O for nothing.
    if not entities and found <= {OUTSIDE}:
        return [sentence._replace(tags=list(map(normal_label, sentence.tags))) for sentence in sentences]
    faults.end(logger.warning)
    return read


def _tag(cell: str, letters: Mapping[str, str]) -> str:
    """A tag whose first letter is replaced by the one that IOBES has for it."""
    tag = normal_label(cell)
    letter = tag[:1]
    return letters.get(letter, letter) + tag[1:]


def _of_columns(
    text: str,
    path: Path,
    language: str | None,
    chosen: str | None,
    letters: Mapping[str, str],
    faults: Faults,
) -> list[TaggedWords]:
    """The sentences of a file in CoNLL form. Words without a character are left out."""
    blocks = list(read_columns(_lines(text), _cells, faults))
    if not blocks:
        return []
    word, tag = _places(path, text, blocks, chosen, letters)
    if word and any(cells[0].isdecimal() for _, cells in blocks[0]):
        # CoNLL-U numbers the words. Where two are written as one, a row 1-2 stands before them.
        blocks = [[(line, cells) for line, cells in rows if cells[0].isdecimal()] for rows in blocks]
    words = [cells[word] for rows in blocks for _, cells in rows]
    prefix = f"{language}:"
    without = sum(not written.startswith(prefix) for written in words)
    if 2 * without > len(words):
        prefix = ""
    elif without:
        logger.warning(
            "%s: %s of %s words are without the prefix %s", path, f"{without:,}", f"{len(words):,}", prefix
        )
    sentences = []
    for rows in blocks:
        # U+0002 joins words and a tab separates columns. The tokenizer drops the first and reads the other
        # as a space.
        plain = [cells[word].removeprefix(prefix).replace(JOINT, "").replace("\t", " ") for _, cells in rows]
        kept = [(text, cells[tag], line) for text, (line, cells) in zip(plain, rows) if text]
        if kept:
            words, tags, lines = map(list, zip(*kept))
            sentences.append(TaggedWords(words, tags, lines))
    return sentences


def _places(
    path: Path,
    text: str,
    blocks: Sequence[Sequence[tuple[int, list[str]]]],
    chosen: str | None,
    letters: Mapping[str, str],
) -> tuple[int, int]:
    """The places of the columns of the words and of their tags.

    Args:
        text: of the file, in which a line may name the columns.
        blocks: the numbers and the cells of the lines of each sentence.
        chosen: the value of --word_column.

    Raises:
        UserError: there is no such column, it has to be asked which column has the tags, or the first one
            numbers rows or sentences.
    """
    line, cells = blocks[0][0]
    width = len(cells)
    named = _NAMES.search(text)
    names = named[1].split() if named else []
    first_columns = [[cells[0] for _, cells in rows] for rows in blocks]
    numbers = [[int(cell) for cell in column if cell.isdecimal()] for column in first_columns]
    from_1 = all(column == list(range(1, len(column) + 1)) for column in numbers)
    counts = width > 2 and any(numbers) and from_1  # whether the first column numbers the words
    if counts and width == len(_CONLL_U):
        names = names or _CONLL_U
    flag = f"{path}, line {line}: --word_column"
    given = [place_of(name, names, width, flag) for name in chosen.split(",")] if chosen else []
    if given:
        word = given[0]
    elif "FORM" in names:
        word = names.index("FORM")
    else:
        word = 1 if counts else 0
        words = list(chain.from_iterable(first_columns))
        is_same = len(words) > 2 * len(blocks) > 2 and all(len(set(column)) == 1 for column in first_columns)
        has_numbers = sum(map(str.isdecimal, words)) > 0.9 * len(words)
        if not counts and (is_same or has_numbers):
            what = "is the same throughout each sentence" if is_same else "has numbers"
            others = " or ".join(map(str, range(2, max(width, 3))))  # the last one has the tags
            raise UserError(
                f"{path}, line {line}: the first column {what}; say which has the words: "
                f"--word_column {others}"
            )
    if given[1:]:
        return word, given[1]

    # The tags are in the last column, as conlleval reads it, unless that has none.
    all_cells = [cells for rows in blocks for _, cells in rows]
    columns = [[_tag(cells[place], letters) for cells in all_cells] for place in range(width)]
    # The share of the cells of each column that are tags of entities.
    shares = [sum(is_tag(tag, "IOBES") for tag in column) / len(column) for column in columns]
    others = [place for place in range(width) if place != word and set(columns[place]) != {OUTSIDE}]
    tagged = [place for place in others if shares[place] >= 0.9]
    if counts and len(tagged) > 1:
        raise UserError(
            f"{path}, line {line}: columns {' and '.join(str(place + 1) for place in tagged)} have tags; say "
            f"which is meant: --word_column {word + 1},{tagged[0] + 1}"
        )
    tag = width - 1
    if counts or shares[tag] < 0.5:
        part_of_speech = names.index("UPOS") if "UPOS" in names else tag
        tag = tagged[-1] if tagged else part_of_speech
    if (word, tag) != (0, width - 1):
        logger.info("%s: words are in column %d, tags in column %d", path, word + 1, tag + 1)
    return word, tag


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank line and of -DOCSTART-."""
    # Spaces and tabs alone separate columns: a no-break space belongs to a word.
    cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
    if not any(cells) or cells[0] == "-DOCSTART-":
        return []
    is_comment = _COMMENT.match(line) and not is_tag(cells[-1], "IOBES")
    return [] if is_comment else cells


def read_columns(
    lines: Iterable[str], cells_of: Callable[[str], list[str]], faults: Faults
) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the numbers and the cells of its lines.

    Args:
        cells_of: line -> its cells; an empty list for a line that ends a sentence.
        faults: receives lines with another number of columns than the first, or with one alone; their
            sentence is left out.
    """
    rows: list[tuple[int, list[str]]] = []  # the lines of this sentence
    width = 0  # the number of columns
    is_whole = True
    for number, line in enumerate(chain(lines, [""]), 1):  # the empty line ends the last sentence
        cells = cells_of(line) if line else []
        if cells:
            width = width or len(cells)  # the first line decides
            if len(cells) != width or width < 2:
                expected = max(width, 2)  # there must be two at least
                faults.add(number, f"{len(cells)} columns, not {expected}", _FORM)
                is_whole = False
            rows.append((number, cells))
        elif rows:
            if is_whole:
                yield rows
            rows, is_whole = [], True


def _of_objects(objects: Iterable[tuple[int, Any]], faults: Faults) -> Iterator[TaggedWords]:
    """The sentences of JSON: in each two lists of texts that are equally long, or a text and spans of it."""
    marked = 0  # spans whose text the file does not have
    cut: list[tuple[int, str]] = []  # those of them that cut a word: the line, and the word
    for line, value in objects:
        names = [name for name in (*WORD_KEYS, *TAG_KEYS) if name in value]
        lists = [value[name] for name in names]
        if len(lists) == 2 and _is_list_of_texts(lists[0]) and isinstance(lists[1], list):
            words, tags = lists
            if fault := fault_of_words(words, tags):
                faults.add(line, fault, f"'{names[1]}' has a tag for each word of '{names[0]}'")
            elif words:
                yield TaggedWords.of_line(line, words, tags)
            continue
        cells = plain_object(value)
        text = next((cells[name] for name in cells if purpose_of(name) == TEXT), "")
        given = value.get("tokens")  # Prodigy's
        spans, words, tags, fault = [], [], [], ""
        # Of other objects, parts may have these names and be something else.
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            bounds = [(token["start"], token["end"]) for token in given] if given else None
            spans, fault = _spans_in(text, json.loads(cells.get(SPANS, "[]")))
            words, tags = ([], []) if fault else _words_of_spans(text, spans, bounds)
        if fault and text:
            faults.add(line, fault, "offsets count characters, from 0, and spans do not overlap")
        elif not words:
            mend = "an object has tokens and tags, one for each, or a text and spans of it"
            faults.add(line, f"it has {', '.join(value)}", mend)
        else:
            yield TaggedWords.of_line(line, words, tags)
            unsure = [span for span in spans if "text" not in span]
            marked += len(unsure)
            cut += [(line, word) for span in unsure if (word := _cut_word(text, span))]
    if len(cut) > _MOST_CUT * marked:
        line, word = cut[0]
        what = (
            "%s: %s of %s spans begin or end within a word, the first in line %d: %s; are the offsets right?"
        )
        logger.warning(what, faults.name, f"{len(cut):,}", f"{marked:,}", line, word)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _spans_in(text: str, spans: list[dict]) -> tuple[list[dict], str]:
    """The spans of a text with offsets in characters, and what is wrong with them, or "".

    Label Studio counts units of UTF-16, as JavaScript does: an emoji has two. A file that has the texts of
    its spans shows what it counts.
    """
    fault = _fault_of_spans(text, spans)
    if not fault or not any("text" in span for span in spans):
        return spans, fault
    units = accumulate((1 + (character > "\uffff") for character in text), initial=0)
    places = {unit: place for place, unit in enumerate(units)}
    in_characters = [
        {**span, "start": places.get(span["start"]), "end": places.get(span["end"])} for span in spans
    ]
    return (spans, fault) if _fault_of_spans(text, in_characters) else (in_characters, "")


def _fault_of_spans(text: str, spans: list[dict]) -> str:
    """What is wrong with the spans of a text, whose offsets count characters; "": they are right."""
    for span in spans:
        start, end, label = span["start"], span["end"], span["label"]
        if not (isinstance(start, int) and isinstance(end, int)):
            return f"{_named(span)} has no whole numbers"
        if not isinstance(label, str):
            return f"{_named(span)} has a label that is no text"
        if start < 0 or end > len(text):
            return f"{_named(span)} is not within the text, which has {len(text):,} characters"
        marked = text[start:end]
        # Label Studio writes line ends as \\n, or not at all, and grows a span to whole words afterwards.
        if "text" in span and _letters(span["text"]) not in _letters(marked):
            return f"{_named(span)} is {span['text'][:80]!r}, but {marked[:80]!r} stands there"
        if not marked.strip():
            return f"{_named(span)} is blank"
    for span, following in pairwise(sorted(spans, key=itemgetter("start"))):
        if following["start"] < span["end"]:
            return f"{_named(span)} and {_named(following)} overlap"
    return ""


def _letters(text: str) -> str:
    return re.sub(r"\\n|\s", "", text)


def _named(span: Mapping) -> str:
    return f"the span {span['start']} to {span['end']} ({shown(span['label'])})"


def _cut_word(text: str, span: Mapping) -> str:
    """The word that a span begins or ends within, with a bar there; "": there is none.

    A word is of letters that have capitals. The others are of scripts without spaces between words, as
    Chinese, Japanese and Thai, or of languages that join particles to a name, as Korean, Arabic and Hebrew.
    """
    for place in (span["start"], span["end"]):
        before, behind = text[max(place - 20, 0) : place], text[place : place + 20]
        if all(letter.lower() != letter.upper() for letter in (before[-1:], behind[:1])):
            return shown(f"{before.split()[-1]}|{behind.split()[0]}")
    return ""


def _words_of_spans(
    text: str, spans: Sequence[Mapping], bounds: Sequence[tuple[int, int]] | None
) -> tuple[list[str], list[str]]:
    """The words of a text and their tags in IOB2.

    Args:
        spans: the start, the end and the label of each, in characters; see `_fault_of_spans`.
        bounds: those of the words; None: they are found. A word that a span cuts becomes several.
    """
    tag_at = [OUTSIDE] * len(text)  # of each character: the tag of a word that begins there
    edges = set()
    for span in spans:
        start, end, label = span["start"], span["end"], span["label"]
        start += len(text[start:end]) - len(text[start:end].lstrip())
        tag_at[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
        edges |= {start, end}
    words, tags = [], []
    for start, end in bounds or split_words(text, marks_apart=True):
        cuts = [start, *sorted(edge for edge in edges if start < edge < end), end]
        for first, last in pairwise(cuts):
            words.append(text[first:last])
            tags.append(tag_at[first])
    return words, tags
