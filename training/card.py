"""The GPU of a run: whether the installed Paddle has code for it, and what to do when its memory is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from model.device import capability
from utils.errors import UserError

INDEX = "https://www.paddlepaddle.org.cn/packages/stable"


def wheel_folder(version: tuple[int, int]) -> str:
    """The folder of Paddle's index whose wheels have code for a card of this compute capability.

    Args:
        version: of the capability: (major, minor).
    """
    if version < (7, 5):  # P100, V100: the wheels of newer CUDA versions leave them out
        return "cu118"
    if version < (10, 0):  # T4, A100, L4, H100: the wheels of cu118 have no code for H100
        return "cu126"
    return "cu129"  # Blackwell


def check_wheel() -> None:
    """Check that the installed Paddle has code for the card in use, before the first kernel runs.

    The rule is Paddle's own (`InitGpuProperties` in paddle/phi/backends/gpu/gpu_resources.cc): code for the
    card's capability, or for X.0 of the same major version. A Paddle that names no capabilities passes.

    Raises:
        UserError: Paddle has no code for it; the line says which wheel has.
    """
    architectures = paddle.version.cuda_archs()  # such as [75, 80, 86, 89, 90]
    if not architectures:
        return
    major, minor = capability()
    own = 10 * major + minor
    base = 10 * major  # X.0
    if own in architectures or base in architectures:
        return
    compiled = ", ".join(f"{number // 10}.{number % 10}" for number in architectures)
    raise UserError(
        f"{paddle.device.cuda.get_device_name()} has compute capability {major}.{minor}, but the installed "
        f"Paddle has code for {compiled} only: install the one of {INDEX}/{wheel_folder((major, minor))}/ "
        "(in a checkout: put it into requirements-gpu.txt and run sh scripts/setup.sh gpu)"
    )


@contextmanager
def out_of_memory_is_a_user_error(advice: str) -> Iterator[None]:
    """Turn the error of a card whose memory is full into a one-line `UserError`.

    Args:
        advice: what to lower.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:  # Paddle's own, CUDA's, a library's
        if "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"the memory of {paddle.device.get_device()} is full: {advice}; or another program uses the card "
            "(nvidia-smi shows it)"
        ) from error
