"""The four objectives: a text or a pair in, masked sequences out. The definitions are in docs/objectives.md.

A pair is `[CLS] S [SEP] [SEP] Y [SEP]`, a single text `[CLS] S [SEP]`. Positions are absolute, [CLS] has 2.
Everything drawn comes from the generator of its example, so a batch's content does not depend on how a step
is divided.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model.config import FIRST_POSITION, NO_LANGUAGE
from pretrain import masking
from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary
from pretrain.packing import Batch, MaskedExample, MaskedSequence, Stage1Sequence, pack
from reader.tokenization import truncate_longest_first
from utils.errors import UserError

_PAIR_EXPONENT = 0.7  # as for the sampling of pairs in InfoXLM


class Text(NamedTuple):
    """A monolingual example: ids without specials, int64 [n], and its language's index."""

    ids: np.ndarray
    language: int


class Pair(NamedTuple):
    """A parallel example, in the order in which it is read."""

    source: Text
    target: Text


class SecondLanguage:
    """Draws the language of BTMLM's pseudo-tokens.

    Args:
        pairs: number of sentence pairs by two indices into `languages`; (a, b) and (b, a) are added.
        mode: "parallel": in proportion to pairs^0.7 among the languages that have sentence pairs with the
            sentence's own, because CAMLM taught only these directions. Where there is no such language, each
            other language has the weight (number of all its pairs)^0.7; where no language has pairs, all have
            the same. "uniform": all other languages have the same.

    Raises:
        UserError: there is only one language.
    """

    def __init__(
        self, languages: Sequence[str], pairs: Mapping[tuple[int, int], int], mode: str = "parallel"
    ):
        if len(languages) < 2:
            raise UserError(f"btmlm needs a second language, but the only language is {list(languages)}")
        counts = np.zeros((len(languages), len(languages)))
        for (a, b), count in pairs.items():
            counts[a, b] += count
            counts[b, a] += count
        np.fill_diagonal(counts, 0)
        # All weights are [languages, languages]: a row for the sentence's language, with 0 for itself.
        uniform = 1.0 - np.eye(len(languages))
        by_pairs = counts**_PAIR_EXPONENT
        pairs_of_language = counts.sum(0)  # [languages], with any other language
        by_all_pairs = uniform * pairs_of_language**_PAIR_EXPONENT
        weights = uniform if mode == "uniform" else by_pairs
        for fallback in (by_all_pairs, uniform):  # for the rows that are still 0
            has_weights = weights.sum(1, keepdims=True) > 0
            weights = np.where(has_weights, weights, fallback)
        self.probabilities = weights / weights.sum(1, keepdims=True)  # [languages, languages]
        self._cumulative = np.cumsum(self.probabilities, axis=1)
        self._cumulative /= self._cumulative[:, -1:]  # exactly 1 at the end, so that no draw falls beyond

    def draw(self, language: int, rng: np.random.Generator) -> int:
        """A language other than `language`."""
        # side="right": a draw of exactly 0 does not fall on a first language whose probability is 0.
        return int(np.searchsorted(self._cumulative[language], rng.random(), side="right"))


class Objectives:
    """Makes masked sequences of each objective.

    Args:
        config: the choices that the paper leaves open.
        vocabulary: special ids and V.
        max_seq_len: longest sequence, specials included. Longer texts are cut at the end. In a pair that is
            too long, the longer side is cut first.
        language_embedding: which tokens carry the language of their side: "masks": [MASK] and placeholders;
            "all": every token; "none": no token.
        second_language: draws the language of BTMLM's pseudo-tokens; None where it is not drawn.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        vocabulary: Vocabulary,
        max_seq_len: int,
        language_embedding: str = "masks",
        second_language: SecondLanguage | None = None,
    ):
        self.config = config
        self.vocabulary = vocabulary
        self.max_seq_len = max_seq_len
        self.language_embedding = language_embedding
        self.second_language = second_language
        self._cls = np.array([vocabulary.cls_id])
        self._sep = np.array([vocabulary.sep_id])
        self._positions = np.arange(FIRST_POSITION, FIRST_POSITION + max_seq_len)

    def batch(
        self,
        objective: str,
        examples: Sequence[Text] | Sequence[Pair],
        rngs: Sequence[np.random.Generator],
        second_languages: Sequence[int] | None = None,
    ) -> Batch:
        """A micro-batch of one objective, for evaluations and pictures; `StepReader` mixes objectives.

        Args:
            objective: mmlm and btmlm take `Text`s, tlm and camlm `Pair`s.
            examples: at least one. For camlm each must pass `serves_camlm`.
            rngs: one generator for each example (`masking.generator`).
            second_languages: BTMLM: the language of each example's pseudo-tokens; None: they are drawn.
        """
        languages = second_languages or [None] * len(examples)
        masked = []
        for example, rng, second_language in zip(examples, rngs, languages):
            masked.append(self.mask(objective, example, rng, second_language))
        return pack(masked)

    def mask(
        self,
        objective: str,
        example: Text | Pair,
        rng: np.random.Generator,
        second_language: int | None = None,
    ) -> MaskedExample:
        """One masked example.

        Args:
            second_language: BTMLM: the language of the pseudo-tokens; None: it is drawn.
        """
        if objective == "btmlm":
            return self.btmlm(example, rng, second_language)
        make_sequences = {"mmlm": self.mmlm, "tlm": self.tlm, "camlm": self.camlm}[objective]
        return MaskedExample(objective, make_sequences(example, rng))

    def count_tokens(self, objective: str, example: Text | Pair) -> int:
        """The tokens that an example takes in a micro-batch, without BTMLM's first stage."""
        if objective == "mmlm":
            return min(len(example.ids) + 2, self.max_seq_len)  # [CLS] X [SEP]
        if objective == "btmlm":
            lengths = self.pseudo_lengths(example)
        else:
            lengths = [len(ids) for ids in self._truncated(example)]
        return sum(lengths) + 4  # [CLS] S [SEP] [SEP] Y [SEP]; the two sequences of CAMLM divide them

    def count_masked(self, objective: str, example: Text | Pair) -> int:
        """How many tokens of an example are predicted. It depends on the example alone, not on a draw."""
        if objective == "mmlm":
            sides = [example.ids[: self.max_seq_len - 2]]
        elif objective == "btmlm":
            n, _ = self.pseudo_lengths(example)
            sides = [example.ids[:n]]  # pseudo-tokens are never predicted
        else:
            sides = self._truncated(example)
        predictable = [len(self._predictable(ids)) for ids in sides]
        return sum(masking.number_chosen(count, self.config.mask_rate) for count in predictable)

    def mmlm(self, text: Text, rng: np.random.Generator) -> list[MaskedSequence]:
        """[CLS] X [SEP]: all tokens see all tokens."""
        x = text.ids[: self.max_seq_len - 2]
        ids = np.concatenate([self._cls, x, self._sep])
        languages = np.full(len(ids), text.language)
        chosen = 1 + self._choose(x, rng)  # X begins in column 1
        return [self._replaced(ids, languages, chosen, rng)]

    def tlm(self, pair: Pair, rng: np.random.Generator) -> list[MaskedSequence]:
        """[CLS] S [SEP] [SEP] Y [SEP]: masks on both sides, all tokens see all tokens."""
        ids, languages, _, chosen = self._pair(pair, rng)
        return [self._replaced(ids, languages, chosen, rng)]

    def serves_camlm(self, pair: Pair) -> bool:
        """Whether, after truncation, both sides keep an unmasked token that is not special."""
        lengths = [len(self._predictable(ids)) for ids in self._truncated(pair)]
        return all(masking.number_chosen(n, self.config.mask_rate) < n for n in lengths)

    def camlm(self, pair: Pair, rng: np.random.Generator) -> list[MaskedSequence]:
        """[CLS] S [SEP] [SEP] Y [SEP]: a masked token sees itself and the other side's unmasked tokens.

        The attention mask over the whole pair (`attention_mask.camlm`) falls apart into two sequences: the
        unmasked tokens of one side are the context, the masks of the other side are the placeholders.
        """
        ids, languages, side, chosen = self._pair(pair, rng)
        # Always [MASK]: since a masked place attends to itself, a token that stayed would give itself away.
        masked = self._sequence(ids, languages, chosen, self.vocabulary.mask_id)
        return [_half(masked, side, context_side=0), _half(masked, side, context_side=1)]

    def btmlm(
        self, text: Text, rng: np.random.Generator, second_language: int | None = None
    ) -> MaskedExample:
        """[CLS] X' [SEP] [SEP] P [SEP]: X' is the masked sentence, all tokens see all tokens.

        P are the pseudo-tokens of the second language, which the first stage predicts from the sentence;
        until then [MASK] is in their slots.
        """
        if second_language is None:
            second_language = self.second_language.draw(text.language, rng)
        n, p = self.pseudo_lengths(text)
        # The positions of the pseudo-tokens, as offsets from the first position after [CLS] X [SEP] [SEP].
        offsets = np.arange(p)
        if self.config.pseudo_positions == "spread":
            span = max(p, min(n, self.max_seq_len - 4 - n))  # as long as X, if there is room
            offsets = (2 * offsets + 1) * span // (2 * p)  # the middles of p equal parts of the span
        slot_positions = FIRST_POSITION + n + 3 + offsets  # [p]
        context = np.concatenate([self._cls, text.ids[:n], self._sep])  # [n + 2]
        placeholders = np.full(p, self.vocabulary.mask_id)

        # The first stage: [CLS] X [SEP] is the context of n + 2 tokens, and the placeholders follow. What
        # they will predict is not known, so their target ids are [MASK], too.
        stage1 = self._sequence(
            ids=np.concatenate([context, placeholders]),
            languages=np.repeat([text.language, second_language], [n + 2, p]),
            chosen=n + 2 + np.arange(p),
            replacements=self.vocabulary.mask_id,
        )
        stage1_positions = np.concatenate([self._positions[: n + 2], slot_positions])
        stage1 = stage1._replace(position_ids=stage1_positions, context=n + 2)

        # The second stage: all tokens are context.
        ids = np.concatenate([context, self._sep, placeholders, self._sep])
        languages = np.repeat([text.language, second_language], [n + 2, p + 2])
        chosen = 1 + self._choose(text.ids[:n], rng)  # X begins in column 1
        stage2 = self._replaced(ids, languages, chosen, rng)
        last_position = slot_positions[-1:] + 1  # of the last [SEP], [1]
        stage2_positions = np.concatenate([self._positions[: n + 3], slot_positions, last_position])
        slots = n + 3 + np.arange(p)  # columns, after [CLS] X [SEP] [SEP]
        if self.language_embedding == "masks":
            # [MASK] stands in the slots only until the pseudo-tokens are known, which carry no language.
            stage2.language_ids[slots] = NO_LANGUAGE
        stage2 = stage2._replace(position_ids=stage2_positions)
        draws = rng.random(p)  # for pseudo-tokens that are sampled
        return MaskedExample("btmlm", [stage2], Stage1Sequence(stage1, slots, draws))

    def pseudo_lengths(self, text: Text) -> tuple[int, int]:
        """n and p: how many tokens of the sentence are used, and the number of pseudo-tokens.

        p = max(1, round(proportion x n)); the paper's Figure 6 compares 5, 10, 15 and 20 %. n is the length
        of the text, or if that is too long, the largest for which n + p + 4 special tokens are at most
        `max_seq_len`.
        """
        proportion = self.config.pseudo_proportion
        longest = self.max_seq_len - 4
        # n + proportion x n is about `longest`. So begin with an n that is not too small, and count down.
        n = min(len(text.ids), int(longest / (1 + proportion)) + 1)
        p = max(1, round(proportion * n))
        while n > 0 and n + p > longest:
            n -= 1
            p = max(1, round(proportion * n))
        return n, p

    def _truncated(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """The ids of both sides, so short that they fit into `max_seq_len` with the 4 special tokens."""
        source = pair.source.ids
        target = pair.target.ids
        source_length, target_length = truncate_longest_first(len(source), len(target), self.max_seq_len - 4)
        return source[:source_length], target[:target_length]

    def _pair(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The tokens of a pair, and which of them are to be predicted.

        Returns:
            ids [t] with special tokens; languages [t]; side [t], 0 or 1; and the chosen columns of both
            sides, [m].
        """
        source, target = self._truncated(pair)
        ids = np.concatenate([self._cls, source, self._sep, self._sep, target, self._sep])
        side = np.repeat([0, 1], [len(source) + 2, len(target) + 2])  # [CLS] S [SEP] and [SEP] Y [SEP]
        languages = np.array([pair.source.language, pair.target.language])[side]
        chosen_in_source = 1 + self._choose(source, rng)  # S begins in column 1
        chosen_in_target = len(source) + 3 + self._choose(target, rng)  # Y begins after [CLS] S [SEP] [SEP]
        return ids, languages, side, np.concatenate([chosen_in_source, chosen_in_target])

    def _predictable(self, ids: np.ndarray) -> np.ndarray:
        """Places of the tokens that may be predicted, int64 [n]: all but [UNK], which is a special token."""
        return np.flatnonzero(ids != self.vocabulary.unk_id)

    def _choose(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Places of the tokens to predict: `mask_rate` of those that may be predicted. Sorted, int64 [m]."""
        predictable = self._predictable(ids)
        return predictable[masking.choose(len(predictable), self.config.mask_rate, rng)]

    def _replaced(
        self, ids: np.ndarray, languages: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> MaskedSequence:
        """As `_sequence`: each chosen token becomes [MASK] or a random token, or stays as it is."""
        replacements = masking.replace(ids[chosen], rng, self.vocabulary)
        return self._sequence(ids, languages, chosen, replacements)

    def _sequence(
        self, ids: np.ndarray, languages: np.ndarray, chosen: np.ndarray, replacements: np.ndarray | int
    ) -> MaskedSequence:
        """The sequence `ids` with `replacements` in the chosen columns, which are to be predicted.

        Args:
            ids: [t].
            languages: [t], those of each token's side.
            chosen: columns, [m].
            replacements: [m], or one id for all.
        """
        input_ids = ids.copy()
        input_ids[chosen] = replacements
        # Which tokens carry their language, for each choice of `language_embedding`.
        has_language = {"all": True, "none": False, "masks": input_ids == self.vocabulary.mask_id}
        return MaskedSequence(
            input_ids=input_ids,
            position_ids=self._positions[: len(ids)],
            language_ids=np.where(has_language[self.language_embedding], languages, NO_LANGUAGE),
            targets=chosen,
            target_ids=ids[chosen],
            target_languages=languages[chosen],
            context=len(ids),  # no token is a placeholder
        )


def _half(whole: MaskedSequence, side: np.ndarray, context_side: int) -> MaskedSequence:
    """Half of a masked pair: one side's unmasked tokens, then the other's masks as placeholders.

    Each token keeps its position and language, and each mask its target. So both halves together have the
    whole pair's loss.

    Args:
        whole: the masked pair, as one sequence of t tokens.
        side: [t], 0 or 1.
        context_side: the side whose unmasked tokens are the context.
    """
    context = np.setdiff1d(np.flatnonzero(side == context_side), whole.targets)  # columns, ascending
    is_placeholder = side[whole.targets] != context_side  # [m]
    columns = np.concatenate([context, whole.targets[is_placeholder]])
    return MaskedSequence(
        input_ids=whole.input_ids[columns],
        position_ids=whole.position_ids[columns],
        language_ids=whole.language_ids[columns],
        targets=np.arange(len(context), len(columns)),
        target_ids=whole.target_ids[is_placeholder],
        target_languages=whole.target_languages[is_placeholder],
        context=len(context),
    )
