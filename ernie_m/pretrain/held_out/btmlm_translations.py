"""How many of BTMLM's pseudo-tokens are in the real translation, and how many of the most frequent words."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from ernie_m.pretrain.packing import Stage1


def found_in_translation(
    stage1: Stage1, pseudo_ids: np.ndarray, translations: Sequence[np.ndarray], ignored: np.ndarray
) -> tuple[int, int]:
    """How many pseudo-tokens are in the real translation of their sentence.

    Args:
        pseudo_ids: int64 [P], in the order of `stage1.slots`.
        translations: the real translation of each sentence, ids without specials.
        ignored: ids that are not looked for (punctuation, special ids).

    Returns:
        The number of pseudo-tokens that were found, and of those that were looked for.
    """
    is_sought = ~np.isin(pseudo_ids, ignored)  # [P]
    sought_ids = pseudo_ids[is_sought].tolist()
    sentences = stage1.slot_sentences[is_sought].tolist()  # the sentence of each of these
    ids_of_translations = [set(translation.tolist()) for translation in translations]
    found = 0
    for id_, sentence in zip(sought_ids, sentences):
        if id_ in ids_of_translations[sentence]:
            found += 1
    return found, len(sought_ids)


def most_frequent(stage1: Stage1, piece_counts: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """What to compare pseudo-tokens with: for a sentence's p slots, the language's p most frequent pieces.

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        ignored: pieces that are not taken (punctuation, special ids).

    Returns:
        int64 [P], in the order of `stage1.slots`.
    """
    guesses = np.empty_like(stage1.slots)
    for language in np.unique(stage1.slot_languages):
        counts = piece_counts[language].copy()  # [V]
        counts[ignored] = -1  # behind all others
        most_frequent_first = np.argsort(-counts, kind="stable")
        for sentence in np.unique(stage1.slot_sentences[stage1.slot_languages == language]):
            in_sentence = stage1.slot_sentences == sentence  # bool [P]
            guesses[in_sentence] = most_frequent_first[: in_sentence.sum()]
    return guesses


def punctuation_ids(pieces: Sequence[str]) -> np.ndarray:
    """The ids of pieces without a letter, mark or digit, int64. The index of a piece is its id."""
    ids = []
    for id_, piece in enumerate(pieces):
        kinds = {unicodedata.category(character)[0] for character in piece}
        if not kinds & {"L", "M", "N"}:  # Unicode's letters, marks and numbers
            ids.append(id_)
    return np.array(ids, np.int64)
