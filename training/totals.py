"""Numbers of a step that are added up over micro-batches and processes, and read together."""

from collections.abc import Sequence

import paddle
from paddle import Tensor

from training import distributed


class Totals:
    """Named numbers, float64. `read` sums them over the processes and waits for the device once.

    A value is a tensor on the device or a number on the host. The two kinds are added up apart until `read`,
    because reading a tensor and uploading a number both wait for the device. All processes must give the same
    names in the same order.

    Args:
        names: of values that may be of either kind.
        on_device: the names of values that are always tensors.
        on_host: the names of values that are always numbers.
    """

    def __init__(self, names: Sequence[str], on_device: Sequence[str] = (), on_host: Sequence[str] = ()):
        self._tensors: dict[str, Tensor | None] = dict.fromkeys([*names, *on_device])
        self._numbers = dict.fromkeys([*names, *on_host], 0.0)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add a number, or a tensor with one element."""
        if not isinstance(value, Tensor):
            self._numbers[name] += float(value)
            return
        scalar = value.detach().astype("float64").reshape([])
        total = self._tensors[name]
        self._tensors[name] = scalar if total is None else total + scalar

    def read(self) -> dict[str, float]:
        """The totals over all processes, by name; every process gets them."""
        zero = paddle.zeros([], "float64")
        tensors = [zero if total is None else total for total in self._tensors.values()]
        summed = distributed.sum_and_read(paddle.stack(tensors), list(self._numbers.values()))
        names = [*self._tensors, *self._numbers]  # a name of values of either kind comes twice
        totals = dict.fromkeys(names, 0.0)
        for name, value in zip(names, summed, strict=True):
            totals[name] += value
        return totals
