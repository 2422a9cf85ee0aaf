"""The machine as it reports itself, and the settings that Paddle starts with."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ernie_m.utils import paddle_settings
from ernie_m.utils.paddle_settings import Cpu, _apply_settings, choose_settings, parse_fields, rank, read_cpu
from tests.helpers.files import write_files
from tests.launching import error_of

ROOT = Path(__file__).resolve().parents[2]
SSE2 = frozenset({"sse2"})
AVX2 = SSE2 | {"avx2"}
AVX512 = AVX2 | {"avx512f"}
# The variables that `prepare` or scripts/env.sh sets.
SETTINGS = (
    "OMP_NUM_THREADS",
    "KMP_BLOCKTIME",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_CBWR",
    "FLAGS_use_stride_kernel",
    "GLIBC_TUNABLES",
)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """An empty folder instead of /proc and of a container's limits."""
    monkeypatch.setattr(paddle_settings, "_PROC", tmp_path)
    monkeypatch.setattr(paddle_settings, "_CGROUP", tmp_path)
    return tmp_path


def machine(
    folder: Path, processors: list[tuple[int, int]], vendor="AuthenticAMD", memory_kb=16 << 20
) -> None:
    """Fill a folder with cpuinfo and meminfo, like /proc.

    `processors` has a (physical id, core id) for each.
    """
    blocks = [
        f"processor\t: {number}\nvendor_id\t: {vendor}\nphysical id\t: {package}\ncore id\t\t: {core}\n"
        "flags\t\t: fpu avx2 avx512f\n"
        for number, (package, core) in enumerate(processors)
    ]
    memory = f"MemTotal:       {memory_kb} kB\nMemFree:        1 kB\n"
    write_files(folder, {"cpuinfo": "\n".join(blocks), "meminfo": memory})


def test_cores_are_physical_and_those_this_process_may_use(proc, monkeypatch):
    """Two packages of two cores of two threads: processors 0 and 1 are one core, 2 and 3 the next."""
    processors = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)]
    machine(proc, processors)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    flags = frozenset({"fpu", "avx2", "avx512f"})
    assert read_cpu() == Cpu("AuthenticAMD", flags, cores=4, memory=16 << 30)
    # A thread of the first core, and one of the next.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2})
    assert read_cpu().cores == 2
    text = (proc / "cpuinfo").read_text()
    (proc / "cpuinfo").write_text("".join(line for line in text.splitlines(True) if " id" not in line))
    assert read_cpu().cores == 2  # without packages and cores, each processor counts


def test_fields_of_proc():
    assert parse_fields("a\t: b: c\n\nd :\ne: 1\ne: 2") == {"a": "b: c", "": "", "d": "", "e": "2"}


@pytest.mark.parametrize(
    ("cpu_max", "memory_max", "cores", "memory"),
    [
        ("max 100000", "max", 4, 16 << 30),
        ("300000 100000", str(5 << 30), 3, 5 << 30),
        ("50000 100000", str(64 << 30), 1, 16 << 30),
        ("600000 100000", "max", 4, 16 << 30),  # of a larger machine: this process may use 4
    ],
)
def test_container_limits(proc, monkeypatch, cpu_max, memory_max, cores, memory):
    """On a machine of 4 cores and 16 GiB.

    `cpu_max` is a quota of processor time and its period: 300000 of 100000 are 3 cores. `memory_max` is in
    bytes.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    write_files(proc, {"cpu.max": cpu_max + "\n", "memory.max": memory_max + "\n"})
    machine(proc, [(0, core) for core in range(4)])
    cpu = read_cpu()
    assert (cpu.cores, cpu.memory) == (cores, memory)


@pytest.mark.parametrize(
    "vendor, flags, cpu_type, branch",
    [
        ("AuthenticAMD", AVX512, "7", "AVX512,STRICT"),
        ("AuthenticAMD", AVX2, "5", "AVX2,STRICT"),
        ("AuthenticAMD", SSE2, None, None),
        ("GenuineIntel", AVX512, None, "AVX512,STRICT"),
        ("GenuineIntel", AVX2, None, "AVX2,STRICT"),
    ],
)
def test_mkl_is_told_the_instructions_of_an_amd_cpu(vendor, flags, cpu_type, branch):
    """MKL is told the instructions of an AMD CPU, which it would not use otherwise: 5 is AVX2, 7 AVX-512.

    On every CPU it is told to compute the same bits for any number of rows.
    """
    cpu = Cpu(vendor, flags, cores=4, memory=0)
    mkl = {"MKL_DEBUG_CPU_TYPE": cpu_type, "MKL_CBWR": branch}
    settings = {"KMP_BLOCKTIME": "0", **{name: value for name, value in mkl.items() if value}}
    on_cpu = {"OMP_NUM_THREADS": "4", "FLAGS_use_stride_kernel": "0"}
    assert choose_settings(cpu) == {**settings, **on_cpu}
    assert choose_settings(cpu, local_processes=3, has_gpu=True) == {**settings, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("variable", ["PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", ["two", "-1", "0"])
def test_a_variable_that_is_no_number(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    if (variable, value) == ("PADDLE_TRAINER_ID", "0"):
        assert rank() == 0
    else:  # before Paddle is imported, which reads it
        assert error_of(_apply_settings).startswith(f"invalid {variable}={value} ")


@pytest.mark.usefixtures("proc")
def test_a_machine_that_reports_nothing(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert read_cpu() == Cpu("", frozenset(), cores=os.cpu_count(), memory=0)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a new Python, without the settings that this process has from `prepare`."""
    clean = {name: os.environ[name] for name in os.environ if name not in SETTINGS and "PADDLE" not in name}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )


# Stands for Paddle, which takes over the process while it is imported.
INTRUDER = """
import logging, os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
logging.getLogger().addHandler(logging.NullHandler())
logging.getLogger().setLevel("CRITICAL")
logging.getLogger("intruder").addHandler(logging.StreamHandler())
for _ in range(2):
    os.kill(os.getpid(), signal.SIGHUP)
print("a line", file=sys.stderr)
"""


@pytest.mark.parametrize("end", ["", "raise ImportError('no library')"])
def test_import_paddle_restores_the_process(tmp_path, monkeypatch, capsys, end):
    """Signals that come meanwhile are delivered afterwards, unless the import fails."""
    (tmp_path / "paddle.py").write_text(INTRUDER + end)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "paddle")
    root = logging.getLogger()
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: received.append(number))
    state = [*root.handlers], root.level, signal.getsignal(signal.SIGTERM), blocked_signals()
    try:
        with pytest.raises(ImportError) if end else contextlib.nullcontext():
            paddle_settings._import_paddle()
        assert received == ([] if end else [signal.SIGHUP] * 2)
        assert state == ([*root.handlers], root.level, signal.getsignal(signal.SIGTERM), blocked_signals())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert capsys.readouterr().err == "a line\n"
    assert logging.getLogger("intruder").handlers[-1].stream is sys.stderr


def blocked_signals() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


# The line of `prepare`; the next one is the number of threads that it has set.
SHOW = """
import os, signal
from ernie_m.utils.paddle_settings import prepare
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(prepare())
assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # what the program has blocked stays so
print(os.environ["OMP_NUM_THREADS"])
"""


# Prints the page faults when 100 MB are filled for the second time: hundreds if the freed memory went back to
# the kernel, hardly any if it was kept.
FAULTS = """
import resource
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(12_500_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
KEEPS_MEMORY = sys.platform.startswith("linux") and read_cpu().memory >= 6 << 30  # glibc with 6 GiB


def test_prepare_sets_threads_and_malloc_and_says_so_in_one_line():
    settings = choose_settings(read_cpu())
    process = python(SHOW + FAULTS)
    line, threads_set, faults = process.stdout.splitlines()
    in_force = [f"{name}={value}" for name, value in settings.items()]
    malloc = "freed memory kept" if KEEPS_MEMORY else "malloc as it is"
    assert line == f"cpu: {', '.join(in_force)}, {malloc}" and threads_set == settings["OMP_NUM_THREADS"]
    assert process.stderr == ""
    assert int(python(FAULTS).stdout) > 100
    assert int(faults) < 10 or not KEEPS_MEMORY


def test_little_memory_is_returned(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert paddle_settings._keep_freed_memory((6 << 30) - 1) == "malloc as it is"


def test_prepare_leaves_the_users_values():
    """Without Paddle, as in LATE: what it sets is known before."""
    printed = python(LATE, OMP_NUM_THREADS="3", GLIBC_TUNABLES="glibc.malloc.top_pad=131072").stdout
    others = [f"{name}={value}" for name, value in choose_settings(read_cpu()).items()][1:]
    line = f"cpu: OMP_NUM_THREADS=3 (as set), {', '.join(others)}, malloc as GLIBC_TUNABLES says"
    assert {*printed.splitlines()} == {line}


# Calls `prepare` three times. An empty module stands for Paddle, as if it were imported.
LATE = """
import sys; from importlib.util import find_spec, module_from_spec
from ernie_m.utils.paddle_settings import prepare
sys.modules['paddle'] = module_from_spec(find_spec('paddle'))
for _ in range(3): print(prepare())
"""


def test_prepare_counts_local_processes_and_warns_once_if_late():
    """The threads of this machine are for its 2 processes, not for the 16 of the whole run."""
    process = python(LATE, PADDLE_LOCAL_SIZE="2", PADDLE_TRAINERS_NUM="16", PADDLE_TRAINER_ID="1")
    (line,) = {*process.stdout.splitlines()}
    assert line.startswith(f"cpu: OMP_NUM_THREADS={max(1, read_cpu().cores // 2)}, ")
    assert process.stderr.count("may run on one thread") == 1


@pytest.mark.skipif(not KEEPS_MEMORY, reason="glibc with 6 GiB of memory")
def test_env_sh_works_in_a_python_started_after_it():
    """scripts/env.sh keeps freed memory by a variable, as `prepare` does by a call of mallopt."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}

    def shell(command: str, **variables: str) -> str:
        """What a command prints after scripts/env.sh in a shell with these variables."""
        environment = clean | {"PYTHON": sys.executable, "CODE": FAULTS} | variables
        return subprocess.check_output(
            ["sh", "-c", f"set -eu; . scripts/env.sh; {command}"], cwd=ROOT, env=environment, text=True
        ).strip()

    assert int(shell('"$PYTHON" -c "$CODE"')) < 10  # page faults
    tunables = 'echo "${GLIBC_TUNABLES-}"'
    assert shell(tunables).startswith("glibc.malloc.mmap_threshold=")
    assert shell(tunables, GLIBC_TUNABLES="glibc.malloc.check=0") == "glibc.malloc.check=0"  # the user's
    assert shell(tunables, NPROC="1000") == ""  # so many processes have too little memory each
