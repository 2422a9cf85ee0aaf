"""Centred sentence vectors: vectors without the mean of their language. No Paddle here.

The vectors of a language share a direction that says which language it is and nothing of the sentence
(Libovicky et al., 2020). Without this direction, translations are closer to each other than to other
sentences of their own language. The means need text of each language, but no translations.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.search import unit
from model.checkpoint.formats import safetensors
from utils.errors import UserError

MEANS_POOLING = "mean"  # the pooling of the sentence vectors that `LanguageMeans` is made of


@dataclass(frozen=True)
class LanguageMeans:
    """The mean sentence vector of each language at each layer, with `MEANS_POOLING`.

    Attributes:
        languages: in alphabetical order.
        vectors: float32 [languages, L + 1, H].
    """

    languages: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, sentences: Mapping[str, np.ndarray]) -> "LanguageMeans":
        """The means of sentence vectors.

        Args:
            sentences: language -> the vectors that `evaluation.encode.encode` makes, [L + 1, N, H].
        """
        languages = sorted(sentences)
        means = [sentences[language].mean(axis=1, dtype=np.float64) for language in languages]
        return cls(languages, np.stack(means).astype(np.float32))

    @classmethod
    def read(cls, path: str | os.PathLike, shape: tuple[int, int]) -> "LanguageMeans":
        """Read the file language_means.safetensors of a checkpoint folder.

        Args:
            shape: (L + 1, H) of the model.

        Raises:
            UserError: there is no such file, it is damaged, or it belongs to a model of another shape.
        """
        tensors = safetensors.read(path)  # language -> [L + 1, H]
        languages = sorted(tensors)
        shapes = {tensors.shape(language) for language in languages}
        is_damaged = len(shapes) != 1 or any(len(axes) != 2 for axes in shapes)
        if is_damaged:
            raise UserError(f"{path}: damaged: it has no language means, or they differ in shape")
        if shapes != {shape}:
            raise UserError(f"{path}: it belongs to a model of another shape")
        return cls(languages, np.stack([tensors[language] for language in languages]).astype(np.float32))

    def by_language(self) -> dict[str, np.ndarray]:
        """Language -> its mean at each layer, [L + 1, H], as a checkpoint folder holds them."""
        return dict(zip(self.languages, self.vectors))

    def subtract(self, vectors: np.ndarray, language: str) -> np.ndarray:
        """The centred vectors of sentences of one language: [L + 1, N, H] -> [L + 1, N, H]."""
        mean = self.vectors[self.languages.index(language)]  # [L + 1, H]
        return vectors - mean[:, None]  # [L + 1, 1, H]: the same for all sentences

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """The language whose mean has the largest cosine with each vector.

        Args:
            vectors: of sentences in any languages, [L + 1, N, H].

        Returns:
            Indices into `languages`, int64 [L + 1, N].
        """
        indices = [self.at(layer).nearest(vectors[layer]) for layer in range(len(vectors))]
        return np.stack(indices)

    def at(self, layer: int) -> "LayerMeans":
        """The means at one layer."""
        return LayerMeans(self.languages, self.vectors[:, layer])  # [languages, H]


@dataclass(frozen=True)
class LayerMeans:
    """The mean sentence vector of each language at one layer. The sentence vectors may have any pooling.

    Attributes:
        languages: in the order of the vectors.
        vectors: float32 [languages, H].
    """

    languages: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, sentences: Mapping[str, np.ndarray]) -> "LayerMeans":
        """The means of sentence vectors.

        Args:
            sentences: language -> the vectors of its sentences, [N, H].
        """
        means = [vectors.mean(axis=0, dtype=np.float64) for vectors in sentences.values()]
        return cls(list(sentences), np.stack(means).astype(np.float32))

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """The language whose mean has the largest cosine with each vector.

        Args:
            vectors: [N, H].

        Returns:
            Indices into `languages`, int64 [N].
        """
        cosines = unit(vectors) @ unit(self.vectors).T  # [N, languages]
        return cosines.argmax(axis=1)

    def centred(self, vectors: np.ndarray, languages: Sequence[str] | None = None) -> np.ndarray:
        """Vectors without the means of their languages, float32 [N, H].

        Args:
            vectors: [N, H].
            languages: the language of each vector; None: the language of the nearest mean is taken.

        Raises:
            UserError: a language has no mean.
        """
        if languages is None:
            indices = self.nearest(vectors)
        else:
            unknown = sorted(set(languages).difference(self.languages))
            if unknown:
                missing = ", ".join(unknown)
                available = ", ".join(self.languages)
                raise UserError(f"there is no mean of {missing}; there are means of {available}")
            indices = [self.languages.index(language) for language in languages]
        return vectors - self.vectors[indices]
