"""Retrieval of one model, measured three ways.

plain: the nearest neighbour by cosine, the paper's measure.
centred: the same with centred vectors (evaluation/centring.py).
centred margin: centred vectors, and the nearest by ratio margin with k = 4 (evaluation/search.py).

The means come from the held-out pairs of the corpus, each side for its language. The layer of each way is the
one that finds most held-out pairs; there the means come from pairs other than those that are searched.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.centring import LanguageMeans
from evaluation.retrieval import found_by_cosine, found_by_margin

COUNTS = (300, 1000)  # pairs of a language that are searched
EVEN = slice(0, None, 2)  # every second row from row 0 on
ODD = slice(1, None, 2)
PLAIN = "plain"
# Way -> the function that searches two sides [N, H] for each other. It returns the number of directions in
# which each pair is found, 0 to 2, int [N].
CENTRED_WAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "centred": found_by_cosine,
    "centred margin": found_by_margin,
}


@dataclass(frozen=True)
class HeldOut:
    """The vectors of a corpus' held-out pairs.

    Attributes:
        pairs: (a, b) -> both sides, float32 [L + 1, N, H]; row i of one translates row i of the other.
    """

    pairs: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]

    def means(self, rows: slice = slice(None)) -> LanguageMeans:
        """The mean of each language over these rows of all pairs that it is in."""
        parts: dict[str, list[np.ndarray]] = {}
        for languages, sides in self.pairs.items():
            for language, vectors in zip(languages, sides):
                parts.setdefault(language, []).append(vectors[:, rows])
        sentences = {language: np.concatenate(arrays, axis=1) for language, arrays in parts.items()}
        return LanguageMeans.of(sentences)

    def accuracies(self) -> dict[str, np.ndarray]:
        """Way -> the share of held-out pairs that each layer finds, a mean over language pairs, [L + 1]."""
        result = {PLAIN: self._accuracy(found_by_cosine)}
        for way, find in CENTRED_WAYS.items():
            # Each half is searched with means that come from the other half.
            of_even = self._accuracy(find, EVEN, self.means(ODD))
            of_odd = self._accuracy(find, ODD, self.means(EVEN))
            result[way] = np.mean([of_even, of_odd], axis=0)
        return result

    def _accuracy(
        self,
        find: Callable[[np.ndarray, np.ndarray], np.ndarray],
        rows: slice = slice(None),
        means: LanguageMeans | None = None,
    ) -> np.ndarray:
        """The share of pairs that each layer finds, a mean over language pairs, [L + 1].

        Args:
            find: `found_by_cosine` or `found_by_margin`.
            rows: these pairs are searched among themselves.
            means: are subtracted before; None: the vectors are not centred.
        """
        accuracies = []  # of each language pair, [L + 1]
        for (src_language, tgt_language), (src, tgt) in self.pairs.items():
            src = src[:, rows]
            tgt = tgt[:, rows]
            if means is not None:
                src = means.subtract(src, src_language)
                tgt = means.subtract(tgt, tgt_language)
            directions = [find(src_layer, tgt_layer) for src_layer, tgt_layer in zip(src, tgt)]
            accuracies.append([of_layer.mean() / 2 for of_layer in directions])  # out of 2 directions
        return np.mean(accuracies, axis=0)


def retrieval(held_out: HeldOut, bitexts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Search bitexts in both directions.

    Args:
        bitexts: language -> the vectors of its sentences and of their English translations, [L + 1, N, H].

    Returns:
        A dictionary that JSON can hold:
        "layer": the layer of plain;
        "layers": way -> its layer;
        "held_out_layers": way -> what `HeldOut.accuracies` returns;
        "retrieval <count>" (plain) and "retrieval <count> <way>": language -> [directions in which each pair
        is found, how many there are: 2 for each pair], of the first <count> pairs, or of all if there are
        fewer;
        "named": language -> what `named_languages` returns.
    """
    accuracies = held_out.accuracies()
    layers = {way: int(of_layers.argmax()) for way, of_layers in accuracies.items()}
    means = held_out.means()
    result: dict[str, Any] = {
        "layer": layers[PLAIN],
        "layers": layers,
        "held_out_layers": {way: of_layers.tolist() for way, of_layers in accuracies.items()},
        "named": named_languages(means, bitexts),
    }
    for language, (src, tgt) in bitexts.items():
        plain_layer = layers[PLAIN]
        for count in COUNTS:
            directions = found_by_cosine(src[plain_layer, :count], tgt[plain_layer, :count])
            result.setdefault(f"retrieval {count}", {})[language] = _cells(directions)
        centred_src = means.subtract(src, language)
        centred_tgt = means.subtract(tgt, "en")
        for way, find in CENTRED_WAYS.items():
            layer = layers[way]
            for count in COUNTS:
                directions = find(centred_src[layer, :count], centred_tgt[layer, :count])
                result.setdefault(f"retrieval {count} {way}", {})[language] = _cells(directions)
    return result


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


def _cells(directions: np.ndarray) -> list[list[int]]:
    """For each pair the directions in which it is found, 0 to 2, and how many directions there are, 2."""
    return [directions.tolist(), [2] * len(directions)]
