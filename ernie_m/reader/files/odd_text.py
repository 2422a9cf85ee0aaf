"""Text that may be none: lines that are numbers, have a number, an id or a tag, or HTML; other scripts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.languages import script_of_language
from ernie_m.utils.logging import logger

_HEAD = 1000  # lines that are looked at
_FEWEST = 5  # fewer tell nothing
_SHOWN = 3
_WITH_DIGIT = re.compile(r"(\S*\d\S*)(\s)")  # 17, but also de-000018, 1089-134686-0000 or 3:16
_NUMBER = re.compile(r"(\d{1,18})[.:)]?")
_LABELLED = re.compile(r"__label__\S+|\[[^\]\s]{1,20}\]|\{[^}\s]{1,20}\}|<[^<>\s]{1,20}>")
_HTML = re.compile(r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)
_TAG_ALONE = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
_ENCLOSED = re.compile('".*"".*"')  # as pandas writes a text with quotation marks, also between tabs
_NUMBERS = re.compile(r"[-\d.;\s]+")  # as ERNIE's ids for pre-training
_TIMES = re.compile(r"\d+:\d\d:\d\d[.,]\d+ --> ")


def look_at_text(path: str | Path, lines: Sequence[str], language: str, as_it_stands: bool | None) -> None:
    """Show three lines of a file, and see whether they are text in its language.

    Args:
        lines: the first ones.
        language: "" if it is not known.
        as_it_stands: whether every text is taken; None: it is taken, and nothing is shown.

    Raises:
        UserError: most lines are numbers, begin with a number, an id or a tag, or have HTML.
    """
    texts = [(number, line) for number, line in enumerate(lines[:_HEAD], 1) if line.strip()]
    name = f"{path}: {language}" if language else path
    if as_it_stands is not None:
        for _, line in texts[:_SHOWN]:
            logger.info("%s: %s", name, shown(line.strip()))
    odd = _what_is_odd(texts)
    if odd:
        number, what, is_asked = odd
        message = f"{path}, line {number}: {what}"
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
    letters = [letter for letter in "".join(lines)[: 20 * _HEAD] if letter.isalpha()]
    names = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in letters)
    # Japanese has three scripts.
    names["CJK"] += names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0)
    script, count = names.most_common(1)[0]
    return script if 2 * count > len(letters) >= _FEWEST else ""


def _what_is_odd(texts: Sequence[tuple[int, str]]) -> tuple[int, str, bool] | None:
    """The number of the first line that is odd as many lines are, how, and whether to ask about it."""
    if len(texts) < _FEWEST:
        return None
    most = 0.9 * len(texts)
    begins = [match for _, line in texts if (match := _WITH_DIGIT.match(line))]
    are_column = sum(match[2] == "\t" for match in begins) >= most
    numbers = [int(match[1]) for begin in begins if (match := _NUMBER.fullmatch(begin[1]))]
    steps = [after - before for before, after in pairwise(numbers)]
    are_in_order = len(numbers) >= most and steps.count(1) >= 0.9 * len(steps)
    # Ids have one form, and differ. Text may begin with any numbers, or with one word such as COVID-19.
    ids = [begin[1] for begin in begins if not _NUMBER.fullmatch(begin[1])]
    forms = Counter(re.sub(r"\d+", "0", id_) for id_ in ids)
    are_ids = max(forms.values(), default=0) >= most and 2 * len(set(ids)) > len(ids)
    if are_column or are_in_order or are_ids:
        off = " (cut -f 2- takes a column off)" if are_column else ""
        return texts[0][0], f"a number or an id stands before each line{off}", True
    # A share, a test of a line, and what is said of a file if more than this share of its lines pass it.
    for least, tells, what in (
        (0, _TIMES.match, "it has the times of subtitles"),
        (0, _TAG_ALONE.fullmatch, "lines are tags"),
        (0.5, _LABELLED.match, "a tag stands before most lines"),
        (0.5, _NUMBERS.fullmatch, "most lines are numbers alone"),
        (0.01, _ENCLOSED.fullmatch, "quotation marks enclose {:.0%} of the lines, and are doubled there"),
        (0.1, _HTML.search, "{:.0%} of the lines have HTML"),
    ):
        lines = [number for number, line in texts if tells(line.strip())]
        share = len(lines) / len(texts)
        if len(lines) > 1 and share > least:
            return lines[0], what.format(share), least == 0 or share > 0.5
    return None
