"""In-place accumulation of the gradient of the word embeddings.

The embedding matrix is tied: input ids look up its rows, and the masked-LM head projects to the vocabulary
with it (`model/lm_head.py`). Paddle makes a gradient of the whole matrix for each use in each micro-batch
(768 MB at base size, zeroed on one thread) and adds them up. Once `build_optimizer` has taken over the
matrix, both uses add to one `weight.grad` in place, so call `backward()`: `paddle.grad` cannot return this
gradient. Otherwise, as with one of Paddle's optimizers, Paddle computes the gradients.
"""

import weakref
from functools import partial

import numpy as np
import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from ernie_m.model.cpu.numpy_views import add_scaled_, as_array, as_rows, as_tensor
from ernie_m.model.row_means import compute_row_means


class EmbeddingGradient:
    """In-place accumulator of the gradient of an embedding matrix [V, H], which records the nonzero rows.

    A deep copy of the model does not copy this object.

    The memory of `weight.grad` is kept from step to step, because other tensors would take the space if it
    were freed. A fine-tuning batch contains a few thousand of 250,002 subwords, and the optimizer updates
    only these rows (`ernie_m/model/cpu/lazy_adamw.py`).

    The masked-LM loss computes the matrix gradient in the forward pass, before the gradient of the loss is
    known. Meanwhile the loss borrows the kept memory, if free.

    Attributes:
        touched: bool [V], whether a row of the kept memory may be nonzero; None: any row may be, as always
            in multi-process training, where gradients are summed over processes with other tokens.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight
        self.touched: np.ndarray | None = None
        self._memory: np.ndarray | None = None  # [V, H]; allocated at first use
        # The array that `get_buffer` gave to a loss. A weak reference: it dies when the loss is freed.
        self._borrowed_ref: weakref.ref | None = None

    def __deepcopy__(self, memo: object) -> None:
        return None

    def array(self) -> np.ndarray:
        """Return `weight.grad` as an array [V, H] for in-place addition; zeros if it was None."""
        # The gradient is set as `grad_`, because `grad` would copy it.
        if self.weight.grad is None and self._is_memory_in_use():  # the kept memory is in use
            self.weight.grad_ = paddle.zeros_like(self.weight)
        elif self.weight.grad is None:
            memory = self._get_memory()
            rows_to_clear = slice(None) if self.touched is None else self.touched
            memory[rows_to_clear] = 0
            self.touched = np.zeros(len(memory), bool) if dist.get_world_size() == 1 else None
            self.weight.grad_ = as_tensor(memory)
        return as_array(self._gradient)

    def add_rows(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Add `values` [N, H] to the gradient's rows `ids` [N], which may contain duplicates."""
        table = self.array()
        if self.touched is not None:
            self.touched[ids] = True
        # The values of equal ids are summed first, in order.
        rows, indices = np.unique(ids, return_inverse=True)  # unique ids; [N], the index of each in `rows`
        sums = as_tensor(np.zeros([len(rows), values.shape[1]], values.dtype))  # one per row
        sums.index_add_(as_tensor(indices), 0, as_tensor(values))
        table[rows] += as_array(sums)

    def get_buffer(self) -> np.ndarray:
        """Return an uninitialized array [V, H] for a loss's gradient, which is then passed to `add_buffer`.

        The array is the kept memory, if free. Then `add_buffer` sets it as `weight.grad` without an
        addition.
        """
        if self.weight.grad is not None or self._is_memory_in_use():
            return as_array(paddle.empty_like(self.weight))
        borrowed = self._get_memory()[:]  # [:] makes a separate view object, which dies with the loss
        self._borrowed_ref = weakref.ref(borrowed)
        self.touched = None  # the loss may write to any row
        return borrowed

    def add_buffer(self, gradient: np.ndarray, factor: float) -> None:
        """Add `factor` times `gradient` [V, H], an array from `get_buffer` that the loss has filled."""
        is_kept_memory = self._borrowed_ref is not None and self._borrowed_ref() is gradient
        if is_kept_memory:
            self._borrowed_ref = None  # returned
        if is_kept_memory and self.weight.grad is None:  # no sum needed: the memory becomes the gradient
            memory = self._get_memory()
            if factor != 1.0:
                memory *= factor
            self.weight.grad_ = as_tensor(memory)
            return
        add_scaled_(self.array(), gradient, factor)
        self.touched = None  # the loss may have written to any row

    def find_nonzero_rows(self, gradient: Tensor) -> np.ndarray | None:
        """Return which rows of the gradient may be nonzero: bool [V]; None: any row.

        Args:
            gradient: the gradient of the matrix, [V, H]. Rows are known only for one in the kept memory.
        """
        memory = self._memory
        is_in_memory = memory is not None and as_array(gradient).ctypes.data == memory.ctypes.data
        return self.touched if is_in_memory else None

    def mark_all_rows_nonzero(self) -> None:
        """Mark all rows as possibly nonzero, because code outside of this class adds to the gradient."""
        self.touched = None

    def add_accumulated(self, gradient: Tensor) -> Tensor:
        """Return the sum of `weight.grad` and another gradient [V, H], and set `weight.grad` to None."""
        self.mark_all_rows_nonzero()
        if self.weight.grad is None:
            return gradient
        total = gradient + self.weight.grad
        self.weight.grad = None
        return total

    def get_nonzero_rows(self) -> Tensor:
        """Return the rows of `weight.grad` that may be nonzero, [rows, H]; for its norm."""
        gradient = self._gradient
        rows = self.find_nonzero_rows(gradient)
        return gradient if rows is None else as_tensor(as_array(gradient)[rows])

    def scale_(self, factor: float) -> None:
        """Multiply `weight.grad` by `factor` in place."""
        rows = self.find_nonzero_rows(self._gradient)  # None: any row may be nonzero
        if rows is None:
            self._gradient.scale_(factor)
        else:
            as_array(self._gradient)[rows] *= factor

    @property
    def _gradient(self) -> Tensor:
        """Return `weight.grad`, which must exist."""
        assert self.weight.grad is not None
        return self.weight.grad

    def _get_memory(self) -> np.ndarray:
        """Return the memory [V, H] that is kept from step to step."""
        if self._memory is None:
            self._memory = as_array(paddle.zeros_like(self.weight))
        return self._memory

    def _is_memory_in_use(self) -> bool:
        """Return whether a loss has borrowed the kept memory and still exists."""
        return self._borrowed_ref is not None and self._borrowed_ref() is not None


class EmbeddingLookup(PyLayer):
    """Embedding lookup, ids [N] -> [N, H], whose backward pass accumulates the matrix gradient in place."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, embedding_gradient: EmbeddingGradient) -> Tensor:
        ctx.ids = ids.numpy()
        ctx.embedding_gradient = embedding_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:  # type: ignore[override]  # Paddle's type has no None
        # No gradient is returned, because it is added in place.
        ctx.embedding_gradient.add_rows(ctx.ids.ravel(), as_rows(gradient))


class EmbeddingMeans(PyLayer):
    """`compute_row_means` with a backward pass that accumulates the matrix gradient in place."""

    @staticmethod
    def forward(
        ctx, weight: Tensor, ids: Tensor, lengths: Tensor, embedding_gradient: EmbeddingGradient
    ) -> Tensor:
        ctx.ids = ids.numpy()
        ctx.lengths = lengths.numpy()
        ctx.embedding_gradient = embedding_gradient
        return as_tensor(compute_row_means(as_array(weight), ctx.ids, ctx.lengths))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:  # type: ignore[override]  # Paddle's type has no None
        # Returns no gradient, because it is added in place.
        of_texts = as_array(gradient)
        of_rows = of_texts / np.maximum(ctx.lengths, 1)[:, None].astype(of_texts.dtype)  # [S, H]
        ctx.embedding_gradient.add_rows(ctx.ids, np.repeat(of_rows, ctx.lengths, axis=0))


def accumulate_in_place(table: nn.Embedding) -> EmbeddingGradient:
    """Accumulate gradients of an embedding matrix in place from now on; return the accumulator."""
    if table.gradient is None:
        table.gradient = EmbeddingGradient(table.weight)
        # Paddle keeps the hook as long as the weight, invisibly to Python. A hook with a reference to
        # the layer would keep it and its memory forever, since the layer keeps the weight.
        table.weight.register_hook(partial(add_accumulated_gradient, weakref.ref(table.gradient)))
    return table.gradient


def add_accumulated_gradient(
    accumulator_ref: "weakref.ref[EmbeddingGradient]", gradient: Tensor | None
) -> Tensor | None:
    """Gradient hook of an embedding matrix: add `weight.grad`, accumulated in place, to Paddle's gradient.

    Paddle adds the result to `weight.grad`. But if `weight.grad` was cleared to zeros, Paddle overwrites it,
    which would lose what was accumulated since.
    """
    owner = accumulator_ref()
    if gradient is None or owner is None:  # None is from `EmbeddingLookup`, which has added its rows
        return gradient
    return owner.add_accumulated(gradient)
