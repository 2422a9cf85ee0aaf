"""What the training loop sees: padded arrays. Readers make them, in another process too; no paddle here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pretrain import attention_mask
from reader.features import round_up

NO_LANGUAGE = -1
PAD_POSITION = 1


class Row(NamedTuple):
    """One sequence before padding. Arrays are int64.

    With `context_length` C < t the first C tokens are context and the rest placeholders (the compact form).
    """

    input_ids: np.ndarray  # [t]
    position_ids: np.ndarray  # [t] absolute, the first token has 2
    language_ids: np.ndarray  # [t] -1 = none
    targets: np.ndarray  # [m] columns to predict
    target_ids: np.ndarray  # [m]
    target_languages: np.ndarray  # [m]
    context_length: int


@dataclass(frozen=True)
class Stage1:
    """BTMLM's first pass: sentence and placeholders in compact form, and where its predictions go.

    Slots are ordered by language, so that one language's slots are one slice.

    Args:
        input_ids, position_ids, language_ids: int64 [B, C+P].
        context_length: C.
        valid: bool [B, C+P].
        placeholders: flat indices into B*(C+P), int64 [S].
        slots: flat indices into B*T of the second pass, int64 [S].
        slot_rows: the row of each slot, int64 [S].
        slot_languages: the language to produce, int64 [S].
        draws: uniform in [0, 1), float64 [S]; used where pseudo-tokens are sampled.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    context_length: int
    valid: np.ndarray
    placeholders: np.ndarray
    slots: np.ndarray
    slot_rows: np.ndarray
    slot_languages: np.ndarray
    draws: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Sequences of one objective.

    Args:
        objective: mmlm, tlm, camlm or btmlm.
        input_ids: int64 [B, T]; pads hold the pad id.
        position_ids: int64 [B, T]; absolute, the first token 2, pads 1.
        language_ids: int64 [B, T]; -1 = none.
        valid: bool [B, T]; False at pads.
        context_length: C of the compact form, None for all other forms.
        dense: bool [B, 1, T, T] where the attention is given as a matrix, else None.
        target_positions: flat indices into B*T of the tokens to predict, ascending, int64 [M].
        target_ids: int64 [M].
        target_languages: int64 [M].
        sequences: texts or pairs in the batch (a pair in compact form is two rows, one sequence).
        stage1: BTMLM only; its slots hold [MASK] until `with_pseudo_tokens`.
    """

    objective: str
    input_ids: np.ndarray
    position_ids: np.ndarray
    language_ids: np.ndarray
    valid: np.ndarray
    context_length: int | None
    dense: np.ndarray | None
    target_positions: np.ndarray
    target_ids: np.ndarray
    target_languages: np.ndarray
    sequences: int
    stage1: Stage1 | None = None

    @property
    def masked(self) -> int:
        """M, the number of tokens to predict."""
        return len(self.target_ids)

    @property
    def tokens(self) -> int:
        """Real tokens in the sequences trained on: pseudo-tokens count, the pass of stage 1 does not."""
        return int(self.valid.sum())

    def attention(self) -> np.ndarray:
        """The attention written out, whatever its form: bool [B, 1, T, T]. For pictures and tests."""
        if self.dense is not None:
            return self.dense
        if self.context_length is not None:
            return attention_mask.from_compact(self.context_length, self.valid)
        return attention_mask.from_key_mask(self.valid)

    def with_pseudo_tokens(self, pseudo_ids: np.ndarray) -> "Batch":
        """BTMLM stage 2: this batch with `pseudo_ids` [S], in the order of `stage1.slots`, in the slots."""
        input_ids = self.input_ids.copy()
        input_ids.flat[self.stage1.slots] = pseudo_ids
        return replace(self, input_ids=input_ids)


class Padded(NamedTuple):
    """Rows in rectangular arrays, and `flat`: for each row's tokens in order, their flat index into B*T."""

    input_ids: np.ndarray  # [B, T]
    position_ids: np.ndarray  # [B, T]
    language_ids: np.ndarray  # [B, T]
    valid: np.ndarray  # bool [B, T]
    context_length: int
    flat: np.ndarray  # [sum t]
    starts: np.ndarray  # [B] where each row begins in `flat`


def pad_rows(rows: Sequence[Row], pad_id: int, multiple: int = 1) -> Padded:
    """Pad contexts and placeholders apart, each to the longest, rounded up to a multiple of `multiple`.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a batch needs at least one row")
    lengths = np.array([len(row.input_ids) for row in rows])
    contexts = np.array([row.context_length for row in rows])
    context_length = round_up(int(contexts.max()), multiple)
    width = context_length + round_up(int((lengths - contexts).max()), multiple)

    starts = np.cumsum(lengths) - lengths
    columns = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    context_of_token = np.repeat(contexts, lengths)
    columns += np.where(columns < context_of_token, 0, context_length - context_of_token)
    flat = np.repeat(np.arange(len(rows)), lengths) * width + columns

    def scatter(field: str, fill: int) -> np.ndarray:
        array = np.full((len(rows), width), fill, dtype=np.int64)
        array.flat[flat] = np.concatenate([getattr(row, field) for row in rows])
        return array

    valid = np.zeros((len(rows), width), dtype=bool)
    valid.flat[flat] = True
    return Padded(
        scatter("input_ids", pad_id),
        scatter("position_ids", PAD_POSITION),
        scatter("language_ids", NO_LANGUAGE),
        valid,
        context_length,
        flat,
        starts,
    )


def collate(
    objective: str,
    rows: Sequence[Row],
    pad_id: int,
    sequences: int,
    matrices: Sequence[np.ndarray] | None = None,
    compact: bool = False,
    multiple: int = 1,
) -> Batch:
    """Pad rows into a `Batch`.

    Args:
        sequences: texts or pairs the rows stand for.
        matrices: one bool [t, t] per row where the attention is dense.
        compact: the rows are context and placeholders.
        multiple: lengths are rounded up to a multiple of it.
    """
    padded = pad_rows(rows, pad_id, multiple)
    positions = np.concatenate([padded.flat[start + row.targets] for start, row in zip(padded.starts, rows)])
    order = np.argsort(positions, kind="stable")  # columns of a row need not come in order
    return Batch(
        objective=objective,
        input_ids=padded.input_ids,
        position_ids=padded.position_ids,
        language_ids=padded.language_ids,
        valid=padded.valid,
        context_length=padded.context_length if compact else None,
        dense=None if matrices is None else attention_mask.pad(matrices, padded.valid.shape[1]),
        target_positions=positions[order],
        target_ids=np.concatenate([row.target_ids for row in rows])[order],
        target_languages=np.concatenate([row.target_languages for row in rows])[order],
        sequences=sequences,
    )


def collate_stage1(
    rows: Sequence[Row],
    pad_id: int,
    slot_columns: Sequence[np.ndarray],
    stage2_width: int,
    draws: Sequence[np.ndarray],
    multiple: int = 1,
) -> Stage1:
    """Pad stage-1 rows, whose targets are the placeholders.

    Args:
        rows: `targets` are the placeholders' columns, `target_languages` the language to produce.
        slot_columns: per row, the columns [p] of the second pass that the predictions fill.
        stage2_width: T of the second pass.
        draws: per row, uniform numbers [p].
    """
    padded = pad_rows(rows, pad_id, multiple)
    slot_rows = np.repeat(np.arange(len(rows)), [len(row.targets) for row in rows])
    slots = slot_rows * stage2_width + np.concatenate(slot_columns)
    placeholders = np.concatenate(
        [padded.flat[start + row.targets] for start, row in zip(padded.starts, rows)]
    )
    languages = np.concatenate([row.target_languages for row in rows])
    order = np.argsort(languages, kind="stable")
    return Stage1(
        padded.input_ids,
        padded.position_ids,
        padded.language_ids,
        padded.context_length,
        padded.valid,
        placeholders[order],
        slots[order],
        slot_rows[order],
        languages[order],
        np.concatenate(draws)[order],
    )
