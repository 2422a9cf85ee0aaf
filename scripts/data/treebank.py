"""Words and parts of speech of Universal Dependencies (CoNLL-U), as XTREME prepares them.

A form that the treebank splits into several words, such as the French "du" (de + le), is one word here. Its
part of speech is that of the part which is nearest to the root of the tree, among equally near ones the first
by the rank of its language.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

PARTS_OF_SPEECH = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT",
    "SCONJ", "SYM", "VERB", "X",
)  # fmt: skip
_RANK = (
    "VERB", "NOUN", "PROPN", "PRON", "ADJ", "NUM", "ADV", "INTJ", "AUX", "ADP", "DET", "PART", "CCONJ",
    "SCONJ", "X", "PUNCT", "SYM",
)  # fmt: skip
# Language -> the parts of speech that come first there. The others follow in the order of _RANK.
_FIRST_IN_RANK = {
    "es": ("VERB", "AUX", "PRON", "ADP", "DET"),
    "fr": ("VERB", "AUX", "PRON", "NOUN", "ADJ", "ADV", "ADP", "DET", "PART", "SCONJ"),
    "it": ("VERB", "AUX", "ADV", "PRON", "ADP", "DET", "INTJ"),
}
_COLUMNS = 10
_NO_TEXT = "_"  # in place of the words of treebanks whose text may not be passed on


class Word(NamedTuple):
    """A word of the tree: its form, its part of speech, and the number of its head, 0 for the root."""

    form: str
    tag: str
    head: int


def read_sentences(lines: Iterable[str], path: Path, language: str) -> Iterator[list[tuple[str, str]]]:
    """Yield the (form, part of speech) of the words of each sentence; sentences without text are left out.

    Raises:
        UserError: a line has another form, or an unknown part of speech; names the line.
    """
    first = _FIRST_IN_RANK.get(language, ())
    rank = (*first, *(tag for tag in _RANK if tag not in first))
    words: dict[int, Word] = {}  # by their numbers
    fused: dict[range, str] = {}  # numbers of words -> the form that they have together
    for number, line in enumerate([*lines, ""], 1):  # the empty line ends the last sentence
        if line.startswith("#"):
            continue
        if line:
            _read_line(line, words, fused, f"{path}, line {number}")
            continue
        sentence = _joined(words, fused, rank)
        blanks = sum(form == _NO_TEXT for form, _ in sentence)
        # A sentence of blanks, with at most one other word, has no text.
        has_text = blanks == 0 or blanks < len(sentence) - 1
        if sentence and has_text:
            yield sentence
        words = {}
        fused = {}


def _read_line(line: str, words: dict[int, Word], fused: dict[range, str], place: str) -> None:
    """Add what a line says of a word, or of several.

    Args:
        words: the number of a word -> the word; a word of the line is added.
        fused: the numbers of several words -> their common form; one of the line is added.
        place: the file and the line, the beginning of an error.

    Raises:
        UserError: the line has another form.
    """
    cells = line.split("\t")
    if len(cells) != _COLUMNS:
        raise UserError(f"{place}: {len(cells)} columns, and CoNLL-U has {_COLUMNS}")
    id_, form, _, tag, _, _, head = cells[:7]  # the others are the lemma, a tag of the language, features
    form = form.replace("\u200c", "").replace(" ", "")  # U+200C: a zero-width non-joiner
    if "." in id_:  # an empty node of the enhanced tree
        return
    if tag == "_":  # not given
        tag = "X"
    first, hyphen, last = id_.partition("-")  # a number, or two with a hyphen
    try:
        if hyphen:
            fused[range(int(first), int(last) + 1)] = form
            return
        if tag not in PARTS_OF_SPEECH:
            raise UserError(f"{place}: '{tag}' is no part of speech of Universal Dependencies")
        head_number = 0 if head == "_" else int(head)
        words[int(first)] = Word(form, tag, head_number)
    except ValueError as error:
        raise UserError(f"{place}: '{id_}' and '{head}' should number words") from error


def _joined(
    words: Mapping[int, Word], fused: Mapping[range, str], rank: Sequence[str]
) -> list[tuple[str, str]]:
    """The words of a sentence in order, with fused forms in place of their parts."""
    form_at: dict[int, str] = {}  # the number of the part that gives the tag -> the fused form
    parts: set[int] = set()  # the numbers of all parts of fused forms
    for numbers, form in fused.items():
        parts_of_form = [number for number in numbers if number in words]
        if parts_of_form:
            form_at[_nearest_to_root(parts_of_form, words, rank)] = form
            parts.update(parts_of_form)
    sentence = []
    for number, word in sorted(words.items()):
        if number in form_at:
            sentence.append((form_at[number], word.tag))
        elif number not in parts:
            sentence.append((word.form, word.tag))
    return sentence


def _nearest_to_root(numbers: Sequence[int], words: Mapping[int, Word], rank: Sequence[str]) -> int:
    """The number of the word that is nearest to the root; of several, the first by the rank of its tag."""

    def key(number: int) -> tuple[int, int]:
        return _depth(number, words), rank.index(words[number].tag)

    return min(numbers, key=key)


def _depth(number: int, words: Mapping[int, Word]) -> int:
    """How many words are on the path from a word to the root of the tree, the word included."""
    path: set[int] = set()
    while number in words and number not in path:  # a damaged tree may have a circle
        path.add(number)
        number = words[number].head
    return len(path)
