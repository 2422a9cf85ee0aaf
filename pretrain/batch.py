"""What the training loop sees: sequences one after the other in one row, without pads. No paddle here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pretrain import attention_mask
from pretrain.config import OBJECTIVES

NO_LANGUAGE = -1


class MaskedSequence(NamedTuple):
    """One sequence. Arrays are int64.

    The first `context` tokens are seen by all of them, the others are placeholders, which only see themselves
    beside the context.
    """

    input_ids: np.ndarray  # [t]
    position_ids: np.ndarray  # [t] absolute, the first token has 2
    language_ids: np.ndarray  # [t] -1 = none
    targets: np.ndarray  # [m] columns to predict
    target_ids: np.ndarray  # [m]
    target_languages: np.ndarray  # [m]
    context: int


class Slots(NamedTuple):
    """The first stage of a BTMLM sequence: its row, the columns of the second stage that it fills int64 [p],
    uniform numbers [p]."""

    row: MaskedSequence
    columns: np.ndarray
    draws: np.ndarray


class MaskedExample(NamedTuple):
    """A masked example: the objective whose loss it serves, its rows (two for CAMLM), BTMLM's first stage."""

    objective: str
    rows: list[MaskedSequence]
    slots: Slots | None = None


@dataclass(frozen=True)
class Packed:
    """Sequences in one row of N tokens.

    Attributes:
        input_ids: int64 [N].
        position_ids: int64 [N]; absolute, a sequence's first token has 2.
        language_ids: int64 [N]; -1 = none.
        lengths: int64 [S], tokens of each sequence.
        contexts: int64 [S], how many of them are context; the rest are placeholders.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    lengths: np.ndarray
    contexts: np.ndarray

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.input_ids)

    @property
    def starts(self) -> np.ndarray:
        """Where each sequence begins, int64 [S]."""
        return np.cumsum(self.lengths) - self.lengths

    def attention(self, number: int) -> np.ndarray:
        """Who attends to whom in sequence `number`, bool [t, t]. For pictures and tests."""
        context = int(self.contexts[number])
        return attention_mask.compact(context, int(self.lengths[number]) - context)


@dataclass(frozen=True)
class Stage1(Packed):
    """BTMLM's first pass: sentences and placeholders, and where the predictions go.

    Slots are ordered by language, so that one language's slots are one slice.

    Attributes:
        placeholders: indices into N, int64 [P].
        slots: indices into N of the second pass, int64 [P].
        slot_rows: the sequence of each slot, int64 [P].
        slot_languages: the language to produce, int64 [P].
        draws: uniform in [0, 1), float64 [P]; used where pseudo-tokens are sampled.
    """

    placeholders: np.ndarray
    slots: np.ndarray
    slot_rows: np.ndarray
    slot_languages: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class Batch(Packed):
    """A micro-batch, of any objectives.

    Attributes:
        targets: indices into N of the tokens to predict, int64 [M], ascending.
        target_ids: int64 [M].
        target_languages: int64 [M].
        target_objectives: int64 [M], places in `OBJECTIVES`.
        stage1: of the BTMLM sequences; their slots hold [MASK] until `with_pseudo_tokens`. None without any.
    """

    targets: np.ndarray
    target_ids: np.ndarray
    target_languages: np.ndarray
    target_objectives: np.ndarray
    stage1: Stage1 | None = None

    @property
    def masked(self) -> np.ndarray:
        """The tokens to predict of each objective, int64 [4], in the order of `OBJECTIVES`."""
        return np.bincount(self.target_objectives, minlength=len(OBJECTIVES))

    def with_pseudo_tokens(self, pseudo_ids: np.ndarray) -> "Batch":
        """BTMLM's second stage: this batch with `pseudo_ids` [P] in the slots, in the order of
        `stage1.slots`."""
        input_ids = self.input_ids.copy()
        input_ids[self.stage1.slots] = pseudo_ids
        return replace(self, input_ids=input_ids)


def pack(examples: Sequence[MaskedExample]) -> Batch:
    """Masked examples, at least one, as a micro-batch."""
    rows = [row for example in examples for row in example.rows]
    first_rows = np.cumsum([0, *(len(example.rows) for example in examples)])
    counts = [sum(len(row.targets) for row in example.rows) for example in examples]
    batch = Batch(
        **_joined(rows),
        targets=_placed(rows, [row.targets for row in rows]),
        target_ids=_concatenate([row.target_ids for row in rows]),
        target_languages=_concatenate([row.target_languages for row in rows]),
        target_objectives=np.repeat([OBJECTIVES.index(example.objective) for example in examples], counts),
    )
    order = np.argsort(batch.targets, kind="stable")  # columns of a row need not come in order
    names = ("targets", "target_ids", "target_languages", "target_objectives")
    batch = replace(batch, **{name: getattr(batch, name)[order] for name in names})
    found = [(first, example.slots) for first, example in zip(first_rows, examples) if example.slots]
    if not found:
        return batch
    starts, slots = batch.starts, [one for _, one in found]
    stage1 = Stage1(
        **_joined([one.row for one in slots]),
        placeholders=_placed([one.row for one in slots], [one.row.targets for one in slots]),
        slots=_concatenate([starts[first] + one.columns for first, one in found]),
        slot_rows=np.repeat(np.arange(len(slots)), [len(one.columns) for one in slots]),
        slot_languages=_concatenate([one.row.target_languages for one in slots]),
        draws=np.concatenate([one.draws for one in slots]),
    )
    order = np.argsort(stage1.slot_languages, kind="stable")
    names = ("placeholders", "slots", "slot_rows", "slot_languages", "draws")
    stage1 = replace(stage1, **{name: getattr(stage1, name)[order] for name in names})
    return replace(batch, stage1=stage1)


def _joined(rows: Sequence[MaskedSequence]) -> dict[str, np.ndarray]:
    fields = {
        name: _concatenate([getattr(row, name) for row in rows])
        for name in ("input_ids", "position_ids", "language_ids")
    }
    lengths = np.array([len(row.input_ids) for row in rows])
    return fields | {"lengths": lengths, "contexts": np.array([row.context for row in rows])}


def _placed(rows: Sequence[MaskedSequence], columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of each row as indices into all of their tokens."""
    starts = np.cumsum([0, *(len(row.input_ids) for row in rows)])
    return _concatenate([start + mine for start, mine in zip(starts, columns)])


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype(np.int64)
