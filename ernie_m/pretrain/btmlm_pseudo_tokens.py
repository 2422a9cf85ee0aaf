"""BTMLM's stage 1: a pass without gradient that predicts the pseudo-tokens (paper section 3, Figure 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.model.lm_head import PreTrainingModel, logit_chunks, logits
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.loss import DeviceBatch
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.objectives.btmlm import Btmlm
from ernie_m.pretrain.packing import Stage1
from ernie_m.utils.logging import logger


class PseudoTokenGenerator:
    """Fills a BTMLM batch's slots.

    The output layer is computed for the target language's subwords only: [P, n] logits, never [P, V].

    Args:
        allowed: per language, the ids that may be produced (`allowed_pieces`).
        temperature: 0 takes the arg max; above 0 samples from softmax(logits / temperature), with the draws
            of the batch.
    """

    def __init__(self, allowed: Sequence[np.ndarray], temperature: float = 0.0):
        self.allowed = [paddle.to_tensor(pieces) for pieces in allowed]
        self.temperature = temperature

    @paddle.no_grad()
    def fill(
        self, model: PreTrainingModel, batch: DeviceBatch
    ) -> tuple[DeviceBatch, dict[str, Tensor | int]]:
        """Predict the pseudo-tokens of a batch, if it has BTMLM sequences. No gradient, dropout off.

        Returns:
            The batch with pseudo-tokens in its slots; and the number of pseudo-tokens ("pseudo"), of those
            that occur in their sentence ("copied"), and of those that repeat an earlier one of their sentence
            ("repeated"). Without BTMLM sequences, the batch itself, and nothing.
        """
        stage1 = batch.stage1
        if stage1 is None:
            return batch, {}
        pseudo_ids = self._pseudo_ids(model, stage1)  # [P]
        filled_ids = paddle.scatter(batch.inputs.input_ids, stage1.slots, pseudo_ids)  # [N]
        filled_batch = replace(batch, inputs=replace(batch.inputs, input_ids=filled_ids))

        # One number stands for a sentence and an id together, so ids are compared within a sentence only.
        vocab_size = model.lm_head.bias.shape[0]
        pseudo_keys = stage1.slot_sentences * vocab_size + pseudo_ids  # [P]
        context_keys = stage1.context_sentences * vocab_size + stage1.context_ids  # [C]
        is_copied = (pseudo_keys.unsqueeze(1) == context_keys).any(1)  # [P, C] -> [P]
        is_equal = (pseudo_keys.unsqueeze(1) == pseudo_keys).astype("int32")  # [P, P]
        is_repeated = paddle.tril(is_equal, -1).any(1)  # [P]; below the diagonal are the earlier slots
        counts: dict[str, Tensor | int] = {
            "pseudo": len(stage1.slot_languages),
            "copied": is_copied.sum(),
            "repeated": is_repeated.sum(),
        }
        return filled_batch, counts

    def _pseudo_ids(self, model: PreTrainingModel, stage1: Stage1[PackedBatch, Tensor]) -> Tensor:
        """Return the id of each slot, int64 [P]."""
        was_training = model.training
        model.eval()
        head = model.lm_head
        hidden = head.transform(model.encode(stage1.inputs, positions=stage1.placeholders))  # [P, H]
        if was_training:
            model.train()
        table = head.word_embeddings.weight  # [V, H]
        pseudo_ids = []  # one language after the other, as the slots are ordered
        start = 0
        for language, equal_languages in groupby(stage1.slot_languages):
            slots = slice(start, start + len(list(equal_languages)))
            start = slots.stop
            pieces = self.allowed[language]  # [n]
            rows = paddle.gather(table, pieces)  # [n, H]
            bias = paddle.gather(head.bias, pieces)  # [n]
            chosen = self.choose(hidden[slots], rows, bias, stage1.draws[slots])
            pseudo_ids.append(paddle.gather(pieces, chosen))
        return paddle.concat(pseudo_ids)

    def choose(self, hidden: Tensor, table: Tensor, bias: Tensor, draws: Tensor) -> Tensor:
        """Choose one of n subwords for each of P positions.

        Args:
            hidden: [P, H].
            table: the embeddings of the subwords, [n, H].
            bias: the bias of the subwords, [n].
            draws: float64 [P], uniform in [0, 1).

        Returns:
            Rows of `table`, int64 [P].
        """
        chosen = []
        for part in logit_chunks(hidden.shape[0], table.shape[0], bias.dtype):  # as memory allows
            piece_logits = logits(hidden[part], table, bias)  # [p, n]
            if self.temperature == 0:
                chosen.append(piece_logits.argmax(-1))
                continue
            probabilities = F.softmax(piece_logits.astype("float64") / self.temperature, axis=-1)  # [p, n]
            cumulative = probabilities.cumsum(-1)  # [p, n]
            # Choose the first column whose cumulative probability reaches the draw: the columns before it are
            # those below the draw, so their count is its index. The last cumulative probability is 1 but for
            # rounding; the draw is scaled by it, so that it never falls beyond the last column.
            total = cumulative[:, -1:]  # [p, 1]
            is_below = cumulative < draws[part].unsqueeze(-1) * total  # [p, n]
            chosen.append(is_below.astype("int64").sum(-1))
        return paddle.concat(chosen)


def make_pseudo_token_generator(text: TrainingData) -> PseudoTokenGenerator:
    """BTMLM's stage 1 as the configuration asks for it; it has no language if no kind of BTMLM is active."""
    if not any(isinstance(objective, Btmlm) for objective in text.objectives.values()):
        return PseudoTokenGenerator([])
    if "camlm" not in text.objectives:
        logger.warning(
            "objectives.active has btmlm without camlm, which teaches the model to generate "
            "pseudo-tokens. Add camlm"
        )
    choices = text.setting.config
    allowed = allowed_pieces(text.piece_counts(), choices.min_piece_count, text.setting.vocabulary)
    return PseudoTokenGenerator(allowed, choices.pseudo_temperature)


def allowed_pieces(
    piece_counts: Iterable[np.ndarray], min_count: int, vocabulary: Vocabulary
) -> list[np.ndarray]:
    """Return the allowed pseudo-tokens of each language, without special tokens: sorted int64 arrays.

    Args:
        piece_counts: occurrences in each language's text, [languages, V].
        min_count: the least number of times that an allowed subword occurs. If no subword of a language
            occurs so often, all subwords of its text are allowed; if it has no text, all subwords.
    """
    ordinary = vocabulary.ordinary_ids
    allowed = []
    for counts in piece_counts:  # [V], of each language
        for least in (min_count, 1, 0):  # 0 allows all subwords
            pieces = ordinary[counts[ordinary] >= least]
            if len(pieces):
                break
        allowed.append(pieces)
    return allowed
