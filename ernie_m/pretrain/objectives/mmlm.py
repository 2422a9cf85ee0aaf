"""MMLM, multilingual masked language modeling: a masked token is predicted from its own sentence.

Of n tokens max(1, round(0.15 n)) are predicted; each becomes [MASK], a random token or stays, as in BERT. All
tokens attend to all tokens (paper, Figure 2 a):

             x1 M2 x3
        x1    1  1  1
        M2    1  1  1
        x3    1  1  1
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m.pretrain.masking import Text
from ernie_m.pretrain.objective import Objective, geometric_mean
from ernie_m.pretrain.packing import MaskedExample

# Above this fraction of the unigram perplexity, a run has learned little from context.
_LEARNED = 0.5


class Mmlm(Objective[Text]):
    """Multilingual masked language modeling on monolingual text. The input is [CLS] X [SEP]."""

    reads = Text

    def mask(self, text: Text, rng: np.random.Generator) -> MaskedExample:
        return MaskedExample(self.name, [self.mask_text(text, rng)])

    def evaluate(self, texts: Sequence[Text], model: Any, evaluator: Any) -> dict[str, Any] | None:
        """Evaluate on held-out texts; also compute the perplexity of the unigram baseline."""
        scores = super().evaluate(texts, model, evaluator)
        if scores is None:
            return None
        return scores | {"frequency_perplexity": evaluator.compute_unigram_perplexity(texts)}

    @classmethod
    def format_perplexity_note(cls, results: Sequence[Mapping[str, Any]]) -> str:
        baseline = geometric_mean(result["frequency_perplexity"] for result in results)
        return f"; unigram baseline: {baseline:.2f}"

    @classmethod
    def find_plateau(cls, results: Sequence[Mapping[str, float]], advice: str) -> str | None:
        """Return a warning if the perplexity is not far below the unigram baseline; otherwise None.

        A small model, or a new head, learns subword frequencies first, and co-occurrence much later.
        """
        if not results:
            return None
        mean = geometric_mean(result["perplexity"] for result in results)
        baseline = geometric_mean(result["frequency_perplexity"] for result in results)
        if mean <= _LEARNED * baseline:
            return None
        return (
            f"{cls.name} has learned little from context: held-out perplexity {mean:.0f}, unigram "
            f"baseline {baseline:.0f}. {advice}"
        )
