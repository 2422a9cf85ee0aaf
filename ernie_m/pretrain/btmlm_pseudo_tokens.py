"""BTMLM's first stage: a forward pass that generates the pseudo-tokens (paper, section 3, Figure 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.model.lm_head import PreTrainingModel, compute_logits, split_into_logit_chunks
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.loss import DeviceBatch
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.objectives.btmlm import Btmlm
from ernie_m.pretrain.packing import Stage1
from ernie_m.utils.logging import logger


class PseudoTokenGenerator:
    """Generator of the pseudo-tokens of BTMLM batches, without gradients or dropout.

    Logits are computed only for the n subwords of the target language: [P, n], never [P, V].

    Args:
        allowed_ids: ids that may be generated in each language, from `find_allowed_subwords`.
        temperature: 0: take the argmax; above 0: sample from softmax(logits / temperature), with the uniform
            random numbers of the batch.
    """

    def __init__(self, allowed_ids: Sequence[np.ndarray], temperature: float = 0.0):
        self.allowed = [paddle.to_tensor(ids) for ids in allowed_ids]
        self.temperature = temperature

    @paddle.no_grad()
    def fill_placeholders(
        self, model: PreTrainingModel, batch: DeviceBatch
    ) -> tuple[DeviceBatch, dict[str, Tensor | int]]:
        """Generate the pseudo-tokens of a batch, and put them into its second-stage input.

        Returns:
            The batch with pseudo-tokens; and the number of pseudo-tokens ("pseudo"), of those that occur in
            their sentence ("copied"), and of those that repeat an earlier pseudo-token of their sentence
            ("repeated"). Without BTMLM sequences: the batch unchanged, and {}.
        """
        stage1 = batch.stage1
        if stage1 is None:
            return batch, {}
        pseudo_ids = self._generate_ids(model, stage1)  # [P]
        filled_ids = paddle.scatter(batch.inputs.input_ids, stage1.slots, pseudo_ids)  # [N]
        filled_batch = replace(batch, inputs=replace(batch.inputs, input_ids=filled_ids))

        # One number combines sentence and id, so that ids are only compared within a sentence.
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

    def _generate_ids(self, model: PreTrainingModel, stage1: Stage1[PackedBatch, Tensor]) -> Tensor:
        """Generate the id of each of P pseudo-tokens, int64 [P]."""
        was_training = model.training
        model.eval()
        head = model.lm_head
        hidden = head.transform(model.encode(stage1.inputs, positions=stage1.placeholders))  # [P, H]
        if was_training:
            model.train()
        table = head.word_embeddings.weight  # [V, H]
        pseudo_ids = []  # by language, in the order of the slots
        start = 0
        for language, equal_languages in groupby(stage1.slot_languages):
            slots = slice(start, start + len(list(equal_languages)))
            start = slots.stop
            subword_ids = self.allowed[language]  # [n]
            rows = paddle.gather(table, subword_ids)  # [n, H]
            bias = paddle.gather(head.bias, subword_ids)  # [n]
            chosen = self.choose_subwords(hidden[slots], rows, bias, stage1.draws[slots])
            pseudo_ids.append(paddle.gather(subword_ids, chosen))
        return paddle.concat(pseudo_ids)

    def choose_subwords(
        self, hidden: Tensor, embedding_matrix: Tensor, bias: Tensor, draws: Tensor
    ) -> Tensor:
        """Choose one of n subwords for each of P pseudo-tokens, by argmax or sampling.

        Args:
            hidden: output of `LMHead.transform`, [P, H].
            embedding_matrix: embeddings of the subwords, [n, H].
            bias: bias of the subwords, [n].
            draws: float64 [P], uniform in [0, 1).

        Returns:
            Indices of the chosen subwords, int64 [P], from 0 to n - 1.
        """
        chosen = []
        # Memory limits the number of logits at a time.
        for part in split_into_logit_chunks(hidden.shape[0], embedding_matrix.shape[0], bias.dtype):
            subword_logits = compute_logits(hidden[part], embedding_matrix, bias)  # [p, n]
            if self.temperature == 0:
                chosen.append(subword_logits.argmax(-1))
                continue
            probabilities = F.softmax(subword_logits.astype("float64") / self.temperature, axis=-1)  # [p, n]
            cumulative = probabilities.cumsum(-1)  # [p, n]
            # The index of the first column whose cumulative probability reaches the draw is the number of
            # columns below the draw. The last cumulative probability is 1 up to rounding; the draw is scaled
            # by it, so that it never exceeds the last column.
            total = cumulative[:, -1:]  # [p, 1]
            is_below = cumulative < draws[part].unsqueeze(-1) * total  # [p, n]
            chosen.append(is_below.astype("int64").sum(-1))
        return paddle.concat(chosen)


def make_pseudo_token_generator(text: TrainingData) -> PseudoTokenGenerator:
    """Make the generator of BTMLM's pseudo-tokens from the config; without BTMLM, one that does nothing."""
    if not any(isinstance(objective, Btmlm) for objective in text.objectives.values()):
        return PseudoTokenGenerator([])
    if "camlm" not in text.objectives:
        logger.warning(
            "objectives.active: btmlm without camlm, which teaches the model to generate "
            "pseudo-tokens. Add camlm"
        )
    choices = text.setting.config
    allowed = find_allowed_subwords(text.count_subwords(), choices.min_piece_count, text.setting.vocabulary)
    return PseudoTokenGenerator(allowed, choices.pseudo_temperature)


def find_allowed_subwords(
    subword_counts: Iterable[np.ndarray], min_count: int, vocabulary: Vocabulary
) -> list[np.ndarray]:
    """Return the ids that may become pseudo-tokens of each language, without special tokens.

    Args:
        subword_counts: subword counts in each language's text, [languages, V].
        min_count: minimum count of an allowed subword. If no subword of a language is that frequent, all
            subwords of its text are allowed; if the language has no text, all subwords.

    Returns:
        A sorted int64 array per language.
    """
    ordinary = vocabulary.ordinary_ids
    allowed = []
    for counts in subword_counts:  # [V], of each language
        for least in (min_count, 1, 0):  # 0 allows every subword
            subword_ids = ordinary[counts[ordinary] >= least]
            if len(subword_ids):
                break
        allowed.append(subword_ids)
    return allowed
