"""The masked-LM loss on a CPU: one pass over the logits of a chunk, and gradients that are added in place."""

import paddle
from paddle import Tensor

from model import device
from model.cpu import bfloat16, word_table
from model.cpu.rows import as_array, as_tensor
from model.word_table import WordEmbeddings


class LossOnCpu:
    """The losses of masked positions, chunk by chunk, and the gradients of their weighted sum.

    Args:
        x: [M, H], for its type.
        table: the word table [V, H].
        bias: [V].
        loss_weights: not needed here; `model.loss_on_gpu.LossOnGpu` has the same arguments.

    Attributes:
        words: V.
        bytes_per_logit: of the type of x.
    """

    def __init__(self, x: Tensor, table: WordEmbeddings, bias: Tensor, loss_weights: Tensor):
        self._table = table
        self._bias = bias
        self._products = bfloat16 if table.in_bfloat16 else word_table
        self._grad_weight = None  # array [V, H]
        self._grad_bias: Tensor | None = None  # [V]
        self.words = bias.shape[0]
        self.bytes_per_logit = device.bytes_of(x.dtype)

    def losses(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of x [m, H], [m], and whether no logit is above the label's, bool [m].

        Args:
            labels: int64 [m].
        """
        logits = self._products.table_logits(x, self._table.weight)  # [m, V]
        losses, correct = word_table.cross_entropy_(logits, self._bias, as_array(labels), derive=False)
        return as_tensor(losses), paddle.to_tensor(correct)

    def derive(self, x: Tensor, labels: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `losses` returns, and the gradient of x, [m, H].

        The gradients of table and bias are kept for `table_gradients`.

        Args:
            loss_weights: [m], the factor of each loss.
        """
        logits = self._products.table_logits(x, self._table.weight)  # [m, V]
        losses, correct = word_table.cross_entropy_(logits, self._bias, as_array(labels), derive=True)
        grad_logits = logits  # which the call before has replaced by them
        factors = loss_weights.unsqueeze(1)  # [m, 1]
        if not self._bias.stop_gradient:
            product = paddle.matmul(factors, grad_logits, transpose_x=True).sum(0)  # [1, V] -> [V]
            self._grad_bias = product if self._grad_bias is None else self._grad_bias + product
        is_first = self._grad_weight is None  # the first chunk overwrites what the borrowed memory holds
        if is_first and not self._table.weight.stop_gradient:
            self._grad_weight = self._table.gradient.borrow()
        # `grad_logits` is without the factors of the losses: the product for the table gets them with x, and
        # the gradient of x gets them after its product.
        grad_x = self._products.table_gradients(
            grad_logits, x * factors, self._table.weight, self._grad_weight, accumulate=not is_first
        )
        return as_tensor(losses), paddle.to_tensor(correct), grad_x * factors

    def table_gradients(self, grad_total: Tensor) -> tuple[None, Tensor | None]:
        """The gradient of the bias [V], or None if it is frozen. That of the table is added in place.

        Args:
            grad_total: [], that of the weighted sum of all losses.
        """
        if self._grad_weight is not None:
            self._table.gradient.add_borrowed(self._grad_weight, factor=grad_total.item())
        return None, None if self._grad_bias is None else self._grad_bias * grad_total
