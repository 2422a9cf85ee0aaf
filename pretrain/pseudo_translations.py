"""How many of BTMLM's pseudo-tokens are in the real translation, and how many of the most frequent words."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from pretrain.batch import Stage1


def found_in_translation(
    stage1: Stage1, pseudo_ids: np.ndarray, translations: Sequence[np.ndarray], ignored: np.ndarray
) -> tuple[int, int]:
    """Held-out pairs: pseudo-tokens found in the real translation, and how many were looked for.

    Args:
        pseudo_ids: int64 [S], in the order of `stage1.slots`.
        translations: the real translation of each row's sentence, ids without specials.
        ignored: ids that are not looked for (punctuation, special ids).
    """
    is_sought = ~np.isin(pseudo_ids, ignored)  # [S]
    words = [set(translation.tolist()) for translation in translations]
    count = 0
    for token, row in zip(pseudo_ids[is_sought].tolist(), stage1.slot_sentences[is_sought].tolist()):
        count += token in words[row]
    return count, int(is_sought.sum())


def most_frequent(stage1: Stage1, piece_counts: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """What to compare pseudo-tokens with: for a sentence's p slots the p most frequent pieces, int64 [S].

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        ignored: pieces that are not taken (punctuation, special ids).
    """
    guesses = np.empty_like(stage1.slots)
    for language in np.unique(stage1.slot_languages):
        counts = piece_counts[language].copy()
        counts[ignored] = -1
        ranked = np.argsort(-counts, kind="stable")
        for row in np.unique(stage1.slot_sentences[stage1.slot_languages == language]):
            is_of_row = stage1.slot_sentences == row  # [S]
            guesses[is_of_row] = ranked[: is_of_row.sum()]
    return guesses


def punctuation_ids(pieces: Sequence[str]) -> np.ndarray:
    """Indices of pieces without a letter, mark or digit, int64."""
    ids = []
    for number, piece in enumerate(pieces):
        kinds = {unicodedata.category(character)[0] for character in piece}
        if not kinds & {"L", "M", "N"}:
            ids.append(number)
    return np.array(ids, np.int64)
