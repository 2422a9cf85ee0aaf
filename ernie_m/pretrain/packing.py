"""Packs masked sequences into micro-batches. Does not import Paddle.

`HostBatch` is a micro-batch of NumPy arrays. `ernie_m.pretrain.loss.to_device` copies it to a `DeviceBatch`,
with tensors, and with a `PackedBatch`, the encoder's input, instead of each `PackedTokens`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ernie_m.model.packed_layout import PackedLayout
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class


class MaskedSequence(NamedTuple):
    """A masked sequence of t tokens with m targets. Arrays are int64.

    Targets are the tokens whose hidden states the loss reads. All tokens attend to the first `context`
    tokens. The other tokens are placeholders, each of which only the placeholder itself attends to.
    """

    input_ids: np.ndarray  # [t]
    position_ids: np.ndarray  # [t] absolute, the first token has 2
    language_ids: np.ndarray  # [t] `ernie_m.model.config.NO_LANGUAGE` for a token without one
    targets: np.ndarray  # [m] the tokens to predict, as indices into t
    target_ids: np.ndarray  # [m]
    target_languages: np.ndarray  # [m]
    context: int


class Stage1Sequence(NamedTuple):
    """The input of BTMLM's first stage for one example with p pseudo-tokens."""

    sequence: MaskedSequence  # the sentence, then p placeholders, which are its targets
    slots: np.ndarray  # int64 [p], indices of the pseudo-tokens in the sequence of the second stage
    draws: np.ndarray  # float64 [p], uniform in [0, 1), for pseudo-tokens that are sampled


class MaskedExample(NamedTuple):
    """A masked example: its objective, its sequences (two for CAMLM), and the input of BTMLM's first stage.

    A custom loss compares the examples of an objective with the same `group`.
    """

    objective: str
    sequences: list[MaskedSequence]
    stage1: Stage1Sequence | None = None
    group: int = 0


@dataclass(frozen=True)
class PackedTokens:
    """S sequences, concatenated to N tokens without padding, as NumPy arrays.

    Attributes:
        input_ids: int64 [N].
        position_ids: int64 [N]; absolute, a sequence's first token has 2.
        language_ids: int64 [N]; `ernie_m.model.config.NO_LANGUAGE` for a token without a language.
        lengths: int64 [S], tokens of each sequence.
        context_lengths: int64 [S], number of context tokens; the rest are placeholders.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    lengths: np.ndarray
    context_lengths: np.ndarray

    @property
    def tokens(self) -> int:
        """Return N, the number of tokens."""
        return len(self.input_ids)

    @property
    def layout(self) -> PackedLayout:
        """Return the layout of the sequences, which defines the attention mask."""
        return PackedLayout(self.lengths, self.context_lengths)


Inputs = TypeVar("Inputs")
Array = TypeVar("Array")


@dataclass(frozen=True)
class Stage1(Generic[Inputs, Array]):
    """Input of BTMLM's first stage: S sentences with placeholders, which predict P pseudo-tokens.

    A slot is the index of a pseudo-token in the input of the second stage. All arrays [P] are sorted by
    language, so that the pseudo-tokens of a language are one slice.

    Attributes:
        inputs: N' tokens: the sentences, each followed by its placeholders.
        placeholders: int64 [P], indices into N', of the placeholders.
        slots: int64 [P], indices into the N tokens of the second stage, which the pseudo-tokens replace.
        slot_sentences: int64 [P], index of the sentence of each pseudo-token.
        slot_languages: [P], language id of each pseudo-token, ascending; stays on the host.
        draws: float64 [P], uniform in [0, 1), for sampling pseudo-tokens.
        context_ids: int64 [C], ids of the sentences, for counting copied pseudo-tokens.
        context_sentences: int64 [C], index of the sentence of each of these ids.
    """

    inputs: Inputs
    placeholders: Array
    slots: Array
    slot_sentences: Array
    slot_languages: list[int]
    draws: Array
    context_ids: Array
    context_sentences: Array


@dataclass(frozen=True)
class MicroBatch(Generic[Inputs, Array]):
    """A micro-batch, which may mix objectives.

    Attributes:
        inputs: N tokens. BTMLM's pseudo-tokens are [MASK] until `PseudoTokenGenerator.fill_placeholders`.
        targets: int64 [M], indices into N: the W masked tokens, ascending, then the targets of custom losses,
            ascending.
        target_ids: int64 [W], labels of the masked tokens.
        rows: objective -> int64, indices of its targets among the M. Objectives without targets are absent.
        groups: objective with a custom loss -> int64, group of each of its targets.
        stage1: input of BTMLM's first stage; None without BTMLM sequences.
        weights: objective -> weight of each of its losses in the total loss; absent: 1.
        word_weights: float64 [W], weight of each masked token; None: 1.
    """

    inputs: Inputs
    targets: Array
    target_ids: Array
    rows: dict[str, Array]
    groups: dict[str, Array]
    stage1: Stage1[Inputs, Array] | None
    weights: Mapping[str, float] = field(default_factory=dict)
    word_weights: Array | None = None


HostBatch = MicroBatch[PackedTokens, np.ndarray]


def pack(examples: Sequence[MaskedExample]) -> HostBatch:
    """Pack masked examples, at least one, into a micro-batch."""
    sequences: list[MaskedSequence] = []
    objectives = []  # the index in `OBJECTIVES` of each sequence
    groups = []  # the group of each sequence
    stage1_sequences = []
    btmlm_indices = []  # the index of each BTMLM sequence in `sequences`
    for example in examples:
        if example.stage1 is not None:
            stage1_sequences.append(example.stage1)
            btmlm_indices.append(len(sequences))
        objectives += [OBJECTIVES.index(example.objective)] * len(example.sequences)
        groups += [example.group] * len(example.sequences)
        sequences += example.sequences
    packed = _join_sequences(sequences)
    starts = packed.layout.starts  # [S], the first token of each sequence among the N tokens
    stage1 = _pack_stage1(stage1_sequences, starts[btmlm_indices]) if stage1_sequences else None
    targets = _index_targets(starts, sequences)  # [M]
    target_counts = [len(sequence.targets) for sequence in sequences]
    numbers = np.repeat(objectives, target_counts)  # [M]
    has_own_loss = np.array([get_objective_class(name).loss is not None for name in OBJECTIVES])
    order = np.lexsort([targets, has_own_loss[numbers]])  # the targets of a sequence may be unordered
    numbers = numbers[order]
    rows = {OBJECTIVES[number]: np.flatnonzero(numbers == number) for number in np.unique(numbers)}
    target_groups = np.repeat(groups, target_counts)[order]
    target_ids = _concatenate([sequence.target_ids for sequence in sequences])[order]
    return MicroBatch(
        inputs=packed,
        targets=targets[order],
        target_ids=target_ids[~has_own_loss[numbers]],
        rows=rows,
        groups={
            name: target_groups[rows[name]] for name in rows if get_objective_class(name).loss is not None
        },
        stage1=stage1,
    )


def _pack_stage1(
    stage1_sequences: Sequence[Stage1Sequence], first_tokens: np.ndarray
) -> Stage1[PackedTokens, np.ndarray]:
    """Pack the input of BTMLM's first stage.

    Args:
        first_tokens: index of each sequence's first token in the packed input of the second stage.
    """
    sequences = [stage1.sequence for stage1 in stage1_sequences]
    packed = _join_sequences(sequences)
    slots = [first_token + stage1.slots for first_token, stage1 in zip(first_tokens, stage1_sequences)]
    slot_counts = [len(stage1.slots) for stage1 in stage1_sequences]
    languages = _concatenate([sequence.target_languages for sequence in sequences])  # [P]
    order = np.argsort(languages, kind="stable")  # [P], all slots by language
    is_context = packed.layout.is_context()  # bool [N']
    return Stage1(
        inputs=packed,
        placeholders=_index_targets(packed.layout.starts, sequences)[order],
        slots=_concatenate(slots)[order],
        slot_sentences=np.repeat(np.arange(len(sequences)), slot_counts)[order],
        slot_languages=languages[order].tolist(),
        draws=np.concatenate([stage1.draws for stage1 in stage1_sequences])[order],
        context_ids=packed.input_ids[is_context],
        context_sentences=packed.layout.sequence_indices()[is_context],
    )


def _join_sequences(sequences: Sequence[MaskedSequence]) -> PackedTokens:
    return PackedTokens(
        input_ids=_concatenate([sequence.input_ids for sequence in sequences]),
        position_ids=_concatenate([sequence.position_ids for sequence in sequences]),
        language_ids=_concatenate([sequence.language_ids for sequence in sequences]),
        lengths=np.array([len(sequence.input_ids) for sequence in sequences]),
        context_lengths=np.array([sequence.context for sequence in sequences]),
    )


def _index_targets(starts: np.ndarray, sequences: Sequence[MaskedSequence]) -> np.ndarray:
    """Return the targets of all sequences as indices into the packed tokens, int64 [M].

    Args:
        starts: packed index of each sequence's first token.
    """
    return _concatenate([start + sequence.targets for start, sequence in zip(starts, sequences)])


def group_by_tokens(token_counts: Sequence[int], budget: int) -> Iterator[slice]:
    """Divide consecutive items into groups of at most `budget` tokens, or of one larger item.

    Args:
        token_counts: number of tokens of each item.

    Yields:
        The items of each group, as a slice; nothing if there are no tokens.
    """
    first = 0
    total = 0
    for number, count in enumerate(token_counts):
        if total and total + count > budget:
            yield slice(first, number)
            first = number
            total = 0
        total += count
    if total:
        yield slice(first, len(token_counts))


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate arrays as int64."""
    return np.concatenate(arrays).astype(np.int64)
