"""What a device does for a process beside operations: attention masks, workers, replicas, an optimizer.

`ernie_m.model.kernel_selection.get_services` returns the services of this process: these, with which
everything is computed in turn by Paddle, or those of a device that overrides some of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol, TypeVar

from paddle import Tensor, nn

from ernie_m.model.threads import Workers

T = TypeVar("T")
R = TypeVar("R")


class TableOptimizer(Protocol):
    """AdamW of one embedding matrix, from `Services.make_table_optimizer`."""

    weight: Tensor  # [V, H]
    gradient: Any  # with `get_nonzero_rows()`, [rows, H], and `scale_(factor)`
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


class Services:
    """The services of every device."""

    # Size in tokens of the parts into which micro-batches are split for `Replicas`; None: no split.
    split_tokens: ClassVar[int | None] = None

    def get_mask_class(self) -> type | None:
        """Return the class of attention masks with unpadded attention; None: this device has none."""
        return None

    def cache_rounded_weights(self) -> AbstractContextManager:
        """Return a context manager in which weights must not change, so that each is rounded once."""
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
