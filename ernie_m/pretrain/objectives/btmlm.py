"""BTMLM, back-translation masked language modeling: two stages on the text of one language.

Stage 1 (paper, section 3 and Figure 4), without gradient or dropout: max(1, round(0.2 n)) placeholders in a
second language follow a sentence of n tokens. A placeholder attends to the sentence and itself, like a masked
token in CAMLM. Its prediction becomes a pseudo-token (`ernie_m/pretrain/btmlm_pseudo_tokens.py`):

             x1 x2 x3 x4 | M5 M6 M7
        x1    1  1  1  1 |  .  .  .
        x2    1  1  1  1 |  .  .  .
        x3    1  1  1  1 |  .  .  .
        x4    1  1  1  1 |  .  .  .
        M5    1  1  1  1 |  1  .  .
        M6    1  1  1  1 |  .  1  .
        M7    1  1  1  1 |  .  .  1

Stage 2: the sentence is masked as in MMLM, and followed by the pseudo-tokens. All tokens attend to all
tokens, and the loss is on the masked tokens of the sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.pretrain.masking import ObjectiveContext, Pair, Text
from ernie_m.pretrain.objective import Objective, geometric_mean
from ernie_m.pretrain.packing import MaskedExample, Stage1Sequence
from ernie_m.utils.errors import UserError

_PAIR_EXPONENT = 0.7  # as for the sampling of pairs in InfoXLM


class Btmlm(Objective[Text]):
    """Back-translation masked language modeling.

    The input of the first stage is [CLS] X [SEP] and p placeholders, that of the second stage [CLS] X' [SEP]
    [SEP] P [SEP], with the masked sentence X' and the pseudo-tokens P.
    """

    reads = Text
    evaluated_on = Pair  # the source is read; pseudo-tokens have the target's language
    further_sums = ("pseudo", "copied", "repeated")

    def __init__(self, context: ObjectiveContext):
        super().__init__(context)
        self.second_language = SecondLanguage(context.languages, context.pairs, self.config.second_language)

    def compute_lengths(self, text: Text) -> tuple[int, int]:
        """Return n and p, the number of sentence tokens after truncation and of pseudo-tokens.

        p = max(1, round(proportion x n)); the paper's Figure 6 compares 5, 10, 15 and 20 %. A text is
        truncated to the largest n for which n + p + 4 special tokens fit in `max_seq_len`.
        """
        proportion = self.config.pseudo_proportion
        longest = self.max_seq_len - 4
        # n + proportion x n is about `longest`. So start with an n that is large enough, and count down.
        n = min(len(text.ids), int(longest / (1 + proportion)) + 1)
        p = max(1, round(proportion * n))
        while n > 0 and n + p > longest:
            n -= 1
            p = max(1, round(proportion * n))
        return n, p

    def get_truncated_sides(self, text: Text) -> list[np.ndarray]:
        """Return the ids of the truncated sentence, whose tokens may be predicted."""
        n, _ = self.compute_lengths(text)
        return [text.ids[:n]]

    def count_tokens(self, text: Text) -> int:
        return sum(self.compute_lengths(text)) + 4  # [CLS] X' [SEP] [SEP] P [SEP]

    def mask(self, text: Text, rng: np.random.Generator, second_language: int | None = None) -> MaskedExample:
        """Make the inputs of both stages; pseudo-tokens are [MASK] until the first stage has generated them.

        Args:
            second_language: language id of the pseudo-tokens; None: sampled.
        """
        if second_language is None:
            second_language = self.second_language.draw(text.language, rng)
        n, p = self.compute_lengths(text)
        # The positions of the pseudo-tokens, as offsets from the first position after [CLS] X [SEP] [SEP].
        offsets = np.arange(p)
        if self.config.pseudo_positions == "spread":
            span = max(p, min(n, self.max_seq_len - 4 - n))  # as long as X, if there is room
            offsets = (2 * offsets + 1) * span // (2 * p)  # the middles of p equal parts of the span
        slot_positions = FIRST_POSITION + n + 3 + offsets  # [p]
        context = np.concatenate([self.cls, text.ids[:n], self.sep])  # [n + 2]
        placeholders = np.full(p, self.vocabulary.mask_id)

        # The first stage: [CLS] X [SEP] is the context of n + 2 tokens, followed by the placeholders. Their
        # predictions are unknown yet, so their target ids are [MASK].
        stage1 = self.make_sequence(
            ids=np.concatenate([context, placeholders]),
            languages=np.repeat([text.language, second_language], [n + 2, p]),
            selected=n + 2 + np.arange(p),
            replacements=self.vocabulary.mask_id,
        )
        stage1_positions = np.concatenate([self.positions[: n + 2], slot_positions])
        stage1 = stage1._replace(position_ids=stage1_positions, context=n + 2)

        # The second stage: all tokens are context.
        ids = np.concatenate([context, self.sep, placeholders, self.sep])
        languages = np.repeat([text.language, second_language], [n + 2, p + 2])
        chosen = 1 + self.select_tokens(text.ids[:n], rng)  # X begins in column 1
        stage2 = self.replace_selected(ids, languages, chosen, rng)
        last_position = slot_positions[-1:] + 1  # the position of the last [SEP], [1]
        stage2_positions = np.concatenate([self.positions[: n + 3], slot_positions, last_position])
        slots = n + 3 + np.arange(p)  # columns, after [CLS] X [SEP] [SEP]
        if self.language_embedding == "masks":
            # The slots are [MASK] until the pseudo-tokens are known, which have no language embedding.
            stage2.language_ids[slots] = NO_LANGUAGE
        stage2 = stage2._replace(position_ids=stage2_positions)
        draws = rng.random(p)  # one per pseudo-token; used for sampling
        return MaskedExample(self.name, [stage2], Stage1Sequence(stage1, slots, draws))

    def evaluate(self, pairs: Sequence[Pair], model: Any, evaluator: Any) -> dict[str, Any] | None:
        """Evaluate on the sources of held-out pairs; also compute the perplexity without pseudo-tokens."""
        scores = evaluator.compute_scores(
            model,
            self,
            pairs,
            mask_example=lambda pair, rng: self.mask(pair.source, rng, pair.target.language),
        )
        # The same sentences with the same truncation and masks.
        without = evaluator.compute_scores(
            model,
            self,
            pairs,
            mask_example=lambda pair, rng: MaskedExample(self.name, [self.mask_text(pair.source, rng)]),
        )
        if scores is None or without is None:  # also if a stop request came between them
            return None
        return scores | {"perplexity_without": without["perplexity"]}

    @classmethod
    def compute_metrics(cls, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the entries of metrics.jsonl, with the fractions of copied and repeated pseudo-tokens."""
        metrics = super().compute_metrics(sums)
        # Sentences of only [UNK] have pseudo-tokens but no masked tokens, so no record.
        if metrics and sums["pseudo"]:
            metrics["copy_rate"] = sums["copied"] / sums["pseudo"]
            metrics["repeat_rate"] = sums["repeated"] / sums["pseudo"]
        return metrics

    @classmethod
    def format_perplexity_note(cls, results: Sequence[Mapping[str, Any]]) -> str:
        without = geometric_mean(result["perplexity_without"] for result in results)
        return f"; without the pseudo-tokens: {without:.2f}"


class SecondLanguage:
    """Sampler of the language of BTMLM's pseudo-tokens.

    Args:
        languages: language names.
        pairs: (a, b), two language ids -> number of sentence pairs; (a, b) and (b, a) are added up.
        mode: "parallel": in proportion to pairs^0.7, among languages that have sentence pairs with the
            sentence's language, because CAMLM trains only these directions. If there are none, each other
            language has the weight (number of all its pairs)^0.7; if no language has pairs, the same weight.
            "uniform": all other languages have the same weight.

    Raises:
        UserError: there is only one language.
    """

    def __init__(
        self, languages: Sequence[str], pairs: Mapping[tuple[int, int], int], mode: str = "parallel"
    ):
        if len(languages) == 1:
            raise UserError(f"btmlm requires two languages (found {list(languages)})")
        counts = np.zeros((len(languages), len(languages)))
        for (a, b), count in pairs.items():
            counts[a, b] += count
            counts[b, a] += count
        np.fill_diagonal(counts, 0)
        # All weights are [languages, languages]: a row per language of the sentence, with 0 for itself.
        uniform = 1.0 - np.eye(len(languages))
        by_pairs = counts**_PAIR_EXPONENT
        pairs_of_language = counts.sum(0)  # [languages], the pairs with any other language
        by_all_pairs = uniform * pairs_of_language**_PAIR_EXPONENT
        weights = uniform if mode == "uniform" else by_pairs
        for fallback in (by_all_pairs, uniform):  # fills rows that are still 0
            has_weights = weights.sum(1, keepdims=True) > 0
            weights = np.where(has_weights, weights, fallback)
        self.probabilities = weights / weights.sum(1, keepdims=True)  # [languages, languages]
        self._cumulative = np.cumsum(self.probabilities, axis=1)
        self._cumulative /= self._cumulative[:, -1:]  # exactly 1 at the end, so that no draw exceeds it

    def draw(self, language: int, rng: np.random.Generator) -> int:
        """Sample a language id other than `language`, the language id of the sentence."""
        # side="right": a draw of exactly 0 never selects a first language with probability 0.
        return int(np.searchsorted(self._cumulative[language], rng.random(), side="right"))
