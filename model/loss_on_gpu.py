"""The masked-LM loss on a GPU: products in half precision, and Paddle's fused softmax with cross-entropy.

With P the softmax of the logits of m states X, and w the factors of the losses, the gradients are

    of the states      w (P W - W[labels])
    of the table       P^T (w X), less w X at the rows of the labels

so the gradient of the logits, P less 1 at the labels, is never made: it would be a pass over all of them, and
in half precision it would round 1 - p.

All chunks share one copy of the word table in the type of the products. The bias is a further column of it,
and the states have a 1 there. Its rows are padded to a multiple of 64 and its columns to a multiple of 8,
because other products are misaligned. A word of padding has the bias -1e4, so its probability is 0.

An operation on the logits takes as long as reading its inputs and writing its outputs. In half precision, 2
bytes a number, the operations read and write at most this many bytes for each logit:

    product 2   label's logit 2   highest logit 2   softmax 4   two products 4

The fused operation (paddle/phi/kernels/gpu/cross_entropy_kernel.cu) computes in float32 whatever the type of
the logits is, and reads each logit before it writes there, so it may work in place.
"""

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model import device
from model.word_table import WordEmbeddings

ROW_MULTIPLE = 64
BIAS_COLUMNS = 8  # one for the bias, the others are 0
PAD_BIAS = -1e4
# The last arguments of Paddle's operation: soft_label, use_softmax, numeric_stable_mode, ignore_index, axis.
SOFTMAX_OPTIONS = (False, True, True, -100, -1)


class LossOnGpu:
    """The losses of masked positions, chunk by chunk, and the gradients of their weighted sum.

    float16 has no numbers below 6e-8, and a loss weight is as small as 1 / the number of masked tokens. So
    the products get the loss weights divided by the largest one. `table_gradients` multiplies by it in
    float32, together with the loss scale.

    Args:
        x: [M, H], for its type.
        table: the word table [V, H].
        bias: [V].
        loss_weights: float [M], the factor of each loss in the sum.

    Attributes:
        words: V', the number of words with those of padding.
        bytes_per_logit: of the type of the products.
    """

    def __init__(self, x: Tensor, table: WordEmbeddings, bias: Tensor, loss_weights: Tensor):
        self._weight = table.weight
        self._bias = bias
        self._dtype = device.product_dtype(x)
        self._largest = loss_weights.abs().max().clip(min=1e-30)  # not 0, because it divides the weights
        self._product: Tensor | None = None  # [V', H + 8], P^T (w X) of the chunks so far
        self._weighted: list[Tensor] = []  # [m, H + 8], w X of each chunk
        self._labels: list[Tensor] = []  # [m]
        self.words = math.ceil(bias.shape[0] / ROW_MULTIPLE) * ROW_MULTIPLE
        self.bytes_per_logit = device.bytes_of(self._dtype)
        missing = self.words - bias.shape[0]
        with paddle.amp.auto_cast(False), paddle.no_grad():
            padded_weight = F.pad(table.weight.astype(self._dtype), [0, missing, 0, 0])  # [V', H]
            padded_bias = F.pad(bias.astype(self._dtype), [0, missing], value=PAD_BIAS)  # [V']
            zeros = paddle.zeros([self.words, BIAS_COLUMNS - 1], self._dtype)
            self._table = paddle.concat(
                [padded_weight, padded_bias.unsqueeze(1), zeros], axis=1
            )  # [V', H + 8]

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The states x [m, H] with the columns of the bias, [m, H + 8], and their logits [m, V']."""
        ones = paddle.ones([x.shape[0], 1], self._dtype)
        zeros = paddle.zeros([x.shape[0], BIAS_COLUMNS - 1], self._dtype)
        states = paddle.concat([x.astype(self._dtype), ones, zeros], axis=1)
        return states, paddle.matmul(states, self._table, transpose_y=True)

    def losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of x [m, H], [m], and whether no logit is above the label's, bool [m].

        The softmax is computed in float32. Call it with autocast off.

        Args:
            labels: int64 [m].
        """
        label_column = labels.unsqueeze(1)  # [m, 1]
        _, logits = self._logits(x)
        logits = logits.astype(device.precise_dtype(x))
        correct = _is_highest(logits, label_column)
        _, losses = paddle._C_ops.cross_entropy_with_softmax_(logits, label_column, *SOFTMAX_OPTIONS)
        return losses.squeeze(1), correct

    def derive(self, x: Tensor, labels: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `losses` returns, from a softmax in the type of the products, and the gradient of x, [m, H].

        The gradients of table and bias are kept for `table_gradients`. Call it with autocast off.

        Args:
            loss_weights: [m].
        """
        precise = loss_weights.dtype
        label_column = labels.unsqueeze(1)  # [m, 1]
        states, logits = self._logits(x)
        # Compared now, because the softmax replaces the logits.
        correct = _is_highest(logits, label_column)
        softmax, losses = paddle._C_ops.cross_entropy_with_softmax_(logits, label_column, *SOFTMAX_OPTIONS)
        grad_states = paddle.matmul(softmax, self._table).astype(precise)  # [m, H + 8]
        grad_states -= paddle.gather(self._table, labels).astype(precise)
        grad_x = grad_states[:, : x.shape[1]] * loss_weights.unsqueeze(1)
        # A weight itself may be too small for float16; `table_gradients` multiplies by the largest.
        relative = (loss_weights / self._largest).astype(self._dtype).unsqueeze(1)  # [m, 1]
        weighted = states * relative
        product = paddle.matmul(softmax, weighted, transpose_x=True)
        if self._product is None:  # the first one stays in its own type, without a copy
            self._product = product
        else:
            self._product = self._product.astype(precise).add_(product.astype(precise))
        self._weighted.append(weighted)
        self._labels.append(labels)
        return losses.squeeze(1).astype(precise), correct, grad_x

    def table_gradients(self, grad_total: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the table [V, H] and of the bias [V]; None for one that is frozen.

        Args:
            grad_total: [], that of the weighted sum of all losses.
        """
        words, size = self._weight.shape
        factor = grad_total * self._largest
        labels = paddle.concat(self._labels)  # [M]
        weighted = paddle.concat(self._weighted).astype(factor.dtype)  # [M, H + 8]
        gradients = []
        for parameter, columns in ((self._weight, slice(0, size)), (self._bias, slice(size, size + 1))):
            if parameter.stop_gradient:
                gradients.append(None)
                continue
            gradient = self._product[:words, columns].astype(factor.dtype)
            paddle.index_add_(gradient, labels, 0, -weighted[:, columns])
            gradients.append((gradient * factor).reshape(parameter.shape).astype(parameter.dtype))
        return tuple(gradients)


def _is_highest(logits: Tensor, label_column: Tensor) -> Tensor:
    """Whether no logit [m, V'] is above that in the label's column, int64 [m, 1]: bool [m]."""
    label_logit = paddle.take_along_axis(logits, label_column, 1, broadcast=False)  # [m, 1]
    return (label_logit >= logits.max(1, keepdim=True)).squeeze(1)
