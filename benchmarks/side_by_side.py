"""Several programs side by side, each in a process of its own environment and settings.

Ours runs in .venv, the peers in .venv-parity, their newest releases in .venv-latest where that exists. A
round runs all contenders, one after the other, and the rounds repeat, so that a change in the machine's load
meets all alike; where two fit into memory ours runs beside each peer, and they take turns, a step each
(benchmarks/turns.py). What is made of it: benchmarks/figures.py.

A benchmark gives its contenders and, for each kind, the worker that does the work and ends in `tell`;
`compare` does the rest.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import figures, report
from benchmarks.turns import TURNS, Program, alternate
from utils.runtime import has_gpu, read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 250002

BLOCKTIME = "KMP_BLOCKTIME"  # how long OpenMP's threads spin after their work
TF32 = "NVIDIA_TF32_OVERRIDE"  # "0": a GPU's float32 products are float32

# What the environment is cleared of, so that "as installed" means it.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    BLOCKTIME,
    "GLIBC_TUNABLES",
    "FLAGS_use_stride_kernel",
    TF32,
)
OURS, PINNED, LATEST = ".venv", ".venv-parity", ".venv-latest"
COMPILERS = ("c++", "g++", "clang++")  # torch.compile needs one
FLOAT32 = "float32"


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: in the table.
        kind: which worker runs it; "ours" is not a peer.
        tuned: with scripts/env.sh and the variables of utils.runtime; else as installed.
        options: given to the worker. With a true "compile" it is left out where there is no C++ compiler,
            with "amp" where there is no GPU.
        environment: where it runs; None: .venv for "ours", .venv-parity for all else.
        precision: of its products. Ratios are between contenders in float32.
        asked: runs only where --contenders names it.
    """

    label: str
    kind: str
    tuned: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    precision: str = FLOAT32
    asked: bool = False

    @property
    def python(self) -> Path:
        """The interpreter."""
        default = OURS if self.kind == "ours" else PINNED
        return ROOT / (self.environment or default) / "bin/python"


# (folder for files, the command line, **options of the contender): ends in `tell`
Worker = Callable[..., None]


def compare(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, Worker],
    sizes: Mapping[str, int],
    unit: str,
    amount: Callable[[argparse.Namespace], float],
    rounds: int = 3,
    prepare: Callable[[Path, argparse.Namespace], None] | None = None,
    operations: Callable[[argparse.Namespace], float] | None = None,
    check: Callable[[Path], None] | None = None,
    in_turns: bool = False,
) -> None:
    """A benchmark's command line, from flags to the table and the last line, which is JSON.

    Args:
        sizes: flags that take a number, with their defaults.
        unit: of the work, "tokens/s"; "s" for work that is one whole.
        amount: units of work in each of a worker's "seconds".
        prepare: makes the files that all contenders get.
        operations: of the matrix products in each of the "seconds".
        check: of the files that contenders left in the folder; ends the run where they disagree.
        in_turns: the workers `wait_for_turn` before each repetition, and two at a time fit into memory.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=rounds)
    default = ",".join(name for name, contender in contenders.items() if not contender.asked)
    parser.add_argument("--contenders", default=default, help=f"of {', '.join(contenders)}")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = contenders[args.worker]
        workers[contender.kind](args.folder, args, **contender.options)
        return
    chosen = choose(parser, args.contenders, contenders)
    shape = {name: getattr(args, name) for name in sizes}
    with tempfile.TemporaryDirectory() as folder:
        if prepare is not None:
            prepare(Path(folder), args)
        flags = [f"--folder={folder}", *(f"--{name}={value}" for name, value in shape.items())]
        runs = interleave(
            chosen, args.rounds, flags, lambda found: _shown(found, amount(args), unit), in_turns
        )
        if check is not None:
            check(Path(folder))
    count = operations(args) if operations is not None else None
    found = figures(runs, chosen, amount(args), unit, count)
    left_out = [contenders[name].label for name in args.contenders.split(",") if name not in runs]
    report(found)
    print(json.dumps(shape | {"rounds": args.rounds, "left_out": left_out} | found))


def choose(
    parser: argparse.ArgumentParser, names: str, contenders: Mapping[str, Contender]
) -> dict[str, Contender]:
    """The contenders of --contenders that can run here; of the others it is said."""
    chosen = {}
    for name in names.split(","):
        if name not in contenders:
            parser.error(f"--contenders: no {name}; there are {', '.join(contenders)}")
        contender = contenders[name]
        if not contender.python.exists():
            print(f"{name} is left out: {contender.python} is not there; sh scripts/setup.sh makes it")
        elif contender.options.get("compile") and not any(map(shutil.which, COMPILERS)):
            print(f"{name} is left out: torch.compile needs a C++ compiler, and there is none")
        elif contender.options.get("amp") and not has_gpu():
            print(f"{name} is left out: it needs a GPU, and there is none")
        else:
            chosen[name] = contender
    return chosen


def interleave(
    contenders: Mapping[str, Contender],
    rounds: int,
    flags: list[str],
    shown: Callable[[dict], str],
    in_turns: bool = False,
) -> dict[str, list[dict]]:
    """Name -> what its worker found in each round; a round is all of them, one after the other.

    A peer that fails is left out, and its last words are shown; where ours fails, the run ends.

    Args:
        flags: of the workers.
        shown: what was found, for people.
        in_turns: each of the others runs with the first of ours by its side, and they take turns. That one
            has several results in a round then; the other's has its seconds as "beside".
    """
    first = next((name for name, one in contenders.items() if one.kind == "ours"), None)
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    order = sorted(contenders, key=lambda name: in_turns and name == first)
    for round_ in range(rounds):
        for name in order:
            if name not in runs or (in_turns and name == first and runs[first]):
                continue  # it left, or stood beside the others
            pair = [first, name] if in_turns and first not in (None, name) else [name]
            try:
                found = run({one: contenders[one] for one in pair}, flags)
            except WorkerFailed as failure:
                failed = contenders[failure.name]
                if failed.kind == "ours" and not failed.options.get("amp"):  # which wants a Paddle for GPUs
                    sys.exit(str(failure))
                del runs[name]
                print(f"{name} is left out: {failure}", flush=True)
                continue
            if len(pair) > 1:
                mine, theirs = (found[one] for one in pair)
                theirs["beside"] = mine["seconds"]
                if "gflops" in mine:
                    theirs.setdefault("gflops", mine["gflops"])
            for one, told in found.items():
                runs[one].append(told)
            check_same_work(runs)
            values = ", ".join(f"{one} {shown(told)}" for one, told in found.items())
            print(f"round {round_ + 1}: {values}", flush=True)
    return runs


class WorkerFailed(Exception):
    """A worker ended with an error; the message has its last words."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


def run(contenders: Mapping[str, Contender], flags: list[str]) -> dict[str, dict]:
    """What contenders' workers found, in processes of their own that take turns where they are several.

    Raises:
        WorkerFailed: one did not end well.
    """
    programs: dict[str, Program] = {}
    with ExitStack() as stack:
        for name, contender in contenders.items():
            command, environment = launch(contender, [f"--worker={name}", *flags])
            if len(contenders) > 1:
                environment[TURNS] = "1"
            programs[name] = stack.enter_context(Program(command, environment, ROOT))
        alternate(list(programs.values()))
        for name, program in programs.items():
            code, errors = program.outcome()
            if code:
                label = contenders[name].label
                raise WorkerFailed(name, f"{label} ended with {code}:\n{errors[-3000:]}")
        return {name: json.loads(program.last) for name, program in programs.items()}


def launch(contender: Contender, flags: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line of a contender's worker, and its environment."""
    command = [str(contender.python), str(Path(sys.argv[0]).resolve()), *flags]
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    if contender.precision == FLOAT32:
        environment[TF32] = "0"
    if contender.tuned:
        settings = settings_for(read_cpu(), has_gpu=has_gpu())
        if contender.kind != "ours":
            del settings[BLOCKTIME]  # it makes room for threads of ours (utils/threads.py): a peer has none
        environment |= settings
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
    return command, environment


def check_same_work(runs: Mapping[str, list[dict]]) -> None:
    """End the run where workers' "check", which says what they did, or their devices are not the same."""
    runs = {name: of_one for name, of_one in runs.items() if of_one}
    devices = {name: of_one[0].get("device") for name, of_one in runs.items()}
    if len(set(devices.values())) > 1:
        sys.exit(f"some contenders ran on a GPU and some did not: {devices}")
    checks = {name: of_one[0]["check"] for name, of_one in runs.items() if "check" in of_one[0]}
    if len({json.dumps(value) for value in checks.values()}) > 1:
        sys.exit(f"the contenders did not do the same work: {checks}")


def tell(seconds: float | list[float], **more: Any) -> None:
    """A worker's last act.

    Args:
        seconds: of all its work, or of each repetition.
        more: "kept": bytes that any program must hold; "check": the same of all who do the same work;
            "gflops": what matrix products reach at most in this process; "peak": of another process;
            "batch_tokens": of the batches that suited it best, where it had the choice.
    """
    of_gpu = gpu_memory()
    device = {"device": "gpu", "peak": of_gpu} if of_gpu else {"device": "cpu", "peak": peak_memory()}
    print(json.dumps({"seconds": seconds} | device | more))


def gpu_memory() -> int:
    """The most memory of a GPU that this process's tensors have held, in bytes; 0 where none is used."""
    torch, paddle = sys.modules.get("torch"), _paddle_on_gpu()
    held = [0]
    if torch and torch.cuda.is_available():
        held.append(torch.cuda.max_memory_allocated())
    if paddle:
        held.append(paddle.device.cuda.max_memory_allocated())
    return max(held)


def wait_for_gpu() -> None:
    """Until Paddle's GPU has done all that it was given; on a CPU nothing is left to wait for."""
    if paddle := _paddle_on_gpu():
        paddle.device.synchronize()


def _paddle_on_gpu():
    """The module, where this process has imported it and it computes on a GPU; else None."""
    paddle = sys.modules.get("paddle")
    return paddle if paddle and paddle.device.get_device().startswith("gpu") else None


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


def since_start() -> float:
    """Seconds since this process began, what the shell did before it became Python included."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the machine's start; proc(5), starttime
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _shown(found: dict, amount: float, unit: str) -> str:
    seconds = found["seconds"]
    seconds = sorted(seconds)[len(seconds) // 2] if isinstance(seconds, list) else seconds
    return f"{seconds if unit == 's' else amount / seconds:.1f} {unit}"
