"""The random stream of the dropout masks of a micro-batch.

Micro-batches may be computed at once, by several workers. Each has a stream of its own, so that its masks do
not depend on the others. The kernels of a CPU draw from the stream of their thread; Paddle's operations draw
from Paddle's generator, which a training step seeds.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class DropoutStream:
    """Random stream of dropout masks: mask i depends only on the key and i.

    Within `with stream:` the current thread draws its dropout masks from this stream.
    """

    key: tuple[int, ...]
    drawn: int = 0  # masks so far

    def __enter__(self) -> None:
        self._token = _STREAM.set(self)

    def __exit__(self, *error: object) -> None:
        _STREAM.reset(self._token)

    def draw_seed(self) -> list[int]:
        """Return the seed of the next mask."""
        self.drawn += 1
        return [*self.key, self.drawn]


_STREAM: ContextVar[DropoutStream | None] = ContextVar("dropout", default=None)


def get_dropout_stream() -> DropoutStream | None:
    """Return the stream of the current thread; None: masks follow from Paddle's generator."""
    return _STREAM.get()


def repeat_dropout(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that draws the same dropout masks at each call, as recomputation requires."""
    stream = get_dropout_stream()
    if stream is None:  # `recompute` saves the state of Paddle's generator
        return function
    drawn = stream.drawn

    def call(*args: Any) -> T:
        stream.drawn = drawn
        return function(*args)

    return call
