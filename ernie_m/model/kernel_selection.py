"""Selection of kernels and services: the device's own, or only those of Paddle's public operations.

    get_kernels(x)    operations on a tensor (`ernie_m/model/kernels.py`)
    get_services()    services of this process (`ernie_m/model/services.py`)

Only this module chooses between them by the device, and no other imports `ernie_m.model.cpu`, which has those
of a CPU. Without that folder a CPU computes by Paddle's public operations, too.

With `--kernels plain` (`run.kernels`) every device uses only Paddle's public operations, so a CPU computes
the same as a GPU, except for FlashMask and autocast. Results that differ from those of the fast kernels by
more than rounding indicate a faulty kernel.
"""

from functools import cache
from importlib import import_module

import paddle
from paddle import Tensor

from ernie_m.model.kernels import Kernels
from ernie_m.model.services import Services
from ernie_m.utils.logging import logger

FAST = "fast"
PLAIN = "plain"
_kernels = FAST
_PLAIN = (Kernels(), Services())


def select_kernels(kind: str) -> None:
    """Set the kernels of this process: FAST or PLAIN. Call this before `build_optimizer`."""
    global _kernels
    _kernels = kind


def has_plain_kernels() -> bool:
    """Return whether this process uses only Paddle's public operations."""
    return _kernels == PLAIN


def is_on_gpu() -> bool:
    """Return whether Paddle computes on a GPU."""
    return str(paddle.device.get_device()).startswith("gpu")


def get_kernels(x: Tensor) -> Kernels:
    """Return the kernels for operations on a tensor; in a traced graph Paddle's, which it can record."""
    return _select(paddle.in_dynamic_mode() and x.place.is_cpu_place())[0]


def get_services() -> Services:
    """Return the services of this process, by its device."""
    return _select(not is_on_gpu())[1]


def _select(on_cpu: bool) -> tuple[Kernels, Services]:
    """Return kernels and services of the CPU, or of every device."""
    return _load_cpu() if on_cpu and not has_plain_kernels() else _PLAIN


@cache
def _load_cpu() -> tuple[Kernels, Services]:
    """Return kernels and services of a CPU; without their folder those of every device, with a warning.

    The module is named in a string, because its folder may be missing.
    """
    try:
        own = import_module("ernie_m.model.cpu.kernels")
    except ModuleNotFoundError as error:
        if error.name not in ("ernie_m.model.cpu", "ernie_m.model.cpu.kernels"):
            raise
        logger.warning(
            "ernie_m/model/cpu is missing: the numbers are those of --kernels plain, which is slower"
        )
        return _PLAIN
    return own.CpuKernels(), own.CpuServices()
