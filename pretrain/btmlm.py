"""BTMLM stage 1: a pass without gradient that predicts the pseudo-tokens (paper section 3, Figures 3, 4)."""

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model.attention import CLOSED
from model.heads import PreTrainingModel
from model.word_table import logits, row_parts
from pretrain.loss import DeviceBatch, DeviceRow
from pretrain.masking import Vocabulary


class PseudoTokenGenerator:
    """Fills a BTMLM batch's slots.

    The output layer is computed for the target language's pieces only: [S, n] logits, never [S, V].

    Args:
        allowed: per language, the ids that may be produced (`allowed_pieces`); None: all but the specials.
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
        """Put pseudo-tokens into the batch's slots. No gradient, dropout off.

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

    def _pseudo_ids(self, model: PreTrainingModel, row: DeviceRow) -> Tensor:
        training = model.training
        model.eval()
        hidden = model.lm_head.transform(row.hidden(model))  # [S, H]
        if training:
            model.train()
        head, draws = model.lm_head, row.tensors["draws"]
        table = head.word_embeddings.weight
        if self.allowed is None:
            values = paddle.full([len(self.special_ids)], CLOSED, hidden.dtype)
            bias = paddle.scatter_nd_add(head.bias, self.special_ids.unsqueeze(-1), values)
            return self.choose(hidden, table, bias, draws)
        # Slots are ordered by language, so each language's are one slice.
        languages, starts = np.unique(row.batch.slot_languages, return_index=True)
        parts = []
        for language, start, stop in zip(languages, starts, [*starts[1:], row.count]):
            part, pieces = slice(int(start), int(stop)), self.allowed[language]
            rows, bias = paddle.gather(table, pieces), paddle.gather(head.bias, pieces)  # [n, H], [n]
            parts.append(paddle.gather(pieces, self.choose(hidden[part], rows, bias, draws[part])))
        return paddle.concat(parts)

    def choose(self, hidden: Tensor, table: Tensor, bias: Tensor, draws: Tensor) -> Tensor:
        """Rows of `table` [n, H] chosen for each row of `hidden` [S, H]: int64 [S]."""
        parts = row_parts(hidden.shape[0], table.shape[0])
        return paddle.concat([self._column(logits(hidden[part], table, bias), draws[part]) for part in parts])

    def _column(self, logits: Tensor, draws: Tensor) -> Tensor:
        if not self.temperature:
            return logits.argmax(-1)
        cumulative = F.softmax(logits.astype("float64") / self.temperature, axis=-1).cumsum(-1)  # [S, n]
        below = cumulative < draws.unsqueeze(-1) * cumulative[:, -1:]
        return below.astype("int64").sum(-1)


def allowed_pieces(
    piece_counts: Sequence[np.ndarray], min_count: int, vocabulary: Vocabulary
) -> list[np.ndarray]:
    """The pieces each language's pseudo-tokens may be, without specials: a sorted int64 array per language.

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        min_count: the least number of times that an allowed piece occurs. If no piece of a language occurs so
            often, all pieces of its text are allowed; if it has no text, all pieces.
    """
    ordinary = vocabulary.ordinary_ids
    return [
        next(pieces for floor in (min_count, 1, 0) if len(pieces := ordinary[counts[ordinary] >= floor]))
        for counts in piece_counts
    ]
