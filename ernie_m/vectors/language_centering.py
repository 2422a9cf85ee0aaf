"""Centered sentence vectors: vectors without the mean of their language. No Paddle here.

The vectors of a language share a direction that says which language it is and nothing of the sentence
(Libovicky et al., 2020). Without this direction, translations are closer to each other than to other
sentences of their own language. The means need text of each language, but no translations.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.preprocessing import MEAN_WITHOUT_SPECIAL
from ernie_m.utils.errors import UserError
from ernie_m.vectors.pooling import unit

# The fewest sentences of a language whose mean is made. A single sentence minus its own mean would be 0.
FEWEST_SENTENCES = 5
_CLEAR_LEAD = 0.2  # see `LanguageCentering.nearest`
MEANS_POOLING = MEAN_WITHOUT_SPECIAL  # the pooling of the sentence vectors whose means are beside the weights


@dataclass(frozen=True)
class LanguageCentering:
    """The mean sentence vector of each language, at one layer or at each. No language is there twice.

    Attributes:
        languages: in the order of the vectors.
        vectors: [languages, H] at one layer, [languages, L + 1, H] at each.
    """

    languages: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, sentences: Mapping[str, np.ndarray]) -> "LanguageCentering":
        """The means of sentence vectors, float32, in alphabetical order of the languages.

        Args:
            sentences: language -> the vectors of its sentences, [N, H], or [L + 1, N, H] of each layer. It
                may be empty.
        """
        languages = sorted(sentences)
        means = [sentences[language].mean(axis=-2, dtype=np.float64) for language in languages]
        return cls(languages, np.array(means, np.float32))

    @classmethod
    def read(cls, path: str | os.PathLike, shape: tuple[int, int]) -> "LanguageCentering":
        """Read the file language_means.safetensors of a checkpoint folder: the means at each layer, float32.

        They are of vectors with `MEANS_POOLING`, and in alphabetical order of the languages.

        Args:
            shape: (L + 1, H) of the model.

        Raises:
            UserError: there is no such file, it is damaged, or it belongs to a model of another shape.
        """
        tensors = safetensors.read(path)  # language -> [L + 1, H]
        languages = sorted(tensors)
        if {*tensors.shapes.values()} != {shape}:
            raise UserError(f"{path}: corrupt, or of a model with another shape")
        return cls(languages, np.stack([tensors[language] for language in languages]).astype(np.float32))

    def at(self, layer: int) -> "LanguageCentering":
        """The means at one layer, out of those at each."""
        return LanguageCentering(self.languages, self.vectors[:, layer])  # [languages, H]

    def subtract(self, vectors: np.ndarray, language: str) -> np.ndarray:
        """The centered vectors of sentences of one language, in the shape of `vectors`.

        Args:
            vectors: [N, H], or at each layer [L + 1, N, H].
        """
        mean = self.vectors[self.languages.index(language)]  # [H] or [L + 1, H]
        return vectors - mean[..., None, :]  # the same mean for all sentences of a layer

    def nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The language whose mean at this layer has the largest cosine with each vector.

        The choice is clear if this mean leads the second one by a fifth of its lead over the average of all.

        Args:
            vectors: the vectors of sentences in any languages, [N, H].

        Returns:
            Indices into `languages`, int64 [N], and whether each is clear, bool [N].
        """
        cosines = unit(vectors) @ unit(self.vectors).T  # [N, languages]
        ascending = np.sort(cosines, axis=1)
        largest = ascending[:, -1]
        second = ascending[:, -2:][:, 0]  # of one language alone it is the largest itself
        is_clear = largest - second >= _CLEAR_LEAD * (largest - ascending.mean(axis=1))
        return cosines.argmax(axis=1), is_clear

    def centered(self, vectors: np.ndarray, languages: Sequence[str] | None = None) -> np.ndarray:
        """Vectors of this layer without the means of their languages, float32 [N, H].

        Args:
            vectors: [N, H].
            languages: the language of each vector; None: the language of the nearest mean is taken.

        Raises:
            UserError: a language has no mean.
        """
        indices: np.ndarray | list[int]
        if languages is None:
            indices, _ = self.nearest(vectors)
        else:
            unknown = sorted(set(languages).difference(self.languages))
            if unknown:
                there = ", ".join(self.languages)
                raise UserError(f"unknown language {', '.join(unknown)} (languages with a mean: {there})")
            indices = [self.languages.index(language) for language in languages]
        return vectors - self.vectors[indices]
