"""Data parallelism over replicas of a model, for training on a CPU.

A replica shares the weights of its model, and one worker uses it at a time. Two workers that each compute
half of a training step are faster than one computation on two cores, where only large products are parallel.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.model import services
from ernie_m.model.cpu.embedding_gradient import EmbeddingGradient, add_accumulated_gradient
from ernie_m.model.cpu.numpy_views import as_array
from ernie_m.model.cpu.workers import make_paddle_workers

T = TypeVar("T")
R = TypeVar("R")
# Tokens per worker and training step. Fewer have more overhead than work, and more are not faster.
SHARE_TOKENS = 512


class ParallelReplicas(services.Replicas):
    """A model and its replicas, which share its weights and have separate gradients."""

    def __init__(self, model: nn.Layer):
        self.model = model
        self._idle: list[nn.Layer] = []

    def map_gradients(self, compute: Callable[[nn.Layer, T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `compute(replica, item)` for each item, in order, and accumulate the gradients in the model.

        Each worker computes an item with its own replica. Gradients are added to the model in the order of
        the items, so that the sums are bitwise independent of the number of workers. A single item is
        computed by the model itself, on all cores. `items` is iterated in the calling thread. If the caller
        stops iterating, the gradients are incomplete.

        Args:
            compute: runs forward and backward passes of a model, which leave gradients in its parameters.
        """
        workers = make_paddle_workers()
        rest = iter(items)
        first_two = list(islice(rest, 2)) if workers.count > 1 else []
        if len(first_two) < 2:  # the gradients add up in place
            yield from (compute(self.model, item) for item in chain(first_two, rest))
            return
        for result, gradients in workers.map(
            partial(self._compute_gradients, compute), chain(first_two, rest), ahead=1
        ):
            gradients.add_to(self.model)
            yield result

    def _compute_gradients(
        self, compute: Callable[[nn.Layer, T], R], item: T
    ) -> tuple[R, "ReplicaGradients"]:
        """Call `compute` with an idle replica and an item; return the result and the replica's gradients."""
        try:
            replica = self._idle.pop()
        except IndexError:  # all replicas are in use
            replica = _make_replica(self.model)
        self._share_weights(replica)
        try:
            result = compute(replica, item)
            return result, ReplicaGradients(replica)
        finally:
            for parameter in replica.parameters():
                parameter.grad = None
            for table in _find_word_embeddings(replica):
                table.gradient.take_updates()  # leftovers of a failed item
            self._idle.append(replica)

    def _share_weights(self, replica: nn.Layer) -> None:
        """Make a replica share the model's current weights, which loading a checkpoint may have replaced."""
        for own, copied in zip(self.model.parameters(), replica.parameters(), strict=True):
            copied.stop_gradient = own.stop_gradient
            if copied.data_ptr() != own.data_ptr():
                own._share_buffer_to(copied)


def _make_replica(model: nn.Layer) -> nn.Layer:
    """Return a replica of a model, which shares its weights."""
    copies: dict[int, Any] = {}  # replacements in `deepcopy`, by id
    for parameter in model.parameters():
        # Paddle's copy of a parameter would also copy its values.
        copied = type(parameter)(parameter.shape, parameter.dtype, name=f"{parameter.name}_copy")
        parameter._share_buffer_to(copied)
        copies[id(parameter)] = copied
    for table in _find_word_embeddings(model):
        gradient = copies[id(table.gradient)] = LazyGradient(copies[id(table.weight)])
        copies[id(table.weight)].register_hook(partial(add_accumulated_gradient, weakref.ref(gradient)))
    return copy.deepcopy(model, copies)


class ReplicaGradients:
    """The gradients taken from a replica."""

    def __init__(self, replica: nn.Layer):
        self._gradients = [_take_gradient(parameter) for parameter in replica.parameters()]
        self._of_tables = [table.gradient.take_updates() for table in _find_word_embeddings(replica)]

    def add_to(self, model: nn.Layer) -> None:
        """Add the gradients to those of a model of the same structure."""
        for parameter, gradient in zip(model.parameters(), self._gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad_ = gradient  # `grad` would copy it
            else:
                parameter.grad.add_(gradient)
        for table, additions in zip(_find_word_embeddings(model), self._of_tables, strict=True):
            for add in additions:
                add(table.gradient)


class LazyGradient:
    """Gradient of a replica's embedding matrix [V, H]: records what to add to the model's gradient later.

    It has the interface of `EmbeddingGradient`. Arrays passed to its methods must not change afterwards.
    """

    def __init__(self, weight: Tensor):
        self._weight = weight
        self._additions: list[Callable[[EmbeddingGradient], None]] = []

    def take_updates(self) -> list[Callable[[EmbeddingGradient], None]]:
        """Return the recorded updates since the last call, in order. Each adds to the model's gradient."""
        additions = self._additions
        self._additions = []
        return additions

    def add_rows(self, ids: np.ndarray, values: np.ndarray) -> None:
        self._additions.append(lambda total: total.add_rows(ids, values))

    def get_buffer(self) -> np.ndarray:
        return as_array(paddle.empty_like(self._weight))

    def add_buffer(self, gradient: np.ndarray, factor: float) -> None:
        self._additions.append(lambda total: total.add_buffer(gradient, factor))

    def add_accumulated(self, gradient: Tensor) -> Tensor:
        self._additions.append(EmbeddingGradient.mark_all_rows_nonzero)
        return gradient


def _take_gradient(parameter: Tensor) -> Tensor | None:
    """Return a parameter's gradient as a tensor that stays valid after `parameter.grad = None`."""
    if parameter.grad is None:
        return None
    gradient = paddle.empty_like(parameter.grad)
    parameter.grad._share_buffer_to(gradient)
    return gradient


def _find_word_embeddings(model: nn.Layer) -> list[nn.Embedding]:
    """Return the layers with an embedding matrix whose gradient is accumulated in place."""
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, nn.Embedding)]
    # Only word embeddings have the attribute; `accumulate_in_place` sets it.
    return [layer for layer in layers if getattr(layer, "gradient", None) is not None]
