"""BTMLM stage 1: a pass without gradient that predicts the pseudo-tokens (paper section 3, Figures 3, 4)."""

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model.heads import PreTrainingModel
from model.word_table import logits, row_parts
from pretrain.batch import Stage1
from pretrain.loss import DeviceBatch, DeviceRow, send, stage1_row

_CLOSED = -1e4


class PseudoTokenGenerator:
    """Fills a BTMLM batch's slots.

    The output layer is computed for the target language's pieces only: [S, n] logits, never [S, V].

    Args:
        allowed: per language, the ids that may be produced (`pseudo.allowed_pieces`); None: all but the
            specials.
        special_ids: never produced.
        temperature: 0 takes the arg max; above 0 samples from softmax(logits / temperature), by the batch's
            own draws.
    """

    def __init__(
        self, allowed: Sequence[np.ndarray] | None, special_ids: np.ndarray, temperature: float = 0.0
    ):
        self.allowed = None if allowed is None else [paddle.to_tensor(pieces) for pieces in allowed]
        self.special_ids = paddle.to_tensor(np.asarray(special_ids))
        self.temperature = temperature

    @paddle.no_grad()
    def fill(self, model: PreTrainingModel, batch: DeviceBatch) -> dict[str, Tensor | int]:
        """Put pseudo-tokens into the batch's slots.

        Returns:
            The number of pseudo-tokens ("pseudo"), of those that occur in their sentence ("copied"), and of
            those that repeat another one of their sentence ("repeated").
        """
        pseudo_ids = self._pseudo_ids(model, batch.stage1)
        row, first = batch.row.tensors, batch.stage1.tensors
        row["input_ids"] = paddle.scatter(row["input_ids"], first["slots"], pseudo_ids)
        size = model.lm_head.bias.shape[0]
        produced = first["slot_rows"] * size + pseudo_ids  # a number for each (sentence, id), [S]
        tokens = first["sentences"] * size + first["input_ids"]  # [N]; negative where nothing can be copied
        copied = produced.unsqueeze(1) == tokens  # [S, N]
        repeated = paddle.tril((produced.unsqueeze(1) == produced).astype("int32"), -1)  # [S, S]
        counts = {"copied": copied.any(1).sum(), "repeated": repeated.any(1).sum()}
        return {"pseudo": batch.stage1.count} | counts

    @paddle.no_grad()
    def predict(self, model: PreTrainingModel, stage1: Stage1) -> np.ndarray:
        """The pseudo-tokens, int64 [S], in the order of `stage1.slots`. No gradient, dropout off."""
        row = stage1_row(stage1)
        send([row])
        return self._pseudo_ids(model, row).numpy()

    def _pseudo_ids(self, model: PreTrainingModel, row: DeviceRow) -> Tensor:
        training = model.training
        model.eval()
        hidden = model.lm_head.transform(row.hidden(model))  # [S, H]
        if training:
            model.train()
        draws = row.tensors["draws"]
        if self.allowed is None:
            return self._among_all(model, hidden, draws)
        # Slots are ordered by language, so each language's are one slice.
        languages, starts = np.unique(row.batch.slot_languages, return_index=True)
        parts = []
        for language, start, stop in zip(languages, starts, [*starts[1:], row.count]):
            of_language = slice(int(start), int(stop))
            pieces = self.allowed[language]
            parts.append(self._among(model, hidden[of_language], pieces, draws[of_language]))
        return paddle.concat(parts)

    def _among(self, model: PreTrainingModel, hidden: Tensor, pieces: Tensor, draws: Tensor) -> Tensor:
        table = paddle.gather(model.lm_head.word_embeddings.weight, pieces)  # [n, H]
        bias = paddle.gather(model.lm_head.bias, pieces)
        return paddle.gather(pieces, self._choose(hidden, table, bias, draws))

    def _among_all(self, model: PreTrainingModel, hidden: Tensor, draws: Tensor) -> Tensor:
        values = paddle.full([len(self.special_ids)], _CLOSED, hidden.dtype)
        bias = paddle.scatter_nd_add(model.lm_head.bias, self.special_ids.unsqueeze(-1), values)
        return self._choose(hidden, model.lm_head.word_embeddings.weight, bias, draws)

    def _choose(self, hidden: Tensor, table: Tensor, bias: Tensor, draws: Tensor) -> Tensor:
        """Rows of `table` [n, H] chosen for each row of `hidden` [S, H]: int64 [S]."""
        parts = row_parts(hidden.shape[0], table.shape[0])
        return paddle.concat([self._column(logits(hidden[part], table, bias), draws[part]) for part in parts])

    def _column(self, logits: Tensor, draws: Tensor) -> Tensor:
        if not self.temperature:
            return logits.argmax(-1)
        cumulative = F.softmax(logits.astype("float64") / self.temperature, axis=-1).cumsum(-1)  # [S, n]
        below = cumulative < draws.unsqueeze(-1) * cumulative[:, -1:]
        return below.astype("int64").sum(-1)


def copied_and_repeated(stage1: Stage1, pseudo_ids: np.ndarray) -> tuple[int, int]:
    """How many pseudo-tokens [P] occur in their own sentence, and how many repeat another of it."""
    row = np.repeat(np.arange(len(stage1.lengths)), stage1.lengths)  # [N]
    column = np.arange(stage1.tokens) - np.repeat(stage1.starts, stage1.lengths)
    in_context = column < stage1.contexts[row]
    size = 1 + max(stage1.input_ids.max(), pseudo_ids.max())
    of_slots = stage1.slot_rows * size + pseudo_ids  # a number for each (sentence, id)
    copied = np.isin(of_slots, (row * size + stage1.input_ids)[in_context])
    return int(copied.sum()), len(of_slots) - len(np.unique(of_slots))
