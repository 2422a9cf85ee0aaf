"""CPU settings that make Paddle fast, and which process of a run this is. See docs/cpu.md.

The settings must be in the environment before Paddle is imported: it reads them once, at import.
"""

import contextlib
import ctypes
import io
import os
import platform
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

# Parameters of mallopt (malloc.h). With them glibc keeps freed memory for the next step instead of returning
# it to the kernel, which would zero every page again.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20
_LEAST_MEMORY = 6 << 30  # bytes; with less, memory is returned, because a heap that is kept grows larger
# Paddle prints these lines when OMP_NUM_THREADS is above 1. They apply to OpenBLAS; its wheels use MKL.
_CHATTER = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


def rank() -> int:
    """The number of this process, 0 to world_size() - 1."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def is_main() -> bool:
    """True on rank 0, the process that writes files and prints to the console."""
    return rank() == 0


@dataclass(frozen=True)
class Cpu:
    """What the machine reports."""

    vendor: str  # vendor_id of /proc/cpuinfo, or ""
    flags: frozenset[str]
    cores: int  # physical cores that this process may use
    memory: int  # bytes that this process may use; 0 if unknown


def read_cpu(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Cpu:
    """Read cpuinfo and meminfo below `proc`, and a container's limits below `cgroup`."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    vendor, flags, physical = "", frozenset(), set()
    for block in _text(proc / "cpuinfo").split("\n\n"):
        lines = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
        if "vendor_id" not in fields or not fields.get("processor", "").isdigit():
            continue
        vendor, flags = fields["vendor_id"], frozenset(fields.get("flags", "").split())
        if allowed is None or int(fields["processor"]) in allowed:
            # Two threads of one core share its arithmetic units, so they count once.
            physical.add((fields.get("physical id", "0"), fields.get("core id", fields["processor"])))
    cores = len(physical) or len(allowed or ()) or os.cpu_count() or 1
    quota, _, period = _text(cgroup / "cpu.max").partition(" ")  # "max 100000", or "200000 100000": 2 cores
    if quota.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    meminfo = _text(proc / "meminfo").splitlines()
    totals = [line.split()[1] for line in meminfo if line.startswith("MemTotal:")]
    memory = int(totals[0]) << 10 if totals else 0
    limit = _text(cgroup / "memory.max").strip()
    return Cpu(vendor, flags, cores, min(memory, int(limit)) if limit.isdigit() else memory)


def int8_saturates(cpu: Cpu) -> bool:
    """Whether int8 products of 8-bit weights can saturate: on x86 without VNNI."""
    return bool(cpu.flags) and not cpu.flags & {"avx512_vnni", "avx_vnni"}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def settings_for(cpu: Cpu, local_processes: int = 1, has_gpu: bool = False) -> dict[str, str]:
    """The environment variables for a CPU that `local_processes` processes share."""
    settings = {"OMP_NUM_THREADS": str(max(1, cpu.cores // local_processes)), "KMP_BLOCKTIME": "0"}
    if cpu.vendor == "AuthenticAMD" and "avx2" in cpu.flags:
        # MKL takes its slowest path on a CPU that is not Intel's, unless it is told: 5 is AVX2, 7 AVX-512.
        settings["MKL_DEBUG_CPU_TYPE"] = "7" if "avx512f" in cpu.flags else "5"
    if not has_gpu:
        # On a CPU, every kernel that reads a strided view copies it element by element.
        settings["FLAGS_use_stride_kernel"] = "0"
    return settings


def prepare(quiet: bool = False) -> str:
    """Apply the settings, except where the user has set a value, then import Paddle.

    Call it before anything else imports Paddle; otherwise it warns that it is too late.

    Returns:
        The settings in force, in one line. Rank 0 also prints it, unless `quiet`.
    """
    # paddle.distributed.launch says how many processes of this job are on this machine
    cpu, processes = read_cpu(), int(os.environ.get("PADDLE_LOCAL_SIZE") or world_size())
    settings = settings_for(cpu, processes, has_gpu())
    users = {name for name in settings if name in os.environ}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    parts = [f"{name}={os.environ[name]}" + (" (as set)" if name in users else "") for name in settings]
    parts.append(_keep_freed_memory(cpu.memory // processes))
    line = "cpu: " + ", ".join(parts)
    if "paddle" not in sys.modules:
        _import_paddle()
    elif "KMP_BLOCKTIME" not in users:  # otherwise an earlier call has set the variables
        warnings.warn(
            "paddle was imported before the model was loaded, and may run on one thread; load the model "
            "first, or set OMP_NUM_THREADS",
            stacklevel=2,
        )
    if not quiet and is_main():
        print(line, flush=True)
    return line


def _keep_freed_memory(memory: int) -> str:
    """Make malloc keep freed memory, on glibc with enough memory, unless the user has configured malloc."""
    for name, value in os.environ.items():
        if name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "malloc" in value):
            return f"malloc as {name} says"
    if memory < _LEAST_MEMORY or platform.libc_ver()[0] != "glibc":
        return "malloc as it is"
    libc = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD)):
        libc.mallopt(option, value)
    return "freed memory kept"


def _import_paddle() -> None:
    """Import Paddle without its chatter, and keep the SIGTERM handler, which Paddle replaces by its own."""
    said, listener = io.StringIO(), signal.getsignal(signal.SIGTERM)
    kept = listener is not None and threading.current_thread() is threading.main_thread()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if kept else ())
    try:
        with contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle  # noqa: F401
    finally:
        if kept:
            signal.signal(signal.SIGTERM, listener)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for line in said.getvalue().splitlines():
            if not line.startswith(_CHATTER):
                print(line, file=sys.stderr)


def has_gpu() -> bool:
    """Whether this process can see a GPU, without importing Paddle, which may be a CPU build."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and (any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists())  # dxg: WSL
