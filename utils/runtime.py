"""Settings that make Paddle fast on this machine's CPU. docs/cpu.md says what each of them is worth.

They must stand before paddle is imported: its thread pools and flags are read once, at import.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Parameters of mallopt (malloc.h): glibc then keeps freed memory for the next step. Handed back to the
# kernel, every page of it would be zeroed again.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20
# A machine with less gets its freed memory back: a heap that is kept is larger than what is in use.
_LEAST_MEMORY = 6 << 30
# Small blocks that stand free, see `_stock_small_blocks`: 12 MB.
_STOCK, _STOCK_SIZE, _STOCK_GAP = 8000, 1500, 24
# What paddle says on stderr when OMP_NUM_THREADS is above 1: its fear is of OpenBLAS; its wheels hold MKL.
_CHATTER = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")


@dataclass(frozen=True)
class Cpu:
    """What the machine reports.

    Attributes:
        vendor: vendor_id of /proc/cpuinfo, "" where there is none.
        flags: its flags.
        cores: physical cores that this process may use.
        memory: bytes that this process may use, 0 if not known.
    """

    vendor: str
    flags: frozenset[str]
    cores: int
    memory: int


def read_cpu(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Cpu:
    """Read cpuinfo and meminfo under `proc`, and a container's limits under `cgroup`."""
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
    quota, _, period = _text(cgroup / "cpu.max").partition(" ")  # "max 100000"; "200000 100000" is 2 cores
    if quota.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    meminfo = _text(proc / "meminfo").splitlines()
    totals = [line.split()[1] for line in meminfo if line.startswith("MemTotal:")]
    memory = int(totals[0]) << 10 if totals else 0
    limit = _text(cgroup / "memory.max").strip()
    return Cpu(vendor, flags, cores, min(memory, int(limit)) if limit.isdigit() else memory)


def settings_for(cpu: Cpu, local_processes: int = 1, has_gpu: bool = False) -> dict[str, str]:
    """The environment variables for a CPU that `local_processes` processes of the job share."""
    settings = {"OMP_NUM_THREADS": str(max(1, cpu.cores // local_processes)), "KMP_BLOCKTIME": "0"}
    if cpu.vendor == "AuthenticAMD" and "avx2" in cpu.flags:
        # MKL takes its slowest path on a CPU that is not Intel's, unless told: 5 is AVX2, 7 AVX-512.
        settings["MKL_DEBUG_CPU_TYPE"] = "7" if "avx512f" in cpu.flags else "5"
    if not has_gpu:
        # On a CPU a strided view makes every later kernel copy element by element.
        settings["FLAGS_use_stride_kernel"] = "0"
    return settings


def prepare(quiet: bool = False) -> str:
    """Set what makes Paddle fast on this CPU, never over a value the user has set; then import paddle.

    Call it before anything else imports paddle; the line says so if that has happened already.

    Returns:
        One line: the settings in force. It is printed too, unless `quiet` or in a process of rank above 0.
    """
    cpu, processes = read_cpu(), _local_processes()
    settings = settings_for(cpu, processes, has_gpu())
    users = {name for name in settings if name in os.environ}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    parts = [f"{name}={os.environ[name]}" + (" (as set)" if name in users else "") for name in settings]
    parts.append(_keep_freed_memory(cpu.memory // processes))
    line = "cpu: " + ", ".join(parts)
    if "paddle" in sys.modules:
        line += "; paddle was imported before, so the variables come too late"
    else:
        _import_paddle()
    _stock_small_blocks(cpu.memory // processes)
    if not quiet and os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        print(line, flush=True)
    return line


def _keep_freed_memory(memory: int) -> str:
    """Tell glibc's malloc to keep what is freed, where that is possible, wise and not settled by the user."""
    chosen = [name for name in os.environ if name.startswith("MALLOC_")]
    if "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        chosen.append("GLIBC_TUNABLES")
    if chosen:
        return f"malloc as {chosen[0]} says"
    if not _may_keep(memory):
        return "malloc as it is"
    libc = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD)):
        libc.mallopt(option, value)
    return "freed memory kept"


def _stock_small_blocks(memory: int) -> None:
    """Free many small blocks, so that small objects do not settle in the gaps beside tensors.

    Paddle's tensors begin on a page, so between two of them is a gap of up to a page, and glibc puts the next
    tensor of that size where one was freed only if the gaps beside it are free as well. Else the place
    stays empty: up to a third of the memory.
    """
    if not _may_keep(memory):
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    # What stands between them is never freed: it keeps them from becoming one large block.
    blocks = [(libc.malloc(_STOCK_SIZE), libc.malloc(_STOCK_GAP))[0] for _ in range(_STOCK)]
    for block in blocks:
        libc.free(block)


def _may_keep(memory: int) -> bool:
    return memory >= _LEAST_MEMORY and platform.libc_ver()[0] == "glibc"


def _import_paddle() -> None:
    said = io.StringIO()
    try:
        with _sigterm_kept(), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle  # noqa: F401
    finally:
        for line in said.getvalue().splitlines():
            if not line.startswith(_CHATTER):
                print(line, file=sys.stderr)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Around the import of Paddle, which would treat SIGTERM as a crash: the handler of before stays."""
    listener = signal.getsignal(signal.SIGTERM)
    if listener is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, listener)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _local_processes() -> int:
    """Processes of this job on this machine, as paddle.distributed.launch tells each of them."""
    for name in ("PADDLE_LOCAL_SIZE", "PADDLE_TRAINERS_NUM"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return 1


def length_multiple(amp: str) -> int:
    """What a batch's length had best be a multiple of: half precision is for tensor cores, which want 8."""
    return 1 if amp == "none" else 8


def has_gpu() -> bool:
    """Whether there is a GPU for this process. It imports nothing: Paddle may be a build for the CPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
