"""Print what a bug report needs: versions, CPU settings, a check of matrix products, GPUs and NCCL.

Run it as `sh scripts/doctor.sh`. It reports each check that fails and continues.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import __version__
from utils.runtime import prepare, read_cpu

PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "numpy", "sentencepiece", "safetensors", "jsonargparse", "visualdl",
    "matplotlib",
)  # fmt: skip
VARIABLES = (
    "OMP_NUM_THREADS", "KMP_BLOCKTIME", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel", "GLIBC_TUNABLES",
    "CUDA_VISIBLE_DEVICES", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE",
)  # fmt: skip


def main() -> None:
    report("project", project)
    report("system", lambda: f"{platform.platform()}, Python {platform.python_version()}")
    report("libc", lambda: " ".join(platform.libc_ver()) or "not glibc")
    report("packages", packages)
    report("cpu", cpu)
    report("memory", lambda: f"{read_cpu().memory / 2**30:.1f} GiB for this process")
    report("settings", lambda: prepare(quiet=True).removeprefix("cpu: "))
    for name in VARIABLES:
        if name in os.environ:
            report(f"  {name}", lambda name=name: os.environ[name])
    report("products", products)
    report("gpu driver", gpu_driver)
    report("paddle gpu", paddle_gpu)
    report("nccl", nccl)


def report(name: str, value: Callable[[], str]) -> None:
    try:
        text = value()
    except Exception as error:  # any failure belongs in the report
        text = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"
    print(f"{name + ':':<28} {text}", flush=True)


def project() -> str:
    if not shutil.which("git"):
        return f"{__version__}, git is not installed"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    commit = f"commit {done.stdout.strip()}" if done.returncode == 0 else "not a git checkout"
    return f"{__version__}, {commit}"


def packages() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def cpu() -> str:
    cpu = read_cpu()
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if kind in cpu.flags]
    return f"{cpu.vendor or platform.machine()}, {cpu.cores} physical cores to use, {' '.join(kinds)}"


def products() -> str:
    """Compare float32 and float64 products with NumPy, and time the base model's largest product."""
    import numpy as np
    import paddle

    paddle.set_device("cpu")
    rng = np.random.default_rng(0)
    worst = 0.0  # errors in units of the last place of the terms' sum
    for m, k, n in ((7, 65, 33), (257, 768, 129), (512, 768, 768)):
        a, b = rng.standard_normal([m, k]), rng.standard_normal([k, n])
        for dtype, unit in (("float32", 2**-24), ("float64", 2**-53)):
            product = paddle.matmul(paddle.to_tensor(a, dtype), paddle.to_tensor(b, dtype)).numpy()
            worst = max(worst, np.abs(product - a @ b).max() / (unit * (np.abs(a) @ np.abs(b)).min()))
    x, y = paddle.randn([2048, 768]), paddle.randn([768, 3072])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        paddle.matmul(x, y)
        seconds.append(time.perf_counter() - start)
    speed = 2 * 2048 * 768 * 3072 / min(seconds) / 1e9
    verdict = "right" if worst < 10 else "WRONG"
    return f"{verdict} (largest error {worst:.1g} units in the last place), {speed:.0f} GFLOP/s in float32"


def gpu_driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "no nvidia-smi"
    fields = "name,memory.total,driver_version,compute_cap"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    return "; ".join((done.stdout or done.stderr).strip().splitlines())


def paddle_gpu() -> str:
    import paddle

    if not paddle.device.is_compiled_with_cuda():
        return "this paddle is the CPU build"
    count = paddle.device.cuda.device_count()
    return f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}, {count} devices"


def nccl() -> str:
    import paddle

    if not paddle.device.is_compiled_with_cuda():
        return "not in the CPU build"
    return f"{paddle.version.nccl()}"


if __name__ == "__main__":
    main()
