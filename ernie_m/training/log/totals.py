"""Numbers of a step that are added up over micro-batches and processes, and read together."""

from collections.abc import Sequence

import paddle
from paddle import Tensor

from ernie_m.training import distributed


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
        scalar = value.detach().astype("float64").reshape([])
        total = self._tensors[name]
        self._tensors[name] = scalar if total is None else total + scalar

    def read(self, numbers: Sequence[float]) -> tuple[dict[str, float], list[float]]:
        """Sum everything over the processes; each of them gets the sums.

        Args:
            numbers: further numbers, equally many on all processes.

        Returns:
            The totals by name, and the sums of `numbers` in their order.
        """
        zero = paddle.zeros([], "float64")
        on_device = [zero if total is None else total for total in self._tensors.values()]
        on_host = [*self._numbers.values(), *numbers]
        # The sums of the tensors, of the numbers by name, and of `numbers`, one after the other.
        summed = distributed.sum_and_read(paddle.stack(on_device), on_host)
        count = len(on_device)
        from_device = summed[:count]
        from_host = summed[count : 2 * count]
        totals = [device_part + host_part for device_part, host_part in zip(from_device, from_host)]
        return dict(zip(self._tensors, totals)), summed[2 * count :]
