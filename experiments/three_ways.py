"""Retrieval of one model, measured three ways.

plain: the nearest neighbour by cosine, the paper's measure.
centred: the same with centred vectors (evaluation/centring.py).
centred margin: centred vectors, and the nearest by ratio margin with k = 4 (evaluation/search.py).

The means come from the held-out pairs of the corpus, each side for its language. The layer of each way is the
one that finds most held-out pairs; for this choice each half of the pairs is searched with the means of the
other half.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evaluation.centring import LanguageMeans
from evaluation.retrieval import found_by_cosine, found_by_margin

# (language of a, of b) -> both sides, float32 [L + 1, N, H]; row i of one translates row i of the other.
Pairs = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
# Searches two sides [N, H] for each other. Returns the number of directions in which each pair is found, 0 to
# 2, int [N].
Find = Callable[[np.ndarray, np.ndarray], np.ndarray]
COUNTS = (300, 1000)  # pairs of a language that are searched
EVEN = slice(0, None, 2)  # every second row from row 0 on
ODD = slice(1, None, 2)
PLAIN = "plain"
WAYS: dict[str, Find] = {
    PLAIN: found_by_cosine,
    "centred": found_by_cosine,
    "centred margin": found_by_margin,
}


def retrieval(held_out: Pairs, bitexts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Search bitexts in both directions.

    Args:
        held_out: of a corpus.
        bitexts: language -> the vectors of its sentences and of their English translations, [L + 1, N, H].

    Returns:
        A dictionary that JSON can hold:
        "layers": way -> its layer;
        "held_out_layers": way -> what `accuracies` returns;
        "retrieval <count>" (plain) and "retrieval <count> <way>": language -> [directions in which each pair
        is found, how many there are: 2 for each pair], of the first <count> pairs, or of all if there are
        fewer;
        "named": language -> what `named_languages` returns.
    """
    of_ways = accuracies(held_out)
    layers = {way: int(of_layers.argmax()) for way, of_layers in of_ways.items()}
    means = means_of(held_out)
    result: dict[str, Any] = {
        "layers": layers,
        "held_out_layers": {way: of_layers.tolist() for way, of_layers in of_ways.items()},
        "named": named_languages(means, bitexts),
    }
    pairs = {(language, "en"): sides for language, sides in bitexts.items()}
    centred = centre(pairs, means)
    for way, find in WAYS.items():
        for (language, _), (src, tgt) in (pairs if way == PLAIN else centred).items():
            for count in COUNTS:
                directions = find(src[layers[way], :count], tgt[layers[way], :count])
                name = f"retrieval {count}" if way == PLAIN else f"retrieval {count} {way}"
                result.setdefault(name, {})[language] = [directions.tolist(), [2] * len(directions)]
    return result


def accuracies(held_out: Pairs) -> dict[str, np.ndarray]:
    """Way -> the share of held-out pairs that each layer finds, a mean over language pairs, [L + 1]."""
    # Centred, each half is searched with means that come from the other half. So there are half as many
    # candidates, and the shares are not to be compared with the plain ones.
    even = centre(rows_of(held_out, EVEN), means_of(rows_of(held_out, ODD)))
    odd = centre(rows_of(held_out, ODD), means_of(rows_of(held_out, EVEN)))
    result = {}
    for way, find in WAYS.items():
        searched = [held_out] if way == PLAIN else [even, odd]
        result[way] = np.mean([accuracy(pairs, find) for pairs in searched], axis=0)
    return result


def accuracy(pairs: Pairs, find: Find) -> np.ndarray:
    """The share of pairs that each layer finds, a mean over language pairs and directions, [L + 1]."""
    of_pairs = []
    for src, tgt in pairs.values():
        of_pairs.append([find(src_layer, tgt_layer).mean() / 2 for src_layer, tgt_layer in zip(src, tgt)])
    return np.mean(of_pairs, axis=0)


def rows_of(pairs: Pairs, rows: slice) -> Pairs:
    """Some rows of all pairs."""
    return {languages: (src[:, rows], tgt[:, rows]) for languages, (src, tgt) in pairs.items()}


def centre(pairs: Pairs, means: LanguageMeans) -> Pairs:
    """The pairs without the means of their languages."""
    return {(a, b): (means.subtract(src, a), means.subtract(tgt, b)) for (a, b), (src, tgt) in pairs.items()}


def means_of(pairs: Pairs) -> LanguageMeans:
    """The mean of each language over all pairs that it is in."""
    parts: dict[str, list[np.ndarray]] = {}
    for languages, sides in pairs.items():
        for language, vectors in zip(languages, sides):
            parts.setdefault(language, []).append(vectors)
    return LanguageMeans.of({language: np.concatenate(arrays, axis=1) for language, arrays in parts.items()})


def named_languages(
    means: LanguageMeans, bitexts: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """Language -> the number of its sentences, and how many are nearest to its own mean, by layer.

    Args:
        bitexts: see `retrieval`. The English sides of all are taken together.
    """
    sentences = {language: src for language, (src, _) in bitexts.items()}
    sentences["en"] = np.concatenate([tgt for _, tgt in bitexts.values()], axis=1)
    result = {}
    for language, vectors in sorted(sentences.items()):
        own_index = means.languages.index(language)
        correct_counts = []  # of each layer
        for layer, vectors_of_layer in enumerate(vectors):  # [N, H]
            nearest = means.at(layer).nearest(vectors_of_layer)
            correct_counts.append(int((nearest == own_index).sum()))
        result[language] = {"right": correct_counts, "sentences": vectors.shape[1]}
    return result
