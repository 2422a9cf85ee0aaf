"""Random masking of texts and pairs: selection of the tokens to predict, and their replacement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.packing import MaskedSequence
from ernie_m.reader.tokenization import truncate_longest_first

# BERT's replacement of chosen tokens: 80 % [MASK], 10 % a random token, 10 % unchanged.
_MASKED = 0.8
_RANDOM = 0.1
_STREAM = 0x4D41534B  # "MASK"; separates these draws from other Philox streams of the same seed


class Text(NamedTuple):
    """A monolingual example: ids without special tokens, int64 [n], and language id."""

    ids: np.ndarray
    language: int


class Pair(NamedTuple):
    """A parallel example: source, then target, in the order of the input."""

    source: Text
    target: Text


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer data that masking requires: special ids, vocabulary size, token of each id."""

    cls_id: int
    pad_id: int
    sep_id: int
    unk_id: int
    mask_id: int
    size: int
    tokens: tuple[str, ...] = ()

    @classmethod
    def from_tokenizer(cls, tokenizer) -> "Vocabulary":
        """Make the vocabulary of a tokenizer with `cls_id` etc., `vocab_size` and `convert_ids_to_tokens`."""
        return cls(
            cls_id=int(tokenizer.cls_id),
            pad_id=int(tokenizer.pad_id),
            sep_id=int(tokenizer.sep_id),
            unk_id=int(tokenizer.unk_id),
            mask_id=int(tokenizer.mask_id),
            size=int(tokenizer.vocab_size),
            tokens=tuple(tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size))),
        )

    @cached_property
    def special_ids(self) -> np.ndarray:
        """Return the special ids including [UNK], sorted, int64 [5]."""
        return np.unique([self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Return the ids of ordinary tokens, all except the special ids, sorted, int64 [V - 5]."""
        return np.setdiff1d(np.arange(self.size), self.special_ids)


@dataclass(frozen=True)
class ObjectiveContext:
    """Settings that the objectives of a run share.

    Attributes:
        config: options of the objectives.
        vocabulary: the vocabulary of the corpus.
        max_seq_len: maximum length including special tokens. Longer texts are truncated at the end; in a
            pair, the longer side first.
        language_embedding: tokens with the language embedding of their side: "masks": [MASK] and
            placeholders; "all": every token; "none": no token.
        languages: names in the order of their indices; empty if BTMLM draws no second language.
        pairs: number of sentence pairs by two indices of `languages`.
    """

    config: ObjectiveConfig
    vocabulary: Vocabulary
    max_seq_len: int
    language_embedding: str = "masks"
    languages: Sequence[str] = ()
    pairs: Mapping[tuple[int, int], int] = field(default_factory=dict)


def make_rng(seed: int, step: int, index: int) -> np.random.Generator:
    """Make the random generator of one example.

    Streams of different (seed, step, index) never overlap, so masks do not depend on how a step is divided
    among processes and micro-batches.

    Args:
        step: the optimizer step.
        index: index of the example in the batch of the step.
    """
    key = np.array([seed, _STREAM], dtype=np.uint64)
    # A Philox generator increments the first two of its four counter words.
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def count_selected(num_tokens: int, mask_rate: float) -> int:
    """Return the number of tokens to predict: the rounded fraction `mask_rate`, at least one if any."""
    return min(num_tokens, max(1, round(mask_rate * num_tokens)))


Example = TypeVar("Example", bound=Text | Pair)


class Masking(Generic[Example]):
    """Base class of masking objectives, which select and replace `mask_rate` of the tokens of each side."""

    def __init__(self, context: ObjectiveContext):
        self.config = context.config
        self.vocabulary = context.vocabulary
        self.max_seq_len = context.max_seq_len
        self.language_embedding = context.language_embedding
        self.cls = np.array([self.vocabulary.cls_id])
        self.sep = np.array([self.vocabulary.sep_id])
        self.positions = np.arange(FIRST_POSITION, FIRST_POSITION + self.max_seq_len)

    def get_truncated_sides(self, example: Example) -> list[np.ndarray]:
        """Return the ids of a text, or of both sides of a pair, truncated to fit the maximum length."""
        if isinstance(example, Text):
            return [example.ids[: self.max_seq_len - 2]]
        source = example.source.ids
        target = example.target.ids
        source_length, target_length = truncate_longest_first(len(source), len(target), self.max_seq_len - 4)
        return [source[:source_length], target[:target_length]]

    def maskable(self, ids: np.ndarray) -> np.ndarray:
        """Return the indices of tokens that may be predicted, all except [UNK]: int64 [n]."""
        return np.flatnonzero(ids != self.vocabulary.unk_id)

    def select_tokens(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Select the tokens to predict, `mask_rate` of the maskable ones: sorted indices, int64 [m].

        Every set of m tokens is equally likely.
        """
        maskable = self.maskable(ids)
        count = count_selected(len(maskable), self.config.mask_rate)
        drawn = rng.permutation(len(maskable))[:count]  # indices into `maskable`
        return maskable[np.sort(drawn)]

    def select_in_pair(self: "Masking[Pair]", pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Concatenate both sides of a pair with special tokens, and select the tokens to predict.

        Returns:
            ids [t]; language ids [t]; side of each token [t], 0 or 1; and the indices of the selected tokens
            of both sides, [m].
        """
        source, target = self.get_truncated_sides(pair)
        ids = np.concatenate([self.cls, source, self.sep, self.sep, target, self.sep])
        side = np.repeat([0, 1], [len(source) + 2, len(target) + 2])  # [CLS] S [SEP] and [SEP] Y [SEP]
        languages = np.array([pair.source.language, pair.target.language])[side]  # [t]
        chosen_in_source = 1 + self.select_tokens(source, rng)  # S begins in column 1
        # Y begins after [CLS] S [SEP] [SEP].
        chosen_in_target = len(source) + 3 + self.select_tokens(target, rng)
        return ids, languages, side, np.concatenate([chosen_in_source, chosen_in_target])

    def mask_text(self: "Masking[Text]", text: Text, rng: np.random.Generator) -> MaskedSequence:
        """Make the masked sequence [CLS] X [SEP] of a text."""
        (x,) = self.get_truncated_sides(text)
        ids = np.concatenate([self.cls, x, self.sep])
        languages = np.full(len(ids), text.language)
        chosen = 1 + self.select_tokens(x, rng)  # X begins in column 1
        return self.replace_selected(ids, languages, chosen, rng)

    def replace_selected(
        self, ids: np.ndarray, languages: np.ndarray, selected: np.ndarray, rng: np.random.Generator
    ) -> MaskedSequence:
        """Make a sequence whose selected tokens are replaced as in BERT.

        80 % become [MASK], 10 % a random ordinary token, and 10 % stay unchanged.

        Args:
            ids, languages, selected: as in `make_sequence`.
        """
        draws = rng.random(len(selected))
        ordinary_ids = self.vocabulary.ordinary_ids
        random_ids = ordinary_ids[rng.integers(len(ordinary_ids), size=len(selected))]
        random_or_same = np.where(draws < _MASKED + _RANDOM, random_ids, ids[selected])
        replacements = np.where(draws < _MASKED, self.vocabulary.mask_id, random_or_same)
        return self.make_sequence(ids, languages, selected, replacements)

    def make_sequence(
        self, ids: np.ndarray, languages: np.ndarray, selected: np.ndarray, replacements: np.ndarray | int
    ) -> MaskedSequence:
        """Make a masked sequence from ids, with the selected tokens as targets.

        Args:
            ids: ids before masking, [t].
            languages: language id of each token's side, [t].
            selected: indices of the selected tokens, [m].
            replacements: ids that replace the selected tokens, [m], or one id for all.
        """
        input_ids = ids.copy()
        input_ids[selected] = replacements
        # The tokens with a language, for each choice of `language_embedding`.
        has_language = {"all": True, "none": False, "masks": input_ids == self.vocabulary.mask_id}
        return MaskedSequence(
            input_ids=input_ids,
            position_ids=self.positions[: len(ids)],
            language_ids=np.where(has_language[self.language_embedding], languages, NO_LANGUAGE),
            targets=selected,
            target_ids=ids[selected],
            target_languages=languages[selected],
            context=len(ids),  # all tokens are context, visible to every token; no placeholders
        )
