"""Tagged sentences in the official TSV format, and splitting of text into words."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ernie_m.reader.files.official_tsv import parse_header, parse_row
from ernie_m.reader.labels import normalize_label
from ernie_m.reader.tag_schemes import JOINT, OUTSIDE, SCHEMES, to_iob2
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_bytes

SENTENCE_HEADER = "text_a, label; tokens and tags are joined by U+0002"  # for errors
# Punctuation at the edges of words: brackets, quotation marks, and sentence punctuation.
_MARKS = re.escape("()[]{}\"'`«»‹›„“”‚‘’¡¿.,;:!?…،؛؟。、，！？：；।॥")
_WITH_MARKS = re.compile(rf"([{_MARKS}]*)(.*?)([{_MARKS}]*)", re.DOTALL)
_EQUAL_MARKS = re.compile(r"(.)\1*")  # a repeated mark
# A space between words, one long word, or several characters of a script without spaces.
_SEVERAL_WORDS = re.compile("\\S\\s\\S|\\S{21}|[\u0e00-\u109f\u1780-\u17ff\u2e80-\U0010ffff]{7}")
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # without its last full stop: U.N, J

# Scripts whose characters may be words of their own; "others": letters and digits of all other scripts.
Script = Literal["Han", "kana", "Thai", "Lao", "Khmer", "Burmese", "Hangul", "others"]
WITHOUT_SPACES: dict[Script, str] = {
    "Han": "[\u2e80-\u2fdf\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]",
    "kana": "[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]",
    "Thai": "[\u0e01-\u0e3a\u0e40-\u0e4e]",
    "Lao": "[\u0e81-\u0ece\u0edc-\u0edf]",
    "Khmer": "[\u1780-\u17d3\u17d7\u17dc\u17dd]",
    "Burmese": "[\u1000-\u103f\u104c-\u108f\u109a-\u109f]",
}
_WITH_SPACES: dict[Script, str] = {"Hangul": "[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"}
_NAMED = WITHOUT_SPACES | _WITH_SPACES
_CHARACTERS: dict[Script, str] = {**_NAMED, "others": rf"(?!{'|'.join(_NAMED.values())})[^\W_]"}
# Of a script in training data: number of words, and their share that is a single character.
_FEWEST_WORDS = 10
_MOST_SINGLE = 0.95


def find_character_scripts(sentences: Iterable["Sentence"]) -> list[Script]:
    """Find the scripts whose characters are words in tagged sentences, as Han often are in Chinese data."""
    counts = Counter(word for sentence in sentences for word in sentence.words)
    scripts = []
    for script, characters in _CHARACTERS.items():
        lengths = Counter[bool]()  # whether a word is a single character -> number of words
        for word in filter(re.compile(characters).search, counts):
            lengths[len(word) == 1] += counts[word]
        if lengths.total() >= _FEWEST_WORDS and lengths[True] >= _MOST_SINGLE * lengths.total():
            scripts.append(script)
    return scripts


def find_unknown_words(text: str, character_scripts: Collection[Script]) -> tuple[Script, str] | None:
    """Find characters that `split_words` cannot split into words; return their script and them.

    Several characters of a script without spaces may be one word or several. It is known only of
    `character_scripts`.
    """
    for script, characters in WITHOUT_SPACES.items():
        match = re.search(characters + "{2,}", text)
        if match and script not in character_scripts:
            return script, match[0]
    return None


def split_words(
    text: str, split_punctuation: bool, character_scripts: Collection[Script] = ()
) -> list[tuple[int, int]]:
    """Split a text into words at white space, and return the character span (start, end) of each word.

    Args:
        split_punctuation: whether punctuation at the edges of a word forms separate words: "(CDU)," is four
            words, "..." one, and "U.N." one.
        character_scripts: scripts whose characters are words of their own.
    """
    spans = []
    single = "|".join(_CHARACTERS[script] for script in character_scripts) or "(?!)"  # (?!) never matches
    for chunk in re.finditer(rf"{single}|(?:(?!{single})\S)+", text):
        if not split_punctuation:
            spans.append(chunk.span())
            continue
        before, word, after = _WITH_MARKS.fullmatch(chunk[0]).groups()  # type: ignore[union-attr]  # always matches
        if after.startswith(".") and _ABBREVIATION.fullmatch(word):
            word += "."
            after = after[1:]
        parts = [match[0] for match in _EQUAL_MARKS.finditer(before)] + [word] * bool(word)
        parts += [match[0] for match in _EQUAL_MARKS.finditer(after)]
        start = chunk.start()
        for part in parts:
            spans.append((start, start + len(part)))
            start += len(part)
    return spans


def has_separate_punctuation(sentences: Iterable["Sentence"]) -> bool:
    """Return whether most punctuation marks are separate words in tagged sentences, as in CoNLL."""
    apart = attached = 0
    for sentence in sentences:
        for word in sentence.words:
            # A period may be part of an abbreviation.
            ends_in_mark = word[-1] in ",;:!?)" and len(word) > 1
            apart += word in ",;:!?)."
            attached += ends_in_mark and word[0].isalnum()
    return apart >= attached


def compute_punctuation_entity_rate(sentences: Iterable["Sentence"], begin_labels: Collection[int]) -> float:
    """Compute the fraction of entities that begin with punctuation, which is high if tags are shifted.

    In WikiANN, the fraction is at most 0.5 % in ten languages, and 17 to 55 % if tags are shifted by a word,
    except for a right shift in Chinese (1 %).

    Args:
        begin_labels: the label ids of tags that begin an entity.
    """
    count = on_marks = 0
    for sentence in sentences:
        for word, label in zip(sentence.words, sentence.labels or ()):
            if label in begin_labels:
                count += 1
                on_marks += not any(map(str.isalnum, word))
    return on_marks / max(count, 1)


class Sentence(NamedTuple):
    """A tagged sentence.

    Attributes:
        text: the words, joined by U+0002.
        labels: the label id of each word; None without a label column.
    """

    text: str
    labels: tuple[int, ...] | None

    @property
    def words(self) -> list[str]:
        """The words of the sentence."""
        return self.text.split(JOINT)


def read_tagged_tsv(
    path: str | os.PathLike, label_map: Mapping[str, int], scheme: str = "IOB", labels: bool = True
) -> list[Sentence]:
    """Read a TSV file of tagged sentences, with the words in text_a and the tags in label joined by U+0002.

    Tags are converted to IOB2, unless the scheme is NONE.

    Args:
        label_map: tag -> label id, with B- and I- of each type unless the scheme is NONE.
        scheme: the tagging scheme of the file, a key of `SCHEMES`.
        labels: whether the label column is required.

    Raises:
        UserError: the file cannot be read, a line is invalid, a tag is unknown, or the words of most rows are
            not joined by U+0002.
    """
    path = Path(path)
    label_map = {normalize_label(label): id_ for label, id_ in label_map.items()}
    required = ["text_a", "label"] if labels else ["text_a"]
    lines = read_bytes(path).rstrip(b"\r\n").split(b"\n")
    header = parse_header(lines[0], path, required, SENTENCE_HEADER)
    rows = [
        dict(zip(header, parse_row(line, path, number, header))) for number, line in enumerate(lines[1:], 2)
    ]
    unjoined = [text for row in rows if JOINT not in (text := row["text_a"]) and _SEVERAL_WORDS.search(text)]
    if 2 * len(unjoined) > len(rows):
        raise UserError(
            f"{path}: the words of {len(unjoined)} of {len(rows)} rows are not joined by U+0002, as "
            f"in '{unjoined[0][:40]}'. Separate words, and tags, by U+0002, or convert the file "
            "with ernie-m prepare"
        )
    sentences = []
    for number, row in enumerate(rows, 2):
        location = f"{path}, line {number}"
        words = row["text_a"].split(JOINT)
        tags = [normalize_label(tag) for tag in row["label"].split(JOINT)] if "label" in row else None
        if error := find_words_error(words, words if tags is None else tags):
            raise UserError(f"{location}: {error}. Separate words, and tags, by U+0002")
        label_ids = None if tags is None else _convert_tags_to_ids(tags, label_map, scheme, location)
        sentences.append(Sentence(row["text_a"], label_ids))
    if not sentences:
        raise UserError(f"{path}: no rows after the header")
    return sentences


def find_words_error(words: Sequence[str], tags: Sequence[Any]) -> str:
    """Return the error in the words and tags of a sentence; "" if they are valid."""
    if len(words) != len(tags):
        return f"{len(words):,} words, but {len(tags):,} tags"
    for number, (word, tag) in enumerate(zip(words, tags), 1):
        if not isinstance(tag, str):
            return f"invalid tag {tag} (expected a string such as B-LOC)"
        if not word or not tag.strip():
            return f"empty word or tag at position {number:,} of {len(words):,}"
    return ""


def _convert_tags_to_ids(
    tags: list[str], label_map: Mapping[str, int], scheme: str, location: str
) -> tuple[int, ...]:
    """Return the label ids of the tags of a sentence, after conversion to IOB2.

    Args:
        scheme: the tagging scheme; with NONE, tags are not converted.
        location: the file and line, for errors.

    Raises:
        UserError: a tag does not belong to the scheme, or is not in the label map.
    """
    labels = tags if scheme == "NONE" else to_iob2(tags)
    for number, (tag, label) in enumerate(zip(tags, labels), 1):
        has_prefix = tag[0] in SCHEMES[scheme] and tag[1:2] == "-"
        if not (has_prefix or scheme == "NONE" or tag == OUTSIDE) or label not in label_map:
            letters = ", ".join(SCHEMES[scheme]) or "no letters"
            raise UserError(
                f"{location}, token {number}: unknown tag '{tag}' (--chunk_scheme {scheme}: {letters}; "
                f"label map: {', '.join(label_map)})"
            )
    return tuple(label_map[label] for label in labels)
