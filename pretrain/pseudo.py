"""BTMLM's pseudo-tokens: how many, where, in which language and from which pieces.

Pure numpy; the pass that predicts them is pretrain/btmlm.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pretrain.masking import Vocabulary
from utils.errors import UserError

_PAIR_EXPONENT = 0.7


def number_of_pseudo_tokens(length: int, proportion: float) -> int:
    """p = max(1, round(proportion x length)); the paper's Figure 6 compares 5, 10, 15 and 20 %."""
    return max(1, round(proportion * length))


def longest_sentence(length: int, proportion: float, limit: int) -> int:
    """The largest n <= `length` with n + p + 4 special tokens <= `limit`.

    Raises:
        UserError: not even one token fits.
    """
    n = min(length, int((limit - 4) / (1 + proportion)) + 1)
    while n > 0 and n + number_of_pseudo_tokens(n, proportion) + 4 > limit:
        n -= 1
    if n < 1 <= length:
        raise UserError(
            f"max_seq_len {limit} leaves no room for a sentence, its pseudo-tokens and 4 special tokens"
        )
    return n


def placeholder_offsets(placeholders: int, length: int, spread: bool, limit: int) -> np.ndarray:
    """Where the placeholders stand, counted from the first target position. int64 [P], ascending.

    Args:
        placeholders: P.
        length: tokens of the sentence.
        spread: False: 0 .. P-1, as a CAMLM pair's first target tokens. True: evenly over the sentence's
            length, or as much of it as `limit` leaves after the sentence and 4 special tokens.
        limit: the longest sequence; no position exceeds what it allows.
    """
    if not spread:
        return np.arange(placeholders)
    span = max(placeholders, min(length, limit - 4 - length))
    return (2 * np.arange(placeholders) + 1) * span // (2 * placeholders)


class SecondLanguage:
    """Draws the language of the pseudo-tokens.

    "parallel": in proportion to pairs^0.7 among the languages with parallel data with the sentence's own
    (CAMLM taught only these directions); where it has none, in proportion to (all their pairs)^0.7 among
    languages with any; where no language has any, uniformly. "uniform": uniformly from all other languages.
    """

    def __init__(
        self, languages: Sequence[str], pairs: Mapping[tuple[int, int], int], mode: str = "parallel"
    ):
        """`pairs` counts sentence pairs by two indices into `languages`; (a, b) and (b, a) are added.

        Raises:
            UserError: there is only one language.
        """
        if len(languages) < 2:
            raise UserError(f"btmlm needs a second language, but the only language is {list(languages)}")
        counts = np.zeros((len(languages), len(languages)))
        for (a, b), count in pairs.items():
            counts[a, b] += count
            counts[b, a] += count
        np.fill_diagonal(counts, 0)
        others = 1.0 - np.eye(len(languages))
        if mode == "uniform":
            weights = others
        else:
            weights = counts**_PAIR_EXPONENT
            for fallback in (others * counts.sum(0) ** _PAIR_EXPONENT, others):
                weights = np.where(weights.sum(1, keepdims=True) > 0, weights, fallback)
        self.probabilities = weights / weights.sum(1, keepdims=True)  # [languages, languages]
        self._cumulative = np.cumsum(self.probabilities, axis=1)
        self._cumulative /= self._cumulative[:, -1:]  # exactly 1 at the end, so that no draw falls beyond

    def draw(self, language: int, rng: np.random.Generator) -> int:
        """A language other than `language`."""
        return int(np.searchsorted(self._cumulative[language], rng.random(), side="right"))


def allowed_pieces(piece_counts: np.ndarray, min_count: int, vocabulary: Vocabulary) -> list[np.ndarray]:
    """The pieces each language's pseudo-tokens may be, without specials.

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        min_count: the least that counts; where no piece of a language reaches it, its occurring pieces serve,
            and where it has no text at all, every piece.

    Returns:
        one sorted int64 array per language.
    """
    ordinary = vocabulary.ordinary_ids
    allowed = []
    for counts in piece_counts:
        for floor in (min_count, 1, 0):
            pieces = ordinary[counts[ordinary] >= floor]
            if len(pieces):
                break
        allowed.append(pieces)
    return allowed
