"""Parallel workers on several cores, and training on copies of a model.
Workers are threads (`ernie_m.model.threads`). The bits of a result do not depend on the number of threads, so
they do not depend on whether a worker has computed it (docs/reliability.md).

The copies of a model in training share its weights, each for one worker at a time. A second core only speeds
up large products within a training step. Two workers with a part of the step each take little more than half
of its time.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.model import kernel_selection, threads
from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.numpy_views import as_array, thread_count
from ernie_m.model.threads import AHEAD, R, T, Workers
from ernie_m.model.word_embeddings import EmbeddingGradient, WordEmbeddings, add_paddles_gradient

_MOST = 2048  # tokens of a batch


def worker_count() -> int:
    """Return the number of workers of this thread: 1 in a worker, on a GPU, and without core affinity."""
    if kernel_selection.on_gpu() or kernel_selection.has_plain_kernels() or not mkl.works():
        return 1
    return thread_count()


def paddle_workers() -> Workers:
    """Return the workers of this thread.
    On a GPU and with plain kernels, items are computed one at a time.
    """
    count = worker_count()
    return Workers(count, become_worker, _MOST) if count > 1 else Workers()


def in_workers(compute: Callable[[T], R], items: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """Call `Workers.map` with the workers of this thread. They can stop within the attention of a layer."""
    return paddle_workers().map(compute, items, ahead)


def become_worker() -> None:
    """Make this thread compute on one core from now on, in NumPy, Paddle, MKL and oneDNN."""
    threads.become_worker()
    mkl.use_one_thread()


# Tokens per worker and training step. Fewer have more overhead than work, and more are not faster.
SHARE_TOKENS = 512


class Replicas:
    """A model and its copies. A copy shares the model's weights, and has separate gradients."""

    def __init__(self, model: nn.Layer):
        self.model = model
        self._idle: list[nn.Layer] = []

    def each(self, derive: Callable[[nn.Layer, T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `derive(model, item)` for each item, in order; it leaves gradients in its model.

        Several items are computed at a time, each in a copy; then `model` gets their gradients in the order
        of the items, so that the sums have the same bits with any number of workers. This thread iterates
        `items`. If the caller stops, the gradients are incomplete. A single item is computed on all cores.
        """
        rest = iter(items)
        first_two = list(islice(rest, 2)) if worker_count() > 1 else []
        if len(first_two) < 2:  # the gradients add up in place
            yield from (derive(self.model, item) for item in chain(first_two, rest))
            return
        for result, gradients in in_workers(partial(self._derive, derive), chain(first_two, rest), ahead=1):
            gradients.add_to(self.model)
            yield result

    def _derive(self, derive: Callable[[nn.Layer, T], R], item: T) -> tuple[R, "Gradients"]:
        """Compute an item in a worker."""
        try:
            replica = self._idle.pop()
        except IndexError:  # all replicas are in use
            replica = _copy(self.model)
        self._share_weights(replica)
        try:
            result = derive(replica, item)
            return result, Gradients(replica)
        finally:
            for parameter in replica.parameters():
                parameter.grad = None
            for table in _word_embeddings(replica):
                table.gradient.take()  # leftovers of a failed item
            self._idle.append(replica)

    def _share_weights(self, replica: nn.Layer) -> None:
        """Set the current weights of the model in a copy; loading may have replaced them."""
        for own, copied in zip(self.model.parameters(), replica.parameters(), strict=True):
            copied.stop_gradient = own.stop_gradient
            if copied.data_ptr() != own.data_ptr():
                own._share_buffer_to(copied)


def _copy(model: nn.Layer) -> nn.Layer:
    """Return a copy of a model without memory for weights."""
    copies: dict[int, Any] = {}  # replacements in `deepcopy`, by id
    for parameter in model.parameters():
        # Paddle's copy of a parameter would also copy its values.
        copied = type(parameter)(parameter.shape, parameter.dtype, name=f"{parameter.name}_copy")
        parameter._share_buffer_to(copied)
        copies[id(parameter)] = copied
    for table in _word_embeddings(model):
        gradient = copies[id(table.gradient)] = LazyGradient(copies[id(table.weight)])
        copies[id(table.weight)].register_hook(partial(add_paddles_gradient, weakref.ref(gradient)))
    return copy.deepcopy(model, copies)


class Gradients:
    """The gradients taken from a replica."""

    def __init__(self, replica: nn.Layer):
        self._gradients = [_take_gradient(parameter) for parameter in replica.parameters()]
        self._of_tables = [table.gradient.take() for table in _word_embeddings(replica)]

    def add_to(self, model: nn.Layer) -> None:
        """Add them to the gradients of a model of the same structure."""
        for parameter, gradient in zip(model.parameters(), self._gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad_ = gradient  # `grad` would copy it
            else:
                parameter.grad.add_(gradient)
        for table, additions in zip(_word_embeddings(model), self._of_tables, strict=True):
            for add in additions:
                add(table.gradient)


class LazyGradient:
    """The deferred gradient of a replica's embedding matrix [V, H], to be added to that of the model.

    It has the interface of `EmbeddingGradient`. Its arguments must not change afterwards.
    """

    def __init__(self, weight: Tensor):
        self._weight = weight
        self._additions: list[Callable[[EmbeddingGradient], None]] = []

    def take(self) -> list[Callable[[EmbeddingGradient], None]]:
        """Return the additions since the last call, in order."""
        additions = self._additions
        self._additions = []
        return additions

    def add_rows(self, ids: np.ndarray, values: np.ndarray) -> None:
        self._additions.append(lambda total: total.add_rows(ids, values))

    def borrow(self) -> np.ndarray:
        return as_array(paddle.empty_like(self._weight))

    def add_borrowed(self, gradient: np.ndarray, factor: float) -> None:
        self._additions.append(lambda total: total.add_borrowed(gradient, factor))

    def join(self, gradient: Tensor) -> Tensor:
        self._additions.append(EmbeddingGradient.forget_rows)
        return gradient


def _take_gradient(parameter: Tensor) -> Tensor | None:
    """Return the gradient of a parameter, in a tensor that outlives `parameter.grad = None`."""
    if parameter.grad is None:
        return None
    gradient = paddle.empty_like(parameter.grad)
    parameter.grad._share_buffer_to(gradient)
    return gradient


def _word_embeddings(model: nn.Layer) -> list[WordEmbeddings]:
    """Return the embedding matrices whose gradients are added in place."""
    layers = model.sublayers(include_self=True)
    return [layer for layer in layers if isinstance(layer, WordEmbeddings) and layer.gradient is not None]
