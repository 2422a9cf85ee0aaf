"""The pre-training model: the encoder with language embeddings, the tied masked-LM head, and its loss.

The loss is a cross-entropy over the whole vocabulary, in bounded memory: masked positions are processed in
chunks, whose logits take at most LOGITS_BYTES. A chunk is three Paddle operations, whose logits are
recomputed in the backward pass instead of being kept (`ernie_m/model/kernels.py`), or a CPU's own kernel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import Tensor, nn

from ernie_m.model.config import NO_LANGUAGE, ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.kernel_selection import get_kernels
from ernie_m.model.layers import LayerNorm, Linear, gelu
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.transformer_encoder import make_weight_initializer
from ernie_m.model.word_embeddings import WordEmbeddings

# For the logits of a chunk: 512 MB. Paddle's cross-entropy on a GPU has 32-bit indices, so a chunk must have
# fewer than 2^31 logits (`VectorizedSoftmaxForward` in paddle/phi/kernels/gpu/cross_entropy_kernel.cu).
LOGITS_BYTES = 1 << 29


class MaskedLMLoss(NamedTuple):
    """The masked-LM loss of M masked positions."""

    total: Tensor  # weighted sum of the losses, [], with a gradient
    losses: Tensor  # [M], unweighted, without a gradient, float32 (float64 for a float64 model)
    correct: Tensor  # bool [M], whether no logit exceeds the label's


class PreTrainingModel(nn.Layer):
    """The pre-training model: encoder, masked-LM head and language embeddings, for all objectives.

    A language embedding tells a [MASK] or a placeholder which language to predict (paper, section 3, BTMLM).
    It is added to the word embeddings of tokens with a language id. Other tokens have none, so the encoder
    can be used without language embeddings. Language embeddings are initialized to zero.

    Args:
        languages: language names, in the order of the language ids.
    """

    def __init__(self, config: ErnieMConfig, languages: Sequence[str]):
        super().__init__()
        self.languages = list(languages)
        self.ernie_m = ErnieMModel(config)
        self.lm_head = LMHead(config, self.ernie_m.embeddings.word_embeddings)
        self.language_embeddings = nn.Embedding(
            len(self.languages), config.hidden_size, weight_attr=nn.initializer.Constant(0.0)
        )

    def encode(self, batch: PackedBatch, positions: Tensor | None = None) -> Tensor:
        """Compute the last hidden states of a batch: [N, H].

        Args:
            positions: int64 [M], indices of the tokens to compute: [M, H]; None: all tokens.
        """
        input_bias = None  # [N, H]
        if batch.language_ids is not None:
            # A token without a language looks up the first one, and its row is multiplied by 0.
            rows = self.language_embeddings(batch.language_ids.clip(min=0))  # [N, H]
            has_language = (batch.language_ids != NO_LANGUAGE).astype(rows.dtype)
            input_bias = rows * has_language.unsqueeze(-1)
        return self.ernie_m.encode(batch, positions, input_bias=input_bias).sequence


class LMHead(nn.Layer):
    """The masked-LM head of XLM-R: layer_norm(gelu(dense(h))) times the tied word embeddings, plus a bias.

    Only the M masked positions are projected to the vocabulary: the logits of all positions of a batch of 32
    x 512 tokens would take 16 GB.
    """

    def __init__(self, config: ErnieMConfig, word_embeddings: WordEmbeddings):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, make_weight_initializer(config))
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = self.create_parameter([config.vocab_size], is_bias=True)
        # The encoder owns the embeddings. `self.word_embeddings = ...` would make them a sublayer of the head
        # as well, and give their weight a second name.
        object.__setattr__(self, "word_embeddings", word_embeddings)

    def transform(self, hidden: Tensor) -> Tensor:
        """Apply dense layer, GELU and layer norm, before the projection to the vocabulary: [M, H] each."""
        return self.layer_norm(gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the logits of M masked positions from their last hidden states: [M, H] -> [M, V]."""
        return compute_logits(self.transform(hidden), self.word_embeddings.weight, self.bias)

    def loss(self, hidden: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> MaskedLMLoss:
        """Compute the masked-LM loss of M masked positions, in bounded memory for any M, including 0.

        Args:
            hidden: last hidden states, [M, H].
            labels: ids of the masked tokens, int64 [M].
            loss_weights: float [M], weight of each loss in the sum; None: 1.
        """
        if hidden.shape[0] == 0:
            empty = hidden.sum(-1)  # [0]; from `hidden`, so that backward() works on the total, 0
            return MaskedLMLoss(
                total=empty.sum(), losses=empty.detach(), correct=empty.detach().astype("bool")
            )
        x = self.transform(hidden)
        return compute_cross_entropy(x, self.word_embeddings, self.bias, labels, loss_weights)


def compute_logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Project x [M, H] to the vocabulary by the embedding matrix `weight` [V, H] and bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def split_into_logit_chunks(position_count: int, vocab_size: int, dtype: paddle.dtype) -> list[slice]:
    """Split masked positions into slices whose logits take at most LOGITS_BYTES of memory.

    Args:
        position_count: M, number of masked positions.
        vocab_size: V, number of logits of a position.
        dtype: dtype of the logits.
    """
    bytes_per_logit = paddle.empty([0], dtype).element_size()
    most = max(1, LOGITS_BYTES // (bytes_per_logit * vocab_size))  # positions of a slice
    return [slice(start, min(start + most, position_count)) for start in range(0, position_count, most)]


def compute_cross_entropy(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, loss_weights: Tensor | None = None
) -> MaskedLMLoss:
    """Compute the cross-entropy over the vocabulary at each masked position, without an array [M, V].

    Args:
        x: output of `LMHead.transform`, [M, H], M at least 1.
        table: the embedding matrix [V, H].
        bias: [V], added to the logits.
        labels: [M] int64, from 0 to V - 1.
        loss_weights: [M] float, weight of each loss in the sum; None: 1. The weights get no gradient.
    """
    precise = get_accumulation_dtype(x)
    if loss_weights is None:
        loss_weights = paddle.ones([x.shape[0]])
    loss_weights = loss_weights.astype(precise)
    chunks = split_into_logit_chunks(x.shape[0], bias.shape[0], precise)
    return MaskedLMLoss(*get_kernels(x).compute_cross_entropy(x, table, bias, labels, loss_weights, chunks))


def get_accumulation_dtype(x: Tensor) -> paddle.dtype:
    """Return the dtype in which losses and sums of x are computed: float64 for float64, otherwise float32."""
    return paddle.float64 if x.dtype == paddle.float64 else paddle.float32
