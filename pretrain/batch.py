"""What the training loop sees: sequences one after the other in one row, without pads. No paddle here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretrain.config import OBJECTIVES

NO_LANGUAGE = -1


class MaskedSequence(NamedTuple):
    """One sequence. Arrays are int64.

    All tokens see the first `context` tokens. The others are placeholders, each of which is seen only by
    itself.
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
        stage1: BTMLM's first pass; until it has run, the slots hold [MASK]. None without BTMLM sequences.
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


def pack(examples: Sequence[MaskedExample]) -> Batch:
    """Masked examples, at least one, as a micro-batch."""
    rows = [row for example in examples for row in example.rows]
    joined = _join(rows)
    starts = np.cumsum(joined["lengths"]) - joined["lengths"]
    objectives = [OBJECTIVES.index(example.objective) for example in examples for _ in example.rows]
    targets = {
        "targets": _concatenate([start + row.targets for start, row in zip(starts, rows)]),
        "target_ids": _concatenate([row.target_ids for row in rows]),
        "target_languages": _concatenate([row.target_languages for row in rows]),
        "target_objectives": np.repeat(objectives, [len(row.targets) for row in rows]),
    }
    first_rows = np.cumsum([0, *(len(example.rows) for example in examples)])
    slots = [(starts[first], example.slots) for first, example in zip(first_rows, examples) if example.slots]
    # columns of a row need not come in order
    return Batch(**joined, **_sorted(targets, "targets"), stage1=_stage1(slots) if slots else None)


def _stage1(slots: Sequence[tuple[int, Slots]]) -> Stage1:
    """The first pass of BTMLM sequences, of which each is given with its start in the second pass."""
    joined = _join([one.row for _, one in slots])
    starts = np.cumsum(joined["lengths"]) - joined["lengths"]
    fields = {
        "placeholders": _concatenate([start + one.row.targets for start, (_, one) in zip(starts, slots)]),
        "slots": _concatenate([start + one.columns for start, one in slots]),
        "slot_rows": np.repeat(np.arange(len(slots)), [len(one.columns) for _, one in slots]),
        "slot_languages": _concatenate([one.row.target_languages for _, one in slots]),
        "draws": np.concatenate([one.draws for _, one in slots]),
    }
    return Stage1(**joined, **_sorted(fields, "slot_languages"))


def _sorted(fields: dict[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
    order = np.argsort(fields[key], kind="stable")
    return {name: values[order] for name, values in fields.items()}


def _join(rows: Sequence[MaskedSequence]) -> dict[str, Any]:
    fields = {
        name: _concatenate([getattr(row, name) for row in rows])
        for name in ("input_ids", "position_ids", "language_ids")
    }
    lengths = np.array([len(row.input_ids) for row in rows])
    return fields | {"lengths": lengths, "contexts": np.array([row.context for row in rows])}


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype(np.int64)
