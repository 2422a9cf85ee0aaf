"""Checks that lines are text in the expected script, without line numbers, ids, tags or HTML.

The checks detect what most lines have in common: the beginning, symbols, or consecutive numbers. The first
lines of a file are checked when it is opened, and samples of later lines when they are read.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.languages import expected_script
from ernie_m.utils.logging import logger

MOST_LINES = 1000  # lines to check
_FEWEST = 5  # fewer lines are not checked
_FEWEST_OF_A_PART, _MOST_OF_A_PART = 30, 250  # of a file
_LEAST = 0.5  # minimum share of lines with an issue; in clean text in 15 languages at most 0.26
_HTML = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|apos|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)
_BEFORE_PIECE = re.compile(r"(?<=[^\s@])@@(?: |$)")  # of subword-nmt; never in text
_IN_PIECES = re.compile(r" ##\w| @[-,.:/]@ ")  # of WordPiece, Moses
_TAG_ALONE = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
_ENCLOSED = re.compile('".*"')
_DOUBLED = re.compile('".*"".*"')  # as pandas writes a text with quotation marks, also in TSV
_CUT = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff]{1,3} ){3}")  # segmented Chinese or Japanese
_EDGES = "-–—,.!?…;'\"`«»‹›„“”‚‘’¡¿،؛؟。、，！？；।()"  # punctuation at the edges of words
_SIGNS = ("Pc", "Sc", "Sk", "Sm", "So")  # Unicode categories of connectors and symbols
# Prompts of E5 and nomic-embed.
_PROMPTS = ("query: ", "passage: ", "search_query: ", "search_document: ")
_LONGEST_NUMBER = 19  # digits
_FIX = "Remove it, or, if it is text, set --skip_text_checks true"
_OTHER_SCRIPT = 0.1  # minimum share of lines in a second script for a warning
# Letters that were lost or escaped: h?lt, h\u00e4lt, h\xc3\xa4lt, h%C3%A4lt, and line ends as \n. In clean
# text in 15 languages in at most 1.2 % of 250 lines.
_LOST = re.compile(
    r"[?¿¤\ufffd\x1a\\%]"  # first, so that the search is fast
    r"(?:(?<=[^\W\d_\u0e00-\uffff][?¿¤\ufffd\x1a])[?¿¤\ufffd\x1a]*[^\W\d_\u0e00-\uffff]"
    r"|(?<=\\)(u[\da-fA-F]{4}|x[\da-fA-F]{2}|[0-3][0-7]{2}|n(?![a-z]))"
    r"|(?<=%)[C-F][\dA-F]%[89AB][\dA-F])"
)
# Placeholders of missing texts: NULL, __NULL__, [missing], -
_MISSING = re.compile(r"[\W_]*((null|nil|none|na|n/a|nan|missing|undefined|empty)[\W_]*)?", re.IGNORECASE)
_PRINTED = re.compile(r"\[\s*['\"].*['\"]\s*\]")  # a list of texts
_TIMES = re.compile(r"\d+:\d\d:\d\d[.,]\d+ --> ")


def check_text(
    path: str | Path,
    lines: Sequence[str],
    language: str,
    skip_text_checks: bool | None,
) -> str:
    """Log the first line of a file, and check that its lines are text in the script of its language.

    Args:
        lines: the first lines of the file.
        language: the language code; "" if unknown.
        skip_text_checks: whether to accept every text (--skip_text_checks); None: log a warning instead of an
            error, and do not log the first line.

    Returns:
        The script of the lines; see `detect_script`.

    Raises:
        UserError: most lines have no letters, are lists, begin with a number, id or tag, or contain HTML.
    """
    texts = [(number, line) for number, line in enumerate(lines[:MOST_LINES], 1) if line.strip()]
    name = f"{path}: {language}" if language else path
    if skip_text_checks is not None:
        for _, line in texts[:1]:
            logger.info("%s: %s", name, format_value(line.strip()))
    odd = _find_issue(texts, most_repeated=0.05 if language else 0.5)  # 100 questions may have 5 answers
    if odd:
        number, what, is_asked = odd
        message = f"{path}, line {number}: {what}"
        if skip_text_checks is None or not (is_asked or skip_text_checks):
            logger.warning("%s; keeping it as text", message)
        elif not skip_text_checks:
            raise UserError(f"{message}. {_FIX}")
    script = detect_script([line for _, line in texts])
    expected = expected_script(language)
    if script and expected and script != expected:
        logger.warning(
            "%s: most letters are %s, but the script of '%s' is %s. Check the language, or swap the sides",
            path,
            script.title(),
            language,
            expected.title(),
        )
    scripts = Counter(filter(None, (detect_script([line]) for _, line in texts))).most_common(2)
    if language and scripts[1:] and scripts[1][1] > _OTHER_SCRIPT * len(texts):
        shares = " and ".join(f"{count / len(texts):.0%} {name.title()}" for name, count in scripts)
        logger.warning("%s: '%s' is in two scripts: %s of the lines", path, language, shares)
    return script


def check_later_lines(path: str | Path, texts: Iterable[tuple[int, str]]) -> None:
    """Check that later lines of a file are text; `check_text` checks the first lines.

    Args:
        texts: the line numbers and the lines.

    Raises:
        UserError: see `check_text`.
    """
    lines = [(number, line) for number, line in texts if line]
    step = len(lines) // _MOST_OF_A_PART + 1
    odd = _find_issue(lines[::step], step) if len(lines) >= _FEWEST_OF_A_PART else None
    if odd and odd[2]:
        raise UserError(f"{path}, line {odd[0]}: {odd[1]}. {_FIX}")


def detect_script(lines: Sequence[str]) -> str:
    """Return the script of most letters by their Unicode names: "LATIN", ...; "" if there are few letters."""
    letters = [letter for letter in "".join(lines)[: 20 * MOST_LINES] if letter.isalpha()]
    names = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in letters)
    # Japanese has three scripts.
    names["CJK"] += names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0)
    script, count = names.most_common(1)[0]
    return script if 2 * count > len(letters) >= _FEWEST else ""


def _find_issue(
    texts: Sequence[tuple[int, str]], step: int = 1, most_repeated: float = 1
) -> tuple[int, str, bool] | None:
    """Find an issue that many lines share: the first line number, the issue, and whether it is an error.

    Args:
        texts: the line numbers and the lines.
        step: the distance between consecutive lines of `texts` in the file.
        most_repeated: the maximum share of lines with one text, for many lines.

    Returns:
        None if there is no issue, or there are few lines.
    """
    if len(texts) < _FEWEST:
        return None
    features = [_find_features(line, step * index) for index, (_, line) in enumerate(texts)]
    counts = Counter(chain.from_iterable(features))
    feature = max(counts, key=lambda feature: (counts[feature], len(feature), feature), default="")
    share = counts[feature] / len(texts)
    if share > _LEAST + len(texts) ** -0.5:  # for few lines, nearly all
        number, line = next(text for text, has in zip(texts, features) if feature in has)
        if feature.endswith(" "):
            return (
                number,
                f"{share:.0%} of the lines begin with a number, tag or id, "
                f"such as {format_value(line.split()[0])}",
                True,
            )
        off = " (cut -f removes columns)" if feature == "\t" else ""
        return number, f"{share:.0%} of the lines contain {feature!r}{off}", True
    found = []
    # Of few lines, nearly all; and more than of the next text, unlike in a toy file of repeated sentences.
    (repeated, _), *others = Counter(line.strip() for _, line in texts).most_common(2)
    most_repeated += (6 + sum(count for _, count in others)) / len(texts)
    # Minimum share of lines for a warning, and for an error; a test of a line; and the message.
    for least, asked, tells, what in (
        (0, 0, _TIMES.match, "the file contains subtitle times"),
        (0, 0, _TAG_ALONE.fullmatch, "lines are tags"),
        (0, 0, _BEFORE_PIECE.search, "words are split into subwords by @@"),
        (0.5, 0.5, _has_no_letter, "{:.0%} of the lines have no letters"),
        (0.5, 0.5, _PRINTED.fullmatch, "{:.0%} of the lines are printed lists"),
        (0.1, 0.1, _IN_PIECES.search, "{:.0%} of the lines are tokenized, with ## or @-@"),
        (0.1, 0.1, _is_misread, "{:.0%} of the lines are UTF-8 decoded as cp1252 or ISO-8859-1"),
        (0.1, 0.1, _LOST.search, "{:.0%} of the lines have lost or escaped letters, as in {}"),
        (0.05, 0.05, _MISSING.fullmatch, "{:.0%} of the lines are placeholders, such as {}"),
        (most_repeated, most_repeated, repeated.__eq__, "{:.0%} of the lines are {}"),
        (0.5, 0.5, _ENCLOSED.fullmatch, "{:.0%} of the lines are enclosed in quotation marks"),
        (0.5, 0.5, _CUT.search, "{:.0%} of the lines are segmented Chinese or Japanese"),
        (0.01, 0.5, _DOUBLED.fullmatch, "{:.0%} of the lines are enclosed in quotation marks"),
        (0.1, 0.25, _HTML.search, "{:.0%} of the lines have HTML"),
    ):
        lines = [(number, line.strip()) for number, line in texts if tells(line.strip())]
        share = len(lines) / len(texts)
        if len(lines) > 1 and share >= least:
            found.append((lines[0][0], what.format(share, format_value(lines[0][1])), share >= asked))
    return max(found, key=lambda odd: odd[2], default=None)  # prefer the first error


def _find_features(line: str, index: int) -> set[str]:
    """Return the symbols of a line, and the pattern of its first word if that is not a plain word.

    Args:
        index: the number of lines before this line, to detect line numbers.
    """
    if line.lower().startswith(_PROMPTS):
        line = line.partition(" ")[2]
    first, *rest = line.split(maxsplit=1) or [""]
    signs = {sign for sign in line if sign == "\t" or unicodedata.category(sign) in _SIGNS}
    if not rest:  # a line without spaces
        return signs
    word = first.strip(_EDGES)
    number = word.removesuffix(":")
    if number.isdecimal() and len(number) < _LONGEST_NUMBER:
        return signs | {f"{int(number) - index} "}
    pattern = re.sub(r"a+", "a", re.sub(r"0+", "0", "".join(map(_classify_character, word))))
    return signs | ({f"{pattern} "} - {" ", "a ", "0 "})


def _is_misread(line: str) -> bool:
    """Return whether a line is UTF-8 that was decoded as cp1252 or ISO-8859-1."""
    for encoding in ("cp1252", "iso-8859-1"):
        with suppress(UnicodeError):
            return len(line.encode(encoding).decode()) < len(line)
    return False


def _has_no_letter(line: str) -> bool:
    """Return whether a line has no letters."""
    return not any(map(str.isalpha, line))


@cache
def _classify_character(character: str) -> str:
    """Map letters to "a", digits to "0", and other characters to themselves."""
    category = unicodedata.category(character)[0]
    return "a" if category in "LM" else "0" if category == "N" else character
