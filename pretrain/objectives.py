"""The four objectives: examples in, masked batches out. The definitions are in docs/objectives.md.

A pair is `[CLS] S [SEP] [SEP] Y [SEP]`, a single text `[CLS] S [SEP]`. Positions are absolute, [CLS] has 2.
Everything drawn comes from the generator of its example, so a batch's content does not depend on how a step
is divided.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretrain import attention_mask, masking, pseudo
from pretrain.batch import NO_LANGUAGE, Batch, Row, collate, collate_stage1
from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary
from reader.tokenization import truncate_longest_first

FIRST_POSITION = 2


class Text(NamedTuple):
    """A monolingual example: ids without specials, int64 [n], and its language's index."""

    ids: np.ndarray
    language: int


class Pair(NamedTuple):
    """A parallel example, in the order in which it is read."""

    source: Text
    target: Text


class Objectives:
    """Makes batches of each objective.

    Args:
        config: the choices that the paper leaves open.
        vocabulary: special ids and V.
        max_seq_len: longest sequence, specials included. Longer texts are cut at the end, pairs longest side
            first.
        language_embedding: "masks": [MASK] and placeholders carry their side's language; "all": every token
            does; "none".
        second_language: BTMLM only; draws the pseudo-tokens' language.
        length_multiple: padded lengths are rounded up to a multiple of it.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        vocabulary: Vocabulary,
        max_seq_len: int,
        language_embedding: str = "masks",
        second_language: pseudo.SecondLanguage | None = None,
        length_multiple: int = 1,
    ):
        self.config = config
        self.vocabulary = vocabulary
        self.max_seq_len = max_seq_len
        self.language_embedding = language_embedding
        self.second_language = second_language
        self.length_multiple = length_multiple
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
        """One objective's batch.

        Args:
            objective: mmlm and btmlm take `Text`s, tlm and camlm `Pair`s.
            examples: at least one. For camlm each must pass `serves_camlm`.
            rngs: one generator per example (`masking.generator`).
            second_languages: BTMLM: given languages instead of drawn ones, to evaluate on held-out pairs.
        """
        if objective == "mmlm":
            rows = [self._mmlm(text, rng) for text, rng in zip(examples, rngs)]
        elif objective == "tlm":
            rows = [self._tlm(pair, rng) for pair, rng in zip(examples, rngs)]
        elif objective == "camlm":
            return self._camlm_batch(examples, rngs)
        elif objective == "btmlm":
            return self._btmlm_batch(examples, rngs, second_languages)
        else:
            raise ValueError(f"no such objective: {objective}")
        return self._collate(objective, rows, len(examples))

    def serves_camlm(self, pair: Pair) -> bool:
        """Whether, after truncation, both sides keep an unmasked token; if not, the pair serves TLM."""
        source, target = self._truncated(pair)
        return masking.can_serve_camlm(len(source), len(target), self.config.mask_rate)

    # -- mmlm and tlm: everyone sees everyone --

    def _mmlm(self, text: Text, rng: np.random.Generator) -> Row:
        ids = np.concatenate([self._cls, text.ids[: self.max_seq_len - 2], self._sep])
        side_languages = np.full(len(ids), text.language)
        chosen = 1 + masking.choose(len(ids) - 2, self.config.mask_rate, rng)
        replacements = masking.replace(ids[chosen], rng, self.vocabulary)
        return self._masked_row(ids, side_languages, chosen, replacements)

    def _tlm(self, pair: Pair, rng: np.random.Generator) -> Row:
        ids, side, chosen = self._pair(pair, rng)
        replacements = masking.replace(ids[chosen], rng, self.vocabulary)
        return self._masked_row(ids, self._side_languages(pair, side), chosen, replacements)

    # -- camlm: a masked token sees the other side only --

    def _camlm_batch(self, pairs: Sequence[Pair], rngs: Sequence[np.random.Generator]) -> Batch:
        drawn = [self._camlm(pair, rng) for pair, rng in zip(pairs, rngs)]
        if self.config.camlm_form == "dense":
            matrices = [attention_mask.camlm(side, masked) for _, side, masked in drawn]
            return self._collate("camlm", [row for row, _, _ in drawn], len(pairs), matrices=matrices)
        rows = [compact_row(*one, context_side=side) for side in (0, 1) for one in drawn]
        return self._collate("camlm", rows, len(pairs), compact=True)

    def _camlm(self, pair: Pair, rng: np.random.Generator) -> tuple[Row, np.ndarray, np.ndarray]:
        """The pair as one dense row; the side of each token [t]; which tokens are masked, bool [t]."""
        ids, side, chosen = self._pair(pair, rng)
        # Always [MASK]: a token that stayed, or a random one, would see itself.
        row = self._masked_row(ids, self._side_languages(pair, side), chosen, self.vocabulary.mask_id)
        masked = np.zeros(len(ids), dtype=bool)
        masked[chosen] = True
        return row, side, masked

    # -- btmlm: pseudo-tokens from a first pass, then plain masking --

    def _btmlm_batch(
        self,
        texts: Sequence[Text],
        rngs: Sequence[np.random.Generator],
        second_languages: Sequence[int] | None,
    ) -> Batch:
        if second_languages is None:
            second_languages = [
                self.second_language.draw(text.language, rng) for text, rng in zip(texts, rngs)
            ]
        stage1, stage2, columns, draws = zip(
            *(self._btmlm(text, other, rng) for text, other, rng in zip(texts, second_languages, rngs))
        )
        batch = self._collate("btmlm", stage2, len(texts))
        first = collate_stage1(
            stage1, self.vocabulary.pad_id, columns, batch.valid.shape[1], draws, self.length_multiple
        )
        return dataclasses.replace(batch, stage1=first)

    def _btmlm(
        self, text: Text, second_language: int, rng: np.random.Generator
    ) -> tuple[Row, Row, np.ndarray, np.ndarray]:
        """Stage 1's compact row, stage 2's row, its columns of the pseudo-tokens [p], a draw for each [p]."""
        config, mask_id = self.config, self.vocabulary.mask_id
        n = pseudo.longest_sentence(len(text.ids), config.pseudo_proportion, self.max_seq_len)
        p = pseudo.number_of_pseudo_tokens(n, config.pseudo_proportion)
        offsets = pseudo.placeholder_offsets(p, n, config.pseudo_positions == "spread", self.max_seq_len)
        context = np.concatenate([self._cls, text.ids[:n], self._sep])  # [n + 2]
        slots = n + 3 + np.arange(p)  # columns of stage 2: [CLS] X [SEP] [SEP] come first
        slot_positions = FIRST_POSITION + n + 3 + offsets
        placeholders = np.full(p, mask_id)

        ids = np.concatenate([context, placeholders])
        side_languages = np.repeat([text.language, second_language], [n + 2, p])
        languages = self._language_ids(ids, side_languages)
        columns = np.arange(n + 2, n + 2 + p)
        positions = np.concatenate([self._positions[: n + 2], slot_positions])
        stage1 = Row(ids, positions, languages, columns, placeholders, side_languages[columns], n + 2)

        # [CLS] X' [SEP] [SEP] P [SEP]; the last [SEP] follows the last position a pseudo-token may have.
        ids = np.concatenate([context, self._sep, placeholders, self._sep])
        side_languages = np.repeat([text.language, second_language], [n + 2, p + 2])
        last = slot_positions[-1:] + 1
        positions = np.concatenate([self._positions[: n + 3], slot_positions, last])
        chosen = 1 + masking.choose(n, config.mask_rate, rng)
        replacements = masking.replace(ids[chosen], rng, self.vocabulary)
        stage2 = self._masked_row(ids, side_languages, chosen, replacements)
        # Pseudo-tokens will be ordinary tokens, though their slots still hold [MASK].
        languages = stage2.language_ids.copy()
        if self.language_embedding == "masks":
            languages[slots] = NO_LANGUAGE
        return stage1, stage2._replace(position_ids=positions, language_ids=languages), slots, rng.random(p)

    # -- shared --

    def _truncated(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        source, target = pair.source.ids, pair.target.ids
        kept = truncate_longest_first(len(source), len(target), self.max_seq_len - 4)
        return source[: kept[0]], target[: kept[1]]

    def _pair(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids [t] with specials; side [t], 0 or 1; the chosen columns of both sides, `mask_rate` of each."""
        source, target = self._truncated(pair)
        ids = np.concatenate([self._cls, source, self._sep, self._sep, target, self._sep])
        side = np.repeat([0, 1], [len(source) + 2, len(target) + 2])
        rate = self.config.mask_rate
        of_source = 1 + masking.choose(len(source), rate, rng)
        of_target = len(source) + 3 + masking.choose(len(target), rate, rng)
        return ids, side, np.concatenate([of_source, of_target])

    def _masked_row(
        self, ids: np.ndarray, side_languages: np.ndarray, chosen: np.ndarray, replacements: np.ndarray | int
    ) -> Row:
        """The sequence `ids` [t] with `replacements` in the chosen columns, which are to be predicted."""
        inputs = ids.copy()
        inputs[chosen] = replacements
        return Row(
            inputs,
            self._positions[: len(ids)],
            self._language_ids(inputs, side_languages),
            chosen,
            ids[chosen],
            side_languages[chosen],
            len(ids),
        )

    def _side_languages(self, pair: Pair, side: np.ndarray) -> np.ndarray:
        return np.where(side == 0, pair.source.language, pair.target.language)

    def _language_ids(self, inputs: np.ndarray, side_languages: np.ndarray) -> np.ndarray:
        if self.language_embedding == "all":
            return side_languages
        if self.language_embedding == "none":
            return np.full(len(inputs), NO_LANGUAGE)
        return np.where(inputs == self.vocabulary.mask_id, side_languages, NO_LANGUAGE)

    def _collate(self, objective: str, rows: Sequence[Row], sequences: int, **form) -> Batch:
        return collate(
            objective, rows, self.vocabulary.pad_id, sequences, multiple=self.length_multiple, **form
        )


def compact_row(row: Row, side: np.ndarray, masked: np.ndarray, context_side: int) -> Row:
    """Half of a dense CAMLM row: one side's unmasked tokens, then the other's masks as placeholders.

    Positions, languages and targets go along, so both halves together have the dense row's loss.

    Args:
        row: the pair, masked.
        side: [t], 0 or 1.
        masked: bool [t].
        context_side: whose unmasked tokens are the context.
    """
    context = np.flatnonzero((side == context_side) & ~masked)
    mine = side[row.targets] != context_side
    placeholders = row.targets[mine]
    columns = np.concatenate([context, placeholders])
    return Row(
        row.input_ids[columns],
        row.position_ids[columns],
        row.language_ids[columns],
        np.arange(len(context), len(columns)),
        row.target_ids[mine],
        row.target_languages[mine],
        len(context),
    )
