"""Measures of how well a vocabulary covers a text: unknown tokens, and words split into single letters."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_json import XLM_R_NAMES
from ernie_m.utils.logging import logger

# Maximum shares of unknown tokens and of single letters without a warning. In 200 lines of NTREX, a
# vocabulary of 32,000 subwords for 15 languages has at most 0.32 % (Chinese) and 25.3 % (Vietnamese).
_MOST_UNKNOWN = 0.05
_MOST_LETTERS = 0.4
_SPECIAL = re.compile("|".join(map(re.escape, [*XLM_R_NAMES, *XLM_R_NAMES.values()])))
# Code points of scripts without spaces, which have short tokens in any vocabulary.
_SHORT_TOKENS = ((0x0E00, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x10FFFF))


def warn_if_not_covered(name: object, tokenizer: Tokenizer, token_ids: Iterable[Iterable[int]]) -> None:
    """Log a warning if many tokens of the texts are [UNK] or single letters.

    Args:
        name: the source of the texts, for the warning.
        token_ids: the token ids of each text, with or without special tokens.
    """
    counts = Counter(chain.from_iterable(token_ids))
    for special in (tokenizer.cls_id, tokenizer.sep_id):
        del counts[special]
    tokens = zip(tokenizer.convert_ids_to_tokens(counts), counts.values())
    letters = sum(count for token, count in tokens if _is_letter(token.removeprefix("▁")))
    unknown = counts[tokenizer.unk_id]
    if unknown > _MOST_UNKNOWN * counts.total() or letters > _MOST_LETTERS * counts.total():
        logger.warning(
            "%s: %.0f %% of its tokens are unknown and %.0f %% single letters. The vocabulary %s does not "
            "cover this text; expect low accuracy",
            name,
            100 * unknown / counts.total(),
            100 * letters / counts.total(),
            tokenizer.piece_model_path,
        )


def warn_about_written_tokens(name: object, texts: Iterable[object]) -> None:
    """Log a warning if texts contain special tokens, such as </s> or [SEP], which are read as plain text.

    Args:
        name: the source of the texts, for the warning.
        texts: the texts, or tuples of texts.
    """
    if count := sum(_SPECIAL.search(str(text)) is not None for text in texts):
        line = "%s: %d texts contain special tokens, such as </s> or [SEP], which are read as plain text"
        logger.warning(line, name, count)


def count_unknown_words(tokenizer: Tokenizer, *texts: str) -> int:
    """Count the words of all texts with an unknown token, or split into five or more single letters."""
    return int(count_unknown_words_per_text(tokenizer, tokenizer.encode_batch(texts)).sum())


def count_unknown_words_per_text(tokenizer: Tokenizer, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Count the words of each text with an unknown token, or split into five or more single letters.

    Args:
        token_ids: the token ids of each text, with or without special tokens.

    Returns:
        The number of such words in each text, int64 [texts].
    """
    marks = _compute_token_properties(tokenizer)
    lengths = np.fromiter(map(len, token_ids), np.int64, len(token_ids))
    ids = np.fromiter(chain.from_iterable(token_ids), np.int64, lengths.sum())
    text_of_token = np.repeat(np.arange(len(lengths)), lengths)  # [tokens]
    begins = marks.begins_word[ids]  # bool [tokens], whether a word begins at the token
    begins[1:] |= text_of_token[1:] != text_of_token[:-1]  # so does the first token of a text
    begins[:1] = True
    word_of_token = np.cumsum(begins) - 1  # [tokens]
    words = int(begins.sum())

    def count_tokens(is_counted: np.ndarray) -> np.ndarray:
        """Return the number of selected tokens of each word, int64 [words]. `is_counted`: bool [tokens]."""
        return np.bincount(word_of_token[is_counted], minlength=words)

    letters = count_tokens(marks.is_letter[ids])
    is_spelt = (letters > 4) & (count_tokens(marks.is_longer[ids]) == 0)
    is_unknown = is_spelt | (count_tokens(ids == tokenizer.unk_id) > 0)  # bool [words]
    text_of_word = text_of_token[begins]  # [words]
    return np.bincount(text_of_word[is_unknown], minlength=len(lengths))


class _TokenProperties(NamedTuple):
    """Properties of all tokens of a vocabulary, by token id: bool [vocab_size] each."""

    begins_word: np.ndarray
    is_letter: np.ndarray  # a single letter, of a script with longer tokens
    is_longer: np.ndarray  # several letters


@lru_cache(maxsize=4)
def _compute_token_properties(tokenizer: Tokenizer) -> _TokenProperties:
    """Compute the properties of all tokens of a tokenizer's vocabulary, by token id."""
    tokens = tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))
    bare = [token.removeprefix("▁") for token in tokens]
    is_letter = np.array([_is_letter(token) for token in bare])
    is_alphabetic = np.array([token.isalpha() for token in bare])
    begins_word = np.array([token.startswith("▁") for token in tokens])
    return _TokenProperties(begins_word, is_letter, is_alphabetic & ~is_letter)


def _is_letter(token: str) -> bool:
    """Return whether a token is a single letter of a script that separates words with spaces."""
    if len(token) != 1 or not token.isalpha():
        return False
    return not any(first <= ord(token) <= last for first, last in _SHORT_TOKENS)
