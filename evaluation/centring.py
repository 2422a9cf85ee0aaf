"""Centred sentence vectors: vectors without the mean of their language. No Paddle here.

The vectors of a language share a direction that says which language it is and nothing of the sentence
(Libovicky et al., 2020). Without it translations are closer to each other than to other sentences of their
own language. The means need text of each language, but no translations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.search import unit


@dataclass(frozen=True)
class LanguageMeans:
    """The mean sentence vector of each language at each layer.

    Attributes:
        languages: in alphabetical order.
        vectors: float32 [languages, L + 1, H].
    """

    languages: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, sentences: Mapping[str, np.ndarray]) -> "LanguageMeans":
        """The means of sentences that `evaluation.encode.encode` made: language -> [L + 1, N, H]."""
        languages = sorted(sentences)
        means = [sentences[language].mean(axis=1, dtype=np.float64) for language in languages]
        return cls(languages, np.stack(means).astype(np.float32))

    def subtract(self, vectors: np.ndarray, language: str) -> np.ndarray:
        """The centred vectors of sentences of one language, [L + 1, N, H]."""
        mean = self.vectors[self.languages.index(language)]  # [L + 1, H]
        return vectors - mean[:, None]

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """The language whose mean has the largest cosine with each vector.

        Args:
            vectors: of sentences in any languages, [L + 1, N, H].

        Returns:
            Places in `languages`, int64 [L + 1, N].
        """
        layers = [
            unit(of_layer) @ unit(self.vectors[:, layer]).T  # [N, languages]
            for layer, of_layer in enumerate(vectors)
        ]
        return np.stack(layers).argmax(axis=2)
