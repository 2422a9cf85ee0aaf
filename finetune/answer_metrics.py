"""Exact match and F1 of answers, by one of two sets of rules.

mlqa (Lewis et al., 2020): punctuation is what Unicode calls so; articles and words are those of the language.
squad (SQuAD v1.1): punctuation is ASCII's, articles are English, words stand at white space, whatever the
language; XTREME (Hu et al., 2020) compares the answers to XQuAD and TyDi QA so.
"""

import functools
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence

# What is taken out of an answer as an article. Hindi and Chinese have none; nor have other languages here.
ARTICLES = {
    "en": re.compile(r"\b(?:a|an|the)\b"),
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),  # wherever it stands, inside a word too: MLQA's script does so
}
# Languages in which each of these characters is a word of its own, and white space parts the rest.
_MIXED = {"zh": re.compile("[\u4e00-\u9fa5]")}
_ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def exact_match(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """1.0 if the prediction equals one of the answers once all are normalised, else 0.0."""
    words = normalize(prediction, language, rules)
    return float(any(words == normalize(answer, language, rules) for answer in answers))


def f1(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """The best F1 over the answers, of words as multisets; 0.0 where no word is shared."""
    words = Counter(normalize(prediction, language, rules))
    return max(_f1(words, Counter(normalize(answer, language, rules))) for answer in answers)


def mean_scores(
    rows: Sequence[tuple[str, Sequence[str]]], language: str, rules: str = "mlqa"
) -> dict[str, float]:
    """{"f1": ..., "em": ...} over (prediction, answers), per cent. `rules`: of `utils.args.ANSWER_RULES`."""
    matched = sum(exact_match(prediction, answers, language, rules) for prediction, answers in rows)
    shared = 0.0
    for prediction, answers in rows:  # one after the other: the last digit depends on the order
        shared += f1(prediction, answers, language, rules)
    return {"f1": 100.0 * shared / len(rows), "em": 100.0 * matched / len(rows)}


def normalize(text: str, language: str, rules: str = "mlqa") -> list[str]:
    """The words of an answer: lower case, no punctuation, no articles. squad's rules have one language."""
    text = text.lower()
    if rules == "squad":
        return ARTICLES["en"].sub(" ", text.translate(_ASCII_PUNCTUATION)).split()
    text = text.translate(_punctuation())
    if language in ARTICLES:
        text = ARTICLES[language].sub(" ", text)
    if language in _MIXED:
        text = _MIXED[language].sub(r" \g<0> ", text)
    return text.split()


def _f1(prediction: Counter, answer: Counter) -> float:
    shared = (prediction & answer).total()
    if not shared:
        return 0.0
    precision, recall = shared / prediction.total(), shared / answer.total()
    return 2 * precision * recall / (precision + recall)


@functools.cache
def _punctuation() -> dict[int, None]:
    """Every character that Unicode calls punctuation (P*), and ASCII's symbols such as $ + < = >."""
    codes = (code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*codes, *map(ord, string.punctuation)])
