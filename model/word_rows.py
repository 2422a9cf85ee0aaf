"""The gradient of a word table that is only looked up, on a GPU: some of its rows, never the whole table.

A batch of fine-tuning touches a few thousand of 250,002 words. Paddle would fill 768 MB with zeros in each
micro-batch, and add them up over the processes.
"""

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device


class RowGradient:
    """The gradient of a word table [V, H], as rows of it.

    The look-ups of a step add their gradients one after the other: `weight.grad` is [n, H], and `rows` has
    the word of each. `merge` adds up those of the same word.

    Attributes:
        rows: int64 [n], the word of each row of `weight.grad`, if there is a gradient. After `merge` they
            ascend. V, which is no word, marks a row of zeros.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight
        self.rows: Tensor | None = None
        self._is_only_looked_up = True

    def turn_off(self) -> None:
        """Note that words are also predicted from the table: then each of its rows gets a gradient."""
        self._is_only_looked_up = False

    def is_in_use(self) -> bool:
        """Whether the gradient will consist of rows; the same on all processes."""
        # Weights in half precision (O2) have float32 copies, of which AdamW would have to update rows, too.
        is_half = self.weight.dtype in (paddle.float16, paddle.bfloat16)
        is_trained = not self.weight.stop_gradient
        return self._is_only_looked_up and is_trained and not is_half and device.uses_gpu_kernels()

    def add(self, ids: Tensor, values: Tensor) -> None:
        """Add the gradients `values` [n, H] of the words `ids`, int64 [n]."""
        if self.weight.grad is not None:
            ids = paddle.concat([self.rows, ids])
            values = paddle.concat([self.weight.grad, values])
        self._set(ids, values)

    def merge(self, sum_over_processes: Callable[[Tensor], None] | None = None) -> None:
        """Add up the gradients of the same word, on all processes.

        Args:
            sum_over_processes: replaces a tensor with its sum over the processes. All of them must call
                `merge`, also those without rows. None: there is one process, and the host reads nothing.
                `cumsum` makes it wait twice (`ThrustCumsumKernel` in paddle/phi/kernels/gpu/cum_kernel.cu).
        """
        vocab_size, hidden_size = self.weight.shape
        ids = None if self.weight.grad is None else self.rows  # [n]; None: this process looked nothing up
        is_touched = paddle.zeros([vocab_size], "int64")  # 1 for a word that was looked up
        if ids is not None:
            paddle.scatter_(is_touched, ids, paddle.ones_like(ids), overwrite=True)
        if sum_over_processes is not None:
            sum_over_processes(is_touched)
            is_touched = is_touched.clip(max=1)  # was the number of processes that looked it up
        touched_up_to = paddle.cumsum(is_touched)  # [V], the number of touched words up to each
        if sum_over_processes is not None:
            count = touched_up_to[-1].item()
        else:
            # The host does not know the number of different words: there are at most as many as look-ups.
            count = 0 if ids is None else len(ids)
        if count == 0:
            return
        merged = paddle.zeros([count, hidden_size], self.weight.dtype)
        if ids is not None:
            rows_in_merged = paddle.gather(touched_up_to, ids) - 1  # [n], where each word's row is added
            paddle.index_add_(merged, rows_in_merged, 0, self.weight.grad)
        if sum_over_processes is not None:
            sum_over_processes(merged)
        self._set(nonzero(touched_up_to, count), merged)

    def _set(self, words: Tensor, gradient: Tensor) -> None:
        """Make the gradient consist of the rows `gradient` [n, H] of these words, int64 [n]."""
        self.rows = words
        self.weight.grad_ = gradient  # `grad_` and not `grad`, which would copy it


def nonzero(ones_up_to: Tensor, count: int) -> Tensor:
    """The indices of the first `count` ones in an array of zeros and ones: int64 [count].

    The k-th one is where the sum reaches k. If there are fewer ones, the rest is V. Paddle's `nonzero` waits
    for the device to know the count.

    Args:
        ones_up_to: int64 [V], the cumulative sum of the array.
    """
    return paddle.searchsorted(ones_up_to, paddle.arange(1, count + 1))


class LookUpRows(PyLayer):
    """Rows of a table [V, H]: ids [N] -> [N, H]. The gradient goes to a `RowGradient`."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, row_gradient: RowGradient) -> Tensor:
        ctx.ids = ids
        ctx.row_gradient = row_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        # Returns no gradient: `RowGradient` keeps it.
        ctx.row_gradient.add(ctx.ids, gradient)
