"""The machine: what a bug report needs, and whether Paddle, the driver and the card go together."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import paddle

from model.device import FLASH_VERSION, has_bf16, summary
from tests.gpu.bounds import Failed
from training.card import check_wheel
from utils import __version__
from utils.errors import UserError
from utils.runtime import prepare, read_cpu

ROOT = Path(__file__).resolve().parents[2]
# The oldest driver of each major version of CUDA (NVIDIA's release notes, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


def test_environment(fact):
    """What a bug report needs."""
    cpu = read_cpu()
    for line in (
        f"ernie-m {__version__}, commit {output_of('git', 'describe', '--always', '--dirty')}",
        f"{platform.platform()}, Python {platform.python_version()}",
        f"paddlepaddle {paddle.__version__} for CUDA {paddle.version.cuda()}, numpy {np.__version__}",
        f"{cpu.vendor or platform.machine()}, {cpu.cores} cores, {cpu.memory / 2**30:.1f} GiB",
        prepare(quiet=True),  # the settings for this CPU, in words
        output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
    ):
        fact(line)


def output_of(*command: str) -> str:
    """What a command prints, with semicolons between its lines; or that it is not there, or that it fails."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if finished.returncode:
        return f"{command[0]} fails"
    return "; ".join(finished.stdout.strip().splitlines())


def test_device(card, fact):
    """The wheel has code for the card, the driver is new enough, and FlashMask works."""
    try:
        check_wheel()
    except UserError as error:
        raise Failed(str(error)) from error
    driver = check_driver()
    fact(summary("float32", processes=1))
    fact(f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}, NCCL {paddle.version.nccl()}")
    fact(f"driver {driver}")
    if not has_bf16():
        fact("bf16 and FlashMask refused, below capability 8.0")
        return
    if not card.has_flash_mask:
        raise Failed(
            "FlashMask does not work here, so attention is slower: requirements-gpu.txt names the wheel"
        )
    version = paddle.get_flags([FLASH_VERSION])[FLASH_VERSION]
    if version != 2:
        raise Failed(f"{FLASH_VERSION} is {version}, which refuses dropout: unset it")
    fact("bf16 and FlashMask allowed")


def check_driver() -> str:
    """The version of the driver.

    Raises:
        Failed: it is older than this Paddle's CUDA needs.
    """
    versions = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    driver = versions.partition(";")[0]  # every card has the same
    major = driver.partition(".")[0]
    cuda = int(paddle.version.cuda().partition(".")[0])
    oldest = OLDEST_DRIVER.get(cuda, 0)
    if major.isdecimal() and int(major) < oldest:
        raise Failed(f"driver {driver}: CUDA {cuda} needs {oldest} or newer; update the driver")
    return driver
