"""Text that may be none: lines that are numbers, have a number, an id or a tag, or HTML; other scripts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.languages import script_of_language
from ernie_m.utils.logging import logger

MOST_LINES = 1000  # lines that are looked at
_FEWEST = 5  # fewer tell nothing
_SHOWN = 3
_LEAST = 0.5  # the share of lines that text never has: of clean text in 15 languages 0.26 is the greatest
_NUMBERED = re.compile(r"(\d{1,18})[.:)]?\s")
_HTML = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)
_TAG_ALONE = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
_ENCLOSED = re.compile('".*"".*"')  # as pandas writes a text with quotation marks, also between tabs
_NUMBERS = re.compile(r"[-\d.;\s]+")  # as ERNIE's ids for pre-training
_EDGES = "-–—,.!?…;'\"`«»‹›„“”‚‘’¡¿،؛؟。、，！？；।()"  # of a word, in writing
_SIGNS = ("Pc", "Sc", "Sk", "Sm", "So")  # connectors and symbols, by Unicode's categories
_TIMES = re.compile(r"\d+:\d\d:\d\d[.,]\d+ --> ")


def look_at_text(
    path: str | Path,
    lines: Sequence[str],
    language: str,
    as_it_stands: bool | None,
    further: Sequence[str] = (),
) -> None:
    """Show three lines of a file, and see whether they are text in its language.

    Args:
        lines: the first ones.
        language: "" if it is not known.
        as_it_stands: whether every text is taken; None: it is taken, and nothing is shown.
        further: lines of other places.

    Raises:
        UserError: most lines are numbers, begin with a number, an id or a tag, or have HTML.
    """
    texts = [(number, line) for number, line in enumerate(lines[:MOST_LINES], 1) if line.strip()]
    name = f"{path}: {language}" if language else path
    if as_it_stands is not None:
        for _, line in texts[:_SHOWN]:
            logger.info("%s: %s", name, shown(line.strip()))
    odd = _what_is_odd([*texts, *((0, line) for line in further if line.strip())])
    if odd:
        number, what, is_asked = odd
        message = f"{path}, line {number}: {what}" if number else f"{path}: {what}"
        if as_it_stands is None or not (is_asked or as_it_stands):
            logger.warning("%s; it is taken for text", message)
        elif not as_it_stands:
            raise UserError(f"{message}; take it out, or, if it is text: --text_as_it_stands true")
    script = script_of([line for _, line in texts])
    expected = script_of_language(language)
    if script and expected and script != expected:
        logger.warning(
            "%s: most letters are %s, and those of '%s' are %s; is it another language, or are the sides "
            "swapped?",
            path,
            script.title(),
            language,
            expected.title(),
        )


def script_of(lines: Sequence[str]) -> str:
    """The script of most letters, as Unicode names it; "" if there are few letters."""
    letters = [letter for letter in "".join(lines)[: 20 * MOST_LINES] if letter.isalpha()]
    names = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in letters)
    # Japanese has three scripts.
    names["CJK"] += names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0)
    script, count = names.most_common(1)[0]
    return script if 2 * count > len(letters) >= _FEWEST else ""


def _what_is_odd(texts: Sequence[tuple[int, str]]) -> tuple[int, str, bool] | None:
    """The number of the first line that is odd as many lines are, how, and whether to ask about it."""
    if len(texts) < _FEWEST:
        return None
    numbers = [int(match[1]) for _, line in texts if (match := _NUMBERED.match(line))]
    steps = [after - before for before, after in pairwise(numbers)]
    if len(numbers) >= 0.9 * len(texts) and steps.count(1) >= 0.9 * len(steps):
        return texts[0][0], "a number stands before each line", True
    counts = Counter(chain.from_iterable(_features(line) for _, line in texts))
    feature = max(counts, key=lambda feature: (counts[feature], len(feature), feature), default="")
    share = counts[feature] / len(texts)
    if share > _LEAST + len(texts) ** -0.5:  # of few lines nearly all
        number, line = next((number, line) for number, line in texts if feature in _features(line))
        if feature.endswith(" "):
            return (
                number,
                f"a tag or an id, such as {shown(line.split()[0])}, begins {share:.0%} of the lines",
                True,
            )
        off = " (cut -f takes a column off)" if feature == "\t" else ""
        return number, f"{feature!r} is in {share:.0%} of the lines{off}", True
    # A share, a test of a line, and what is said of a file if more than this share of its lines pass it.
    for least, tells, what in (
        (0, _TIMES.match, "it has the times of subtitles"),
        (0, _TAG_ALONE.fullmatch, "lines are tags"),
        (0.5, _NUMBERS.fullmatch, "most lines are numbers alone"),
        (0.01, _ENCLOSED.fullmatch, "quotation marks enclose {:.0%} of the lines, and are doubled there"),
        (0.1, _HTML.search, "{:.0%} of the lines have HTML"),
    ):
        lines = [number for number, line in texts if tells(line.strip())]
        share = len(lines) / len(texts)
        if len(lines) > 1 and share > least:
            return lines[0], what.format(share), least == 0 or share > 0.5
    return None


def _features(line: str) -> set[str]:
    """The form of the first word of a line, if it is no plain word, and signs that are not of writing."""
    first, *rest = line.split(maxsplit=1) or [""]
    signs = {sign for sign in line if sign == "\t" or unicodedata.category(sign) in _SIGNS}
    signs |= {sign for sign in ("@@", "##") if sign in line}  # of pieces
    if not rest:  # of a language without spaces it is no word
        return signs
    word = first.strip(_EDGES)
    form = re.sub(r"a+", "a", re.sub(r"0+", "0", "".join(map(_kind, word))))
    return signs | ({f"{form} "} - {" ", "a ", "0 "})


@cache
def _kind(character: str) -> str:
    """The letter a for letters, 0 for digits, and other characters themselves."""
    category = unicodedata.category(character)[0]
    return "a" if category in "LM" else "0" if category == "N" else character
