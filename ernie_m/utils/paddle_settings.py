"""CPU settings for fast computation with Paddle, and the rank of this process (docs/hardware.md).

The settings are environment variables, which Paddle reads when it is imported.
"""

import contextlib
import ctypes
import io
import logging
import os
import platform
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ernie_m.utils.child_processes import handle_shutdown_signals
from ernie_m.utils.errors import UserError, say

# Since 3.4, adamw takes the learning rate in float64, not as in ernie_m/model/cpu/lazy_adamw.py.
PADDLE = "3.3"
_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
# Parameters of mallopt (malloc.h). They make glibc keep freed memory for the next step instead of returning
# it to the kernel, which would zero every page again.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_TOP_PAD = 64 << 20  # bytes by which the heap grows
_LEAST_MEMORY = 6 << 30  # bytes; with less, memory is returned, because a kept heap grows larger
# Paddle prints these lines when OMP_NUM_THREADS is above 1. They apply to OpenBLAS; its wheels use MKL.
_ABOUT_OPENBLAS = ("WARNING: OMP_NUM_THREADS set to", "PLEASE USE OMP_NUM_THREADS WISELY")
# Variables of torchrun, srun, Open MPI's mpirun, and mpiexec of MPICH and Intel MPI -> the largest value in a
# process that is alone. Not SLURM_NTASKS: in a shell of sbatch or salloc, a command is one process, although
# Slurm sets SLURM_NTASKS to the tasks of the job, and SLURM_PROCID to 0. Only srun sets the number of
# processes of its step, and higher ranks.
_OF_OTHER_LAUNCHERS = {
    "WORLD_SIZE": 1,
    "SLURM_STEP_NUM_TASKS": 1,
    "SLURM_PROCID": 0,
    "OMPI_COMM_WORLD_SIZE": 1,
    "PMI_SIZE": 1,
}

_is_guest = False


def read_int_variable(variable: str, minimum: int = 1) -> int:
    """Return the integer value of an environment variable, or `minimum` if it is unset.

    Raises:
        UserError: the value is not an integer, or is below `minimum`.
    """
    text = os.environ.get(variable) or str(minimum)
    if not text.isdecimal() or int(text) < minimum:
        raise UserError(
            f"invalid {variable}={text} (expected an integer, at least {minimum}). Correct or unset it"
        )
    return int(text)


def rank() -> int:
    """Return the rank of this process in the run, 0 to world_size() - 1."""
    return read_int_variable("PADDLE_TRAINER_ID", minimum=0)


def world_size() -> int:
    """Return the number of processes of the run."""
    return read_int_variable("PADDLE_TRAINERS_NUM")


def reject_other_launchers() -> None:
    """Check that this process is not one of several of a launcher that does not set Paddle's variables.

    Raises:
        UserError: such a launcher has started several processes. Each would train alone, with the same
            output.
    """
    for variable, alone in _OF_OTHER_LAUNCHERS.items():
        value = os.environ.get(variable, "")
        if value.isdecimal() and int(value) > alone and "PADDLE_TRAINER_ID" not in os.environ:
            raise UserError(
                f"{variable}={value}: torchrun, srun and mpirun do not connect Paddle's processes. Start one "
                f"process per node of launch.py or fleetrun, which starts the others; or unset {variable}"
            )


def is_main() -> bool:
    """Return whether this is rank 0, the process that writes files and prints to the console."""
    return rank() == 0


@dataclass(frozen=True)
class Cpu:
    """CPU and memory that this process may use.

    Attributes:
        vendor: vendor_id in /proc/cpuinfo, or "".
        flags: instruction sets, as named in /proc/cpuinfo.
        cores: physical cores that this process may use.
        memory: bytes that this process may use; 0 if unknown.
    """

    vendor: str
    flags: frozenset[str]
    cores: int
    memory: int


def read_cpu() -> Cpu:
    """Read CPU and memory of the machine, within the limits of affinity and container."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    blocks = map(parse_fields, _read_text(_PROC / "cpuinfo").split("\n\n"))
    processors = [block for block in blocks if "vendor_id" in block and block.get("processor", "").isdigit()]
    last = processors[-1] if processors else {}
    # Two threads of a core share its arithmetic units, so they count once.
    physical_cores = {
        (processor.get("physical id", "0"), processor.get("core id", processor["processor"]))
        for processor in processors
        if allowed is None or int(processor["processor"]) in allowed
    }
    # If cpuinfo does not describe the cores, as on ARM, count the logical ones.
    cores = len(physical_cores) or len(allowed or ()) or os.cpu_count() or 1
    # "max 100000", or "200000 100000" for 2 cores.
    quota, _, period = _read_text(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    total = parse_fields(_read_text(_PROC / "meminfo")).get("MemTotal") or "0 kB"
    memory = 1024 * int(total.split()[0])  # the unit is always kB
    limit = _read_text(_CGROUP / "memory.max").strip()  # bytes, or "max"
    if limit.isdigit():
        memory = min(memory, int(limit))
    return Cpu(last.get("vendor_id", ""), frozenset(last.get("flags", "").split()), cores, memory)


def parse_fields(text: str) -> dict[str, str]:
    """Parse lines "name: value", as in the files of /proc; the last of duplicate names counts."""
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def _read_text(path: Path) -> str:
    """Read a text file; "" if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def choose_settings(cpu: Cpu, local_processes: int = 1, has_gpu: bool = False) -> dict[str, str]:
    """Return the environment variables for fast computation on a CPU.

    Args:
        local_processes: number of processes that share the CPU.
        has_gpu: whether this process uses a GPU.
    """
    settings = {
        "OMP_NUM_THREADS": str(max(1, cpu.cores // local_processes)),
        "KMP_BLOCKTIME": "0",  # idle threads sleep immediately instead of spinning on shared cores
    }
    if cpu.vendor == "AuthenticAMD" and "avx2" in cpu.flags:
        # MKL uses its slowest path on CPUs of other vendors unless this is set: 5 is AVX2, 7 AVX-512.
        settings["MKL_DEBUG_CPU_TYPE"] = "7" if "avx512f" in cpu.flags else "5"
    if "avx512f" in cpu.flags or "avx2" in cpu.flags:
        # The bits of a row of a product do not depend on the number of rows and threads.
        settings["MKL_CBWR"] = "AVX512,STRICT" if "avx512f" in cpu.flags else "AVX2,STRICT"
    if not has_gpu:
        # On a CPU, every kernel that reads a strided view copies it element by element.
        settings["FLAGS_use_stride_kernel"] = "0"
    return settings


def check_paddle() -> None:
    """Check that one Paddle package of the required version is installed, without importing Paddle.

    Raises:
        UserError: Paddle is missing or has an unsupported version, or both packages, CPU and GPU, exist.
    """
    spec = find_spec("paddle")
    install = (
        f"pip install paddlepaddle=={PADDLE}.1, or for a GPU: "
        f"pip install paddlepaddle-gpu=={PADDLE}.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/"
    )
    origin = spec.origin if spec else None
    if origin is None or not origin.endswith("__init__.py"):  # a folder without it may be a leftover
        raise UserError(f"Paddle is not installed for {sys.executable}: {install}")
    site_packages = Path(origin).parents[1]
    # As paddlepaddle_gpu-3.3.1.dist-info.
    packages = [path.stem.partition("-") for path in site_packages.glob("paddlepaddle*.dist-info")]
    versions = {package.replace("_", "-"): version for package, _, version in packages}
    if len(versions) > 1:
        raise UserError(
            f"{site_packages}: {' and '.join(sorted(versions))} overwrite each other. Run pip uninstall for "
            f"both, then {install}"
        )
    for package, version in versions.items():
        if not version.startswith(f"{PADDLE}."):
            raise UserError(
                f"{site_packages}: found {package} {version}, but {PADDLE} is required. {install}"
            )


@cache
def prepare() -> str:
    """Set the CPU settings that the user has not set, and import Paddle, at the first call in a process.

    Call this before anything else imports Paddle; otherwise a warning is issued. After
    `configure_as_library`, the environment is restored, and malloc is not configured.

    Returns:
        The settings in effect, in one line, for the log.

    Raises:
        UserError: Paddle is missing or has an unsupported version.
    """
    check_paddle()
    return _apply_settings()


def configure_as_library() -> None:
    """Declare, before `prepare`, that an application uses this project as a library in this process."""
    global _is_guest
    _is_guest = True


def _apply_settings() -> str:
    """Set the CPU settings and import Paddle; return the settings in effect, in one line."""
    cpu = read_cpu()
    rank()  # Paddle reads this variable and the next one at its import
    read_int_variable("OMP_NUM_THREADS")
    # The processes of the job on this machine; not every launcher says it.
    processes = read_int_variable(
        "PADDLE_LOCAL_SIZE" if "PADDLE_LOCAL_SIZE" in os.environ else "PADDLE_TRAINERS_NUM"
    )
    settings = choose_settings(cpu, processes, has_gpu())
    added_settings = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added_settings)
    notes = {name: "" if name in added_settings else " (as set)" for name in settings}
    in_force = [f"{name}={os.environ[name]}{note}" for name, note in notes.items()]
    in_force.append("malloc as it is" if _is_guest else _keep_freed_memory(cpu.memory // processes))
    if "paddle" in sys.modules:
        warnings.warn(
            "paddle was imported before the model was loaded and may run on one thread. Load the model "
            "first, or set OMP_NUM_THREADS",
            stacklevel=4,
        )
    else:
        _import_paddle()
    if _is_guest:
        import paddle

        matrix = paddle.ones([8, 8]).cpu()
        paddle.matmul(matrix, matrix)  # MKL reads its settings at its first product
        for name in added_settings:
            del os.environ[name]
    return f"cpu: {', '.join(in_force)}"


def _keep_freed_memory(memory: int) -> str:
    """Make malloc keep freed memory, with glibc and enough memory, unless the user has configured malloc.

    Args:
        memory: bytes that this process may use.

    Returns:
        The malloc setting in effect, for the log.
    """
    for name, value in os.environ.items():
        if name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "malloc" in value):
            return f"malloc as {name} says"
    if memory < _LEAST_MEMORY or platform.libc_ver()[0] != "glibc":
        return "malloc as it is"
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap as well
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # the heap never shrinks
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)
    return "freed memory kept"


def _import_paddle() -> None:
    """Import Paddle, and suppress its warnings about OpenBLAS and ccache.

    The SIGTERM handler and the root logger, which Paddle replaces or configures, are restored.
    """
    printed = io.StringIO()  # what the import writes to stderr
    root = logging.getLogger()
    root_handlers = list(root.handlers)
    root_level = root.level
    received: list[int] = []  # the signals that came during the import
    # Paddle would turn a KeyboardInterrupt into an ImportError. A mask is not enough here: the signal would
    # reach one of numpy's threads, and Python would raise in this one.
    may_catch = threading.current_thread() is threading.main_thread()  # only that one may set handlers
    catching = (
        handle_shutdown_signals(lambda number, frame: received.append(number))
        if may_catch
        else contextlib.nullcontext()
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it waits for our handler
    try:
        with catching, contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No ccache found")
            import paddle  # noqa: F401
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # Handlers that were made during the import keep `printed`, which nobody reads any more.
        for name in logging.Logger.manager.loggerDict:
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is printed:
                    handler.setStream(sys.stderr)
        root.handlers[:] = root_handlers
        root.setLevel(root_level)
        for line in printed.getvalue().splitlines():
            if not line.startswith(_ABOUT_OPENBLAS):
                say(line, file=sys.stderr)
    for number in received:
        action = signal.getsignal(number)
        if callable(action):  # a `ShutdownHandler` has heard of it already, and need not be told again
            action(number, None)
        else:
            signal.raise_signal(number)


def has_gpu() -> bool:
    """Return whether a GPU is visible to this process, without importing Paddle, which may be a CPU build."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # None: all GPUs are visible
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()  # dxg: WSL
