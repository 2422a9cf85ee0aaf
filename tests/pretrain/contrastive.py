"""A sentence is nearer to its translation than to those of other pairs (InfoNCE).

[CLS] S [SEP] and [CLS] Y [SEP] are two sequences, whose vectors are the states of [CLS].
"""

import numpy as np

from ernie_m.pretrain.objective import Objective, Pair
from ernie_m.pretrain.packing import MaskedExample

TEMPERATURE = 0.05


class Contrastive(Objective):
    """In each group, every sentence looks for its translation among the others' translations."""

    reads = Pair
    group = 16  # pairs in one micro-batch

    def count_losses(self, pair: Pair) -> int:
        return 2  # losses: one in each direction

    def mask(self, pair: Pair, rng: np.random.Generator) -> MaskedExample:
        sequences = []
        for text, ids in zip(pair, self.get_truncated_sides(pair)):
            tokens = np.concatenate([self.cls, ids, self.sep])
            languages = np.full(len(tokens), text.language)
            target = np.array([0])  # the column of [CLS]
            sequences.append(self.make_sequence(tokens, languages, target, tokens[:1]))
        return MaskedExample(self.name, sequences)

    @staticmethod
    def loss(model, states, groups):
        import paddle
        import paddle.nn.functional as F

        from ernie_m.model.lm_head import get_accumulation_dtype

        embeddings = F.normalize(states.astype(get_accumulation_dtype(states)))  # [2 P, H], in turns S and Y
        cosines = paddle.matmul(embeddings[0::2], embeddings[1::2], transpose_y=True)  # [P, P]
        of_pairs = groups[0::2]
        in_group = (of_pairs.unsqueeze(1) == of_pairs).astype(cosines.dtype)
        scores = cosines / TEMPERATURE - 1e9 * (1 - in_group)
        scores = paddle.concat([scores, scores.T])  # [2 P, P]
        labels = paddle.arange(len(of_pairs)).tile([2])
        losses = F.cross_entropy(scores, labels, reduction="none").squeeze(-1)
        return losses, scores.argmax(-1) == labels
