"""Exact match and F1 of answers, normalized by MLQA's rules for each language or by those of SQuAD."""

import functools
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ernie_m.reader.labels import parse_language
from ernie_m.utils.logging import logger

# Articles that are removed from an answer. Hindi and Chinese have none.
ARTICLES = {
    "en": re.compile(r"\b(?:a|an|the)\b"),
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),  # MLQA's script also removes it inside words
}
# In these languages each of these characters counts as a word; other words are separated by white space.
_CHARACTERS_AS_WORDS = {"zh": re.compile("[\u4e00-\u9fa5]")}
_LANGUAGES = (*ARTICLES, "hi", "zh")  # languages with MLQA rules
_ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def compute_exact_match(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """Return 1.0 if the normalized prediction equals one of the normalized answers, else 0.0.

    Args:
        language: the language of the answers, for MLQA's rules.
        rules: "mlqa" or "squad".
    """
    words = normalize(prediction, language, rules)
    return float(any(words == normalize(answer, language, rules) for answer in answers))


def compute_f1(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """Return the highest bag-of-words F1 with any gold answer; arguments: see `compute_exact_match`."""
    best = 0.0
    words = Counter(normalize(prediction, language, rules))
    for answer in answers:
        answer_words = Counter(normalize(answer, language, rules))
        shared = (words & answer_words).total()
        if shared:
            precision = shared / words.total()
            recall = shared / answer_words.total()
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@functools.cache  # so that each name is logged once
def resolve_rules_language(name: str) -> str:
    """Return the language whose MLQA rules normalize answers; log a warning if there are no rules for it.

    For an unknown language, the result is English. The articles of a known language without rules are kept.

    Args:
        name: a key of a language map, or a file name that contains the language.
    """
    language = parse_language(name)
    if language not in _LANGUAGES:
        logger.warning(
            "%s: --answer_rules mlqa supports %s, not %s; answers are normalized %s",
            name,
            ", ".join(_LANGUAGES),
            language or "an unknown language (name it as in dev.de.json)",
            "without removing articles" if language else "as English",
        )
    return language or "en"


def has_answers(gold: Iterable[Sequence[str]]) -> bool:
    """Return whether any question has a gold answer that is not blank."""
    return any(answer.strip() for answers in gold for answer in answers)


def score_answers(
    rows: Sequence[tuple[str, Sequence[str]]], name: str, rules: str = "mlqa"
) -> dict[str, float | None]:
    """Compute the mean F1 ("f1") and exact match ("em") of predictions, in percent; None without answers.

    Args:
        rows: the predicted answer and the gold answers of each question.
        name: the language, or a file name that contains the language; see `resolve_rules_language`.
        rules: "mlqa" or "squad".
    """
    if not has_answers(answers for _, answers in rows):
        return {"f1": None, "em": None}
    language = resolve_rules_language(name) if rules == "mlqa" else ""
    sum_of_f1 = 0.0
    sum_of_matches = 0.0
    for prediction, answers in rows:  # in this order, which the last digit depends on
        sum_of_f1 += compute_f1(prediction, answers, language, rules)
        sum_of_matches += compute_exact_match(prediction, answers, language, rules)
    return {"f1": 100.0 * sum_of_f1 / len(rows), "em": 100.0 * sum_of_matches / len(rows)}


def normalize(text: str, language: str, rules: str = "mlqa") -> list[str]:
    """Normalize an answer to a list of words in lower case, without punctuation and articles.

    Args:
        language: the language of the answer, for MLQA's rules.
        rules: "mlqa", or "squad": English articles and ASCII punctuation for every language.
    """
    text = text.lower()
    if rules == "squad":
        return ARTICLES["en"].sub(" ", text.translate(_ASCII_PUNCTUATION)).split()
    text = text.translate(_make_punctuation_table())
    if language in ARTICLES:
        text = ARTICLES[language].sub(" ", text)
    if language in _CHARACTERS_AS_WORDS:
        text = _CHARACTERS_AS_WORDS[language].sub(r" \g<0> ", text)  # spaces around each character
    return text.split()


@functools.cache
def _make_punctuation_table() -> dict[int, None]:
    """Return the characters that MLQA's rules remove, as a table for `str.translate`.

    They are Unicode punctuation (categories P*), and ASCII symbols such as $ + < = >.
    """
    codes = (code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*codes, *map(ord, string.punctuation)])
