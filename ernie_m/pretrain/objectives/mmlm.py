"""MMLM, the masked language model of one language: a masked token is predicted from its own sentence.

Of n tokens max(1, round(0.15 n)) are predicted; each becomes [MASK], a random token or stays, as in BERT. All
tokens see all tokens (paper, Figure 2 a):

             x1 M2 x3
        x1    1  1  1
        M2    1  1  1
        x3    1  1  1
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m.pretrain.objective import Objective, Text, geometric_mean
from ernie_m.pretrain.packing import MaskedExample

# A run whose perplexity is above this share of that of the frequencies has learned little of the context.
_LEARNED = 0.5


class Mmlm(Objective):
    """[CLS] X [SEP]."""

    reads = Text
    title = "MMLM (Figure 2 a)"

    def mask(self, text: Text, rng: np.random.Generator) -> MaskedExample:
        (x,) = self.sides(text)
        ids = np.concatenate([self.cls, x, self.sep])
        languages = np.full(len(ids), text.language)
        chosen = 1 + self.choose(x, rng)  # X begins in column 1
        return MaskedExample(self.name, [self.replaced(ids, languages, chosen, rng)])

    @classmethod
    def summary(cls, results: Sequence[Mapping[str, Any]]) -> list[str]:
        of_frequencies = geometric_mean(result["frequency_perplexity"] for result in results)
        return super().summary(results, beside=f"; the frequencies of the pieces: {of_frequencies:.2f}")


def plateau(results: Sequence[Mapping[str, float]], advice: str) -> str | None:
    """A line with `advice` if MMLM has learned little beyond the frequencies of the pieces, or None.

    A small model, or a new head, first learns how often each piece occurs, and much later what stands beside
    what.

    Args:
        results: the results of each language.
    """
    if not results:
        return None
    mean = geometric_mean(result["perplexity"] for result in results)
    of_frequencies = geometric_mean(result["frequency_perplexity"] for result in results)
    if mean <= _LEARNED * of_frequencies:
        return None
    return (
        f"mmlm has learned little beyond the frequencies of the pieces: held-out perplexity {mean:.0f}, and "
        f"that of the frequencies {of_frequencies:.0f}. {advice}"
    )
