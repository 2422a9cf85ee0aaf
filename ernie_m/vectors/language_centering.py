"""Mean centering of sentence embeddings by language. Does not import Paddle.

The embeddings of one language share a component that encodes the language, not the meaning (Libovicky et al.,
2020). Without it, translations are closer to each other than to other sentences of their language. Computing
the means requires text in each language, but not translations.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL
from ernie_m.utils.errors import UserError
from ernie_m.vectors.pooling import normalize_vectors

# Minimum number of sentences to compute the mean of a language. A single sentence minus its mean would be 0.
FEWEST_SENTENCES = 5
_CLEAR_LEAD = 0.2  # see `LanguageCentering.detect_languages`
MEANS_POOLING = MEAN_WITHOUT_SPECIAL  # the pooling of the stored means


@dataclass(frozen=True)
class LanguageCentering:
    """Mean centering: the mean sentence embedding of each language, at one layer or at every layer.

    Attributes:
        languages: unique language names, in the order of `vectors`.
        vectors: mean embeddings, [languages, H] at one layer, [languages, L + 1, H] at every layer.
    """

    languages: list[str]
    vectors: np.ndarray

    @classmethod
    def from_embeddings(cls, sentences: Mapping[str, np.ndarray]) -> "LanguageCentering":
        """Compute the mean sentence embedding of each language, float32; languages in alphabetical order.

        Args:
            sentences: language -> the embeddings of its sentences, [N, H], or [L + 1, N, H] at every layer;
                may be empty.
        """
        languages = sorted(sentences)
        means = [sentences[language].mean(axis=-2, dtype=np.float64) for language in languages]
        return cls(languages, np.array(means, np.float32))

    @classmethod
    def read(cls, path: str | os.PathLike, shape: tuple[int, int]) -> "LanguageCentering":
        """Read language_means.safetensors of a checkpoint: the mean embeddings at every layer, float32.

        The pooling of the embeddings is `MEANS_POOLING`. Languages are in alphabetical order.

        Args:
            shape: (L + 1, H) of the model.

        Raises:
            UserError: the file is missing or corrupt, does not match the model, or contains NaN or infinity.
        """
        tensors = safetensors.read(path)  # language -> [L + 1, H]
        languages = sorted(tensors)
        if {*tensors.shapes.values()} != {shape}:
            raise UserError(
                f"{path}: corrupt, or its shape does not match the model (expected {shape} for each language)"
            )
        means = [check_finite(language, tensors[language], path) for language in languages]
        return cls(languages, np.stack(means).astype(np.float32))

    def select_layer(self, layer: int) -> "LanguageCentering":
        """Select the mean embeddings at one layer."""
        return LanguageCentering(self.languages, self.vectors[:, layer])  # [languages, H]

    def subtract_mean(self, vectors: np.ndarray, language: str) -> np.ndarray:
        """Subtract the mean embedding of a language from sentence embeddings.

        Args:
            vectors: sentence embeddings, [N, H], or at every layer [L + 1, N, H].
        """
        mean = self.vectors[self.languages.index(language)]  # [H] or [L + 1, H]
        return vectors - mean[..., None, :]  # the same mean for all sentences of a layer

    def detect_languages(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detect the language of each sentence embedding: the language with the nearest mean, by cosine.

        A language is clear if its lead over the second one is at least a fifth of its lead over the average
        of all languages.

        Args:
            vectors: embeddings of sentences in any languages, [N, H].

        Returns:
            Indices into `languages`, int64 [N], and whether each language is clear, bool [N].
        """
        cosines = normalize_vectors(vectors) @ normalize_vectors(self.vectors).T  # [N, languages]
        ascending = np.sort(cosines, axis=1)
        largest = ascending[:, -1]
        second = ascending[:, -2:][:, 0]  # with a single language it is the largest one
        is_clear = largest - second >= _CLEAR_LEAD * (largest - ascending.mean(axis=1))
        return cosines.argmax(axis=1), is_clear

    def center(self, vectors: np.ndarray, languages: Sequence[str] | None = None) -> np.ndarray:
        """Subtract the mean embedding of its language from each sentence embedding: float32 [N, H].

        Args:
            vectors: sentence embeddings, [N, H].
            languages: language of each sentence; None: detect the languages.

        Raises:
            UserError: a language has no mean embedding.
        """
        indices: np.ndarray | list[int]
        if languages is None:
            indices, _ = self.detect_languages(vectors)
        else:
            unknown = sorted(set(languages).difference(self.languages))
            if unknown:
                there = ", ".join(self.languages)
                raise UserError(f"unknown language {', '.join(unknown)} (languages with a mean: {there})")
            indices = [self.languages.index(language) for language in languages]
        return vectors - self.vectors[indices]
