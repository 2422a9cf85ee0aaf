"""Text that may be none: lines without letters, with a number, an id or a tag, or HTML; other scripts.

What most lines have alike is measured: how they begin, signs that are not of writing, and numbers that count
the lines. A file is looked at where it begins, and each part of it when it is read.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.languages import expected_script
from ernie_m.utils.logging import logger

MOST_LINES = 1000  # lines that are looked at
_FEWEST = 5  # fewer tell nothing
_FEWEST_OF_A_PART, _MOST_OF_A_PART = 30, 250  # of a file
_SHOWN = 1
_LEAST = 0.5  # the share of lines that text never has: of clean text in 15 languages 0.26 is the greatest
_HTML = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|apos|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)
_BEFORE_PIECE = re.compile(r"(?<=[^\s@])@@(?: |$)")  # of subword-nmt; no line of text has it
_IN_PIECES = re.compile(r" ##\w| @[-,.:/]@ ")  # of WordPiece, Moses
_TAG_ALONE = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
_ENCLOSED = re.compile('".*"')
_DOUBLED = re.compile('".*"".*"')  # as pandas writes a text with quotation marks, also between tabs
_CUT = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff]{1,3} ){3}")  # words of Chinese or Japanese
_EDGES = "-–—,.!?…;'\"`«»‹›„“”‚‘’¡¿،؛؟。、，！？；।()"  # of a word, in writing
_SIGNS = ("Pc", "Sc", "Sk", "Sm", "So")  # connectors and symbols, by Unicode's categories
# Before each text for E5 and nomic-embed.
_PROMPTS = ("query: ", "passage: ", "search_query: ", "search_document: ")
_LONGEST_NUMBER = 19  # digits
_MEND = "take it out, or, if it is text: --skip_text_checks true"
_OTHER_SCRIPT = 0.1  # the share of lines of a second script that is said
_PRINTED = re.compile(r"\[\s*['\"].*['\"]\s*\]")  # a list of texts
_TIMES = re.compile(r"\d+:\d\d:\d\d[.,]\d+ --> ")


def check_text(
    path: str | Path,
    lines: Sequence[str],
    language: str,
    as_it_stands: bool | None,
) -> str:
    """Show the first line of a file, and see whether they are text in its language.

    Args:
        lines: the first ones.
        language: "" if it is not known.
        as_it_stands: whether every text is taken; None: it is taken, and nothing is shown.

    Returns:
        `detect_script` the lines.

    Raises:
        UserError: most lines have no letters or are lists, begin with a number, an id or a tag, or have HTML.
    """
    texts = [(number, line) for number, line in enumerate(lines[:MOST_LINES], 1) if line.strip()]
    name = f"{path}: {language}" if language else path
    if as_it_stands is not None:
        for _, line in texts[:_SHOWN]:
            logger.info("%s: %s", name, shown(line.strip()))
    odd = _find_issue(texts)
    if odd:
        number, what, is_asked = odd
        message = f"{path}, line {number}: {what}"
        if as_it_stands is None or not (is_asked or as_it_stands):
            logger.warning("%s; it is taken for text", message)
        elif not as_it_stands:
            raise UserError(f"{message}; {_MEND}")
    script = detect_script([line for _, line in texts])
    expected = expected_script(language)
    if script and expected and script != expected:
        logger.warning(
            "%s: most letters are %s, and those of '%s' are %s; is it another language, or are the sides "
            "swapped?",
            path,
            script.title(),
            language,
            expected.title(),
        )
    scripts = Counter(filter(None, (detect_script([line]) for _, line in texts))).most_common(2)
    if language and scripts[1:] and scripts[1][1] > _OTHER_SCRIPT * len(texts):
        shares = " and ".join(f"{count / len(texts):.0%} {name.title()}" for name, count in scripts)
        logger.warning("%s: '%s' is written in two scripts, %s of the lines", path, language, shares)
    return script


def refuse_odd_part(path: str | Path, texts: Iterable[tuple[int, str]]) -> None:
    """Look at a part of a file that `check_text` may not have seen.

    Args:
        texts: the number of each line, and the line.

    Raises:
        UserError: as `check_text`.
    """
    lines = [(number, line) for number, line in texts if line]
    step = len(lines) // _MOST_OF_A_PART + 1
    odd = _find_issue(lines[::step], step) if len(lines) >= _FEWEST_OF_A_PART else None
    if odd and odd[2]:
        raise UserError(f"{path}, line {odd[0]}: {odd[1]}; {_MEND}")


def detect_script(lines: Sequence[str]) -> str:
    """The script of most letters, as Unicode names it; "" if there are few letters."""
    letters = [letter for letter in "".join(lines)[: 20 * MOST_LINES] if letter.isalpha()]
    names = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in letters)
    # Japanese has three scripts.
    names["CJK"] += names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0)
    script, count = names.most_common(1)[0]
    return script if 2 * count > len(letters) >= _FEWEST else ""


def _find_issue(texts: Sequence[tuple[int, str]], step: int = 1) -> tuple[int, str, bool] | None:
    """The number of the first line that is odd as many lines are, how, and whether to ask about it.

    Args:
        step: each is so many lines with text behind that before it.
    """
    if len(texts) < _FEWEST:
        return None
    features = [_features(line, step * index) for index, (_, line) in enumerate(texts)]
    counts = Counter(chain.from_iterable(features))
    feature = max(counts, key=lambda feature: (counts[feature], len(feature), feature), default="")
    share = counts[feature] / len(texts)
    if share > _LEAST + len(texts) ** -0.5:  # of few lines nearly all
        number, line = next(text for text, has in zip(texts, features) if feature in has)
        if feature.endswith(" "):
            return (
                number,
                f"a number, tag or id, such as {shown(line.split()[0])}, begins {share:.0%} of the lines",
                True,
            )
        off = " (cut -f takes a column off)" if feature == "\t" else ""
        return number, f"{feature!r} is in {share:.0%} of the lines{off}", True
    found = []
    # The shares of lines from which on they are said and asked about, a test of a line, and what is said.
    for least, asked, tells, what in (
        (0, 0, _TIMES.match, "it has the times of subtitles"),
        (0, 0, _TAG_ALONE.fullmatch, "lines are tags"),
        (0, 0, _BEFORE_PIECE.search, "words are in pieces, with @@ between"),
        (0.5, 0.5, _has_no_letter, "{:.0%} of the lines have no letters"),
        (0.5, 0.5, _PRINTED.fullmatch, "{:.0%} of the lines are lists that were printed"),
        (0.1, 0.1, _IN_PIECES.search, "{:.0%} of the lines have words in pieces, as by ## or @-@"),
        (0.1, 0.1, _is_misread, "{:.0%} of the lines are UTF-8 that was read as cp1252 or ISO-8859-1"),
        (0.5, 0.5, _ENCLOSED.fullmatch, "quotation marks enclose {:.0%} of the lines"),
        (0.5, 0.5, _CUT.search, "{:.0%} of the lines have spaces between words of Chinese or Japanese"),
        (0.01, 0.5, _DOUBLED.fullmatch, "quotation marks enclose {:.0%} of the lines, doubled in them"),
        (0.1, 0.25, _HTML.search, "{:.0%} of the lines have HTML"),
    ):
        lines = [number for number, line in texts if tells(line.strip())]
        share = len(lines) / len(texts)
        if len(lines) > 1 and share > least:
            found.append((lines[0], what.format(share), share > asked))
    return max(found, key=lambda odd: odd[2], default=None)  # the first that is asked about


def _features(line: str, index: int) -> set[str]:
    """The form of the first word of a line, if it is no plain word, and signs that are not of writing.

    Args:
        index: the number of lines before it. The form of a number tells numbers that count the lines.
    """
    if line.lower().startswith(_PROMPTS):
        line = line.partition(" ")[2]
    first, *rest = line.split(maxsplit=1) or [""]
    signs = {sign for sign in line if sign == "\t" or unicodedata.category(sign) in _SIGNS}
    if not rest:  # of a language without spaces it is no word
        return signs
    word = first.strip(_EDGES)
    number = word.removesuffix(":")
    if number.isdecimal() and len(number) < _LONGEST_NUMBER:
        return signs | {f"{int(number) - index} "}
    form = re.sub(r"a+", "a", re.sub(r"0+", "0", "".join(map(_kind, word))))
    return signs | ({f"{form} "} - {" ", "a ", "0 "})


def _is_misread(line: str) -> bool:
    """Whether it becomes shorter where its characters are taken for the bytes of UTF-8."""
    for encoding in ("cp1252", "iso-8859-1"):
        with suppress(UnicodeError):
            return len(line.encode(encoding).decode()) < len(line)
    return False


def _has_no_letter(line: str) -> bool:
    return not any(map(str.isalpha, line))


@cache
def _kind(character: str) -> str:
    """The letter a for letters, 0 for digits, and other characters themselves."""
    category = unicodedata.category(character)[0]
    return "a" if category in "LM" else "0" if category == "N" else character
