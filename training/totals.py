"""Numbers of a step that are added up over micro-batches and processes, and read together."""

from collections.abc import Sequence

import paddle
from paddle import Tensor

from training import distributed


class Totals:
    """Named numbers, float64, each the sum of what `add` was given. `read` waits for the device once.

    A value is a tensor on the device or a number on the host. The two kinds are added up apart until `read`,
    because reading a tensor and uploading a number both wait for the device.

    Args:
        names: the same in the same order on all processes.
    """

    def __init__(self, names: Sequence[str]):
        self._tensors: dict[str, Tensor | None] = dict.fromkeys(names)
        self._numbers = dict.fromkeys(names, 0.0)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add a number, or a tensor with one element."""
        if not isinstance(value, Tensor):
            self._numbers[name] += float(value)
            return
        scalar = _scalar(value)
        total = self._tensors[name]
        self._tensors[name] = scalar if total is None else total + scalar

    def read(
        self, tensors: Sequence[Tensor], numbers: Sequence[float]
    ) -> tuple[dict[str, float], list[float], list[float]]:
        """Sum everything over the processes; each of them gets the sums.

        Args:
            tensors: further tensors, with one element each, equally many on all processes.
            numbers: further numbers, equally many on all processes.

        Returns:
            The totals by name, and the sums of `tensors` and of `numbers` in their order.
        """
        zero = paddle.zeros([], "float64")
        of_device = [zero if total is None else total for total in self._tensors.values()]
        of_device += [_scalar(tensor) for tensor in tensors]
        of_host = [*self._numbers.values(), *numbers]
        summed = distributed.sum_and_read(paddle.stack(of_device), of_host)
        from_device = summed[: len(of_device)]
        from_host = summed[len(of_device) :]
        totals = {
            name: of_tensors + of_numbers
            for name, of_tensors, of_numbers in zip(self._tensors, from_device, from_host)
        }
        return totals, from_device[len(totals) :], from_host[len(totals) :]


def _scalar(tensor: Tensor) -> Tensor:
    """A tensor with one element as float64 []."""
    return tensor.detach().astype("float64").reshape([])
