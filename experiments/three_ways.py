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
from evaluation.retrieval import choose_on_half, found_by_cosine, found_by_margin

COUNTS = (300, 1000)  # pairs of a language that are searched
PLAIN = "plain"
# Each half of the held-out pairs is searched with means that come from the other half.
HALVES = ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2)))


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
        """The means over these rows of the pairs."""
        sentences: dict[str, list[np.ndarray]] = {}
        for languages, sides in self.pairs.items():
            for language, vectors in zip(languages, sides):
                sentences.setdefault(language, []).append(vectors[:, rows])
        return LanguageMeans.of({name: np.concatenate(parts, axis=1) for name, parts in sentences.items()})

    def accuracies(self) -> dict[str, np.ndarray]:
        """Way -> the share of held-out pairs that each layer finds, a mean over language pairs, [L + 1]."""
        result = {PLAIN: self._accuracy(found_by_cosine)}
        for way, find in CENTRED_WAYS.items():
            of_halves = [self._accuracy(find, rows, self.means(rest)) for rows, rest in HALVES]
            result[way] = np.mean(of_halves, axis=0)
        return result

    def _accuracy(
        self,
        find: Callable[[np.ndarray, np.ndarray], np.ndarray],
        rows: slice = slice(None),
        means: LanguageMeans | None = None,
    ) -> np.ndarray:
        """[L + 1]; the pairs of `rows` are searched among themselves."""
        of_pairs = []
        for languages, sides in self.pairs.items():
            searched = [vectors[:, rows] for vectors in sides]
            if means is not None:
                searched = [means.subtract(vectors, name) for vectors, name in zip(searched, languages)]
            src, tgt = searched
            of_pairs.append([find(*layer).mean() / 2 for layer in zip(src, tgt)])
        return np.mean(of_pairs, axis=0)


def retrieval(held_out: HeldOut, bitexts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Search bitexts in both directions.

    Args:
        bitexts: language -> the vectors of its sentences and of their English translations, [L + 1, N, H].

    Returns:
        As JSON, without the numbers of pairs of which there are not so many:
        layers: way -> the layer; "layer" is that of plain;
        held_out_layers: way -> what `HeldOut.accuracies` gives;
        "retrieval <count>" (plain), "retrieval <count> <way>": language -> [directions in which each pair is
        found, twos];
        half: language -> [per cent, standard error] of 300 pairs, plain, where the layer is chosen on one
        half and the other half is searched (150 candidates);
        named: language -> how many of so many sentences the nearest language mean names, by layer.
    """
    accuracies = held_out.accuracies()
    layers = {way: int(of_layers.argmax()) for way, of_layers in accuracies.items()}
    means = held_out.means()
    result: dict[str, Any] = {
        "layer": layers[PLAIN],
        "layers": layers,
        "held_out_layers": {way: of_layers.tolist() for way, of_layers in accuracies.items()},
        "half": {},
        "named": named_languages(means, bitexts),
    }
    for language, (src, tgt) in bitexts.items():
        half = choose_on_half(src[:, : COUNTS[0]], tgt[:, : COUNTS[0]])
        result["half"][language] = [100 * half.mean, 100 * half.standard_error]
        layer = layers[PLAIN]
        for count in COUNTS:
            directions = found_by_cosine(src[layer, :count], tgt[layer, :count])
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
    """Language -> the number of its sentences, and how many are nearest to its own mean, by layer."""
    sentences = {language: src for language, (src, _) in bitexts.items()}
    sentences["en"] = np.concatenate([tgt for _, tgt in bitexts.values()], axis=1)
    result = {}
    for language, vectors in sorted(sentences.items()):
        right = means.nearest(vectors) == means.languages.index(language)  # [L + 1, N]
        result[language] = {"right": right.sum(axis=1).tolist(), "sentences": vectors.shape[1]}
    return result


def _cells(directions: np.ndarray) -> list[list[int]]:
    """Of each pair the directions in which it is found, 0 to 2, and how many directions there are, 2."""
    return [directions.tolist(), [2] * len(directions)]
