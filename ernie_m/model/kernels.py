"""The operations for which a device may have a faster implementation, each by Paddle's public operations.

`Kernels` is the interface, and its methods are the plain implementation. `ernie_m.model.cpu` has a subclass
for CPUs, `CpuKernels`, which overrides what it computes faster: the same mathematics, equal up to rounding.
Without that folder everything is computed here.

    of(x)       kernels for a tensor: the operations of a forward pass
    current()   kernels of this process: attention mask, optimizer of embedding matrices, workers, precision

This is the only module that knows whether a CPU uses its own kernels. `ernie_m/model/ernie.py` defines the
symbols.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from ernie_m.model import kernel_selection
from ernie_m.model.threads import Workers

T = TypeVar("T")
R = TypeVar("R")


class TableOptimizer(Protocol):
    """AdamW of one embedding matrix, from `Kernels.make_table_optimizer`."""

    weight: Tensor  # [V, H]
    gradient: Any  # with `squared_norm()`, float64 [], and `scale_(factor)`
    state: dict[str, Tensor]  # by Paddle's names of the moments

    def init_state(self) -> None: ...

    def reset_nonzero_rows(self) -> None: ...

    def step(self, learning_rate: float) -> None: ...


class Replicas:
    """The model that computes the micro-batches of a training step."""

    def __init__(self, model: nn.Layer):
        self.model = model

    def map_gradients(self, compute: Callable[[nn.Layer, T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `compute(model, item)` for each item, in order; gradients add up in the model."""
        return (compute(self.model, item) for item in items)


class Kernels:
    """Paddle's public operations: the plain implementation on every device."""

    # Size in tokens of the parts into which micro-batches are split for `Replicas`; None: no split.
    split_tokens: ClassVar[int | None] = None

    def apply_linear(self, x: Tensor, layers: Sequence[nn.Linear], dtype: str) -> Sequence[Tensor]:
        """Apply linear layers to the same input: x [..., I] -> [..., O] per layer.

        Args:
            dtype: dtype of the results of layers with `in_bfloat16`.
        """
        return [F.linear(x, layer.weight, layer.bias) for layer in layers]

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        """Normalize over the last axis: x [..., H], weight and bias [H] -> [..., H]."""
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact GELU of each element: [..., H] -> [..., H]."""
        return F.gelu(x)

    def dropout(self, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        """Apply inverted dropout to x [..., H], then add `residual` [..., H], if given."""
        x = F.dropout(x, probability, training=True)
        return x if residual is None else x + residual

    def look_up(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Look up rows of an embedding matrix: ids int64 [N] -> [N, H]."""
        return F.embedding(ids, table.weight)

    def average_rows(self, table: nn.Embedding, ids: Tensor, lengths: Tensor) -> Tensor:
        """Average rows of an embedding matrix: ids int64 [N] of S texts of `lengths`, int64 [S] -> [S, H]."""
        text_of_token = paddle.repeat_interleave(paddle.arange(len(lengths)), lengths)  # [N]
        # Each text receives the mean of the rows of its tokens.
        return paddle.geometric.send_u_recv(table.weight, ids, text_of_token, "mean", len(lengths))

    def compute_cross_entropy(
        self,
        x: Tensor,
        table: nn.Embedding,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        chunks: Sequence[slice],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the fields of `ernie_m.model.lm_head.MaskedLMLoss`, chunk by chunk.

        Args:
            x: [M, H].
            table: the embedding matrix [V, H].
            bias: [V], added to the logits.
            labels: int64 [M].
            loss_weights: [M], in the dtype of the losses; no gradient.
            chunks: slices of the M positions.
        """
        compute: Callable[..., tuple[Tensor, Tensor]] = _compute_chunk_losses
        if is_recorded(x, table.weight, bias):  # the logits are recomputed; nothing here is random
            compute = partial(recompute, _compute_chunk_losses, preserve_rng_state=False)
        constants = (table.weight, bias, loss_weights.dtype)
        return sum_chunk_losses([compute(x[rows], labels[rows], *constants) for rows in chunks], loss_weights)

    # ---- of the process

    def get_mask_class(self) -> type | None:
        """Return the class of attention masks with unpadded attention; None: this device has none."""
        return None

    def cache_weights(self) -> AbstractContextManager:
        """Return a context manager in which weights do not change."""
        return nullcontext()

    def make_replicas(self, model: nn.Layer) -> Replicas:
        """Return what computes the micro-batches of a training step."""
        return Replicas(model)

    def make_workers(self) -> Workers:
        """Return the worker threads of the current thread, for inference."""
        return Workers()

    def make_table_optimizer(
        self,
        table: nn.Embedding,
        lr_ratio: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> TableOptimizer | None:
        """Make AdamW of an embedding matrix, and accumulate its gradient in place from now on.

        Returns:
            The optimizer; None: Paddle's AdamW updates the matrix.
        """
        return None

    def find_missing_bf16_requirement(self) -> str | None:
        """Return what is missing for bfloat16 products on a CPU, for an error message; None: nothing."""
        return "optimized kernels"


def is_recorded(*tensors: Tensor) -> bool:
    """Return whether an operation on these tensors has a backward pass."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


def sum_chunk_losses(
    results: Sequence[tuple[Tensor, Tensor]], loss_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Join losses and correctness of chunks, [m] each: weighted total [], losses [M], correct [M]."""
    losses_of_chunks, correct_of_chunks = zip(*results)
    losses = paddle.concat(losses_of_chunks)  # [M]
    correct = paddle.concat(correct_of_chunks).detach()
    return (losses * loss_weights).sum(), losses.detach(), correct


def _compute_chunk_losses(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, dtype: paddle.dtype
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of a chunk x [m, H] with Paddle's operations.

    Under autocast, the matrix product is in half precision, and the softmax in `dtype`.

    Returns:
        The losses, [m], and whether no logit exceeds the label's, bool [m].
    """
    scores = (paddle.matmul(x, weight, transpose_y=True) + bias).astype(dtype)  # [m, V]
    losses = F.cross_entropy(scores, labels, reduction="none")
    label_logit = paddle.take_along_axis(scores, labels.unsqueeze(1), axis=1).squeeze(1)
    return losses, label_logit >= scores.max(1)


_PLAIN = Kernels()


@cache
def load_cpu_kernels() -> Kernels:
    """Return the kernels of `ernie_m.model.cpu`; without this folder Paddle's operations.

    The module is named in a string, because it imports this one.
    """
    try:
        return import_module("ernie_m.model.cpu.kernels").CpuKernels()
    except ModuleNotFoundError as error:
        if error.name not in ("ernie_m.model.cpu", "ernie_m.model.cpu.kernels"):
            raise
        return _PLAIN


def is_on_cpu(x: Tensor) -> bool:
    """Return whether a tensor's operations may use a CPU's own kernels.

    False in a traced graph and with plain kernels.
    """
    return paddle.in_dynamic_mode() and not kernel_selection.has_plain_kernels() and x.place.is_cpu_place()


def of(x: Tensor) -> Kernels:
    """Return the kernels for operations on a tensor."""
    return load_cpu_kernels() if is_on_cpu(x) else _PLAIN


def current() -> Kernels:
    """Return the kernels of this process, by its device."""
    is_plain = kernel_selection.has_plain_kernels() or kernel_selection.is_on_gpu()
    return _PLAIN if is_plain else load_cpu_kernels()
