"""Run contenders side by side, each in a process with its own packages and settings.

A benchmark is a program that calls `compare`, which starts the program again for each contender (--worker). A
round runs every contender. Contenders that take turns are in memory together with ours, and each of the two
does one step at a time, so that a change in the load of the machine meets both. The others run alone.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders import BFLOAT16, CONTENDERS, FLOAT32, OURS, PREVIOUS, Contender
from benchmarks.figures import contenders_table, figures
from utils.runtime import has_gpu, read_cpu, read_fields, settings_for

# Variables that are removed from the environment, so that "as installed" is true.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "KMP_BLOCKTIME",
    "GLIBC_TUNABLES",
    "FLAGS_use_stride_kernel",
    "NVIDIA_TF32_OVERRIDE",
)
# How a worker and this program agree on turns. Other revisions use the same words.
READY = "ready for a turn"
TAKES_TURNS = "BENCHMARK_TAKES_TURNS"
REST = 0.3  # seconds before a turn, while the threads of the other program stop spinning


def compare(
    description: str,
    works: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, int | float | str],
    unit: str,
    prepare: Callable[[Path, argparse.Namespace], float],
    in_turns: Collection[str] = (),
) -> None:
    """The whole program: flags, rounds, table, and a last line of JSON (`figures`).

    Args:
        works: name of a contender -> the function of (folder with the files, flags, **its options) that does
            the work and ends with `tell`.
        sizes: flags and their defaults.
        prepare: writes the files that all contenders get, and returns the work that is done in each of the
            "seconds" that a worker tells, in `unit` without "/s".
        in_turns: names of the contenders that do their steps in turns with ours; the work of both calls
            `wait_for_turn` before each.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=works)
    parser.add_argument("--against", type=Path, help="another checkout, or a benchmark in one")
    parser.add_argument("--worker", choices=works, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        works[args.worker](args.folder, args, **CONTENDERS[args.worker].options)
        return
    chosen = choose(works, args.contenders, args.against)
    # A benchmark with the size "amp" runs ours in that precision.
    if getattr(args, "amp", "none") != "none":
        for name in chosen.keys() & {OURS, PREVIOUS}:
            chosen[name] = replace(chosen[name], precision=args.amp)
    with tempfile.TemporaryDirectory() as folder:
        amount = prepare(Path(folder), args)
        # Only sizes that differ from the defaults, because other revisions may not know them all.
        changed = [f"--{name}={getattr(args, name)}" for name in sizes if getattr(args, name) != sizes[name]]
        runs = run_rounds(chosen, args.rounds, [f"--folder={folder}", *changed], in_turns)
        result = figures(runs, chosen, amount, unit)
    print(f"\n{contenders_table(result)}\n")
    sizes_of_run = {name: getattr(args, name) for name in sizes}
    left_out = [contender.label for name, contender in chosen.items() if name not in runs]
    print(json.dumps({**sizes_of_run, "rounds": args.rounds, "left_out": left_out, **result}))


def choose(works: Iterable[str], names: Sequence[str] | None, against: Path | None) -> dict[str, Contender]:
    """The contenders that run: those of `names`, or all of a benchmark (`works`).

    With another checkout (`against`) they are those of `names`, or ours alone; and ours of that checkout.
    """
    if against is None:
        return {name: CONTENDERS[name] for name in names or works}
    script = against if against.is_file() else against / "benchmarks" / Path(sys.argv[0]).name
    if not script.is_file():
        sys.exit(f"--against: {script} is not there; name a checkout of this project")
    chosen = {name: CONTENDERS[name] for name in names or [OURS]}
    chosen[PREVIOUS] = replace(CONTENDERS[OURS], label=f"ours in {against}", script=script.resolve())
    return chosen


def run_rounds(
    contenders: Mapping[str, Contender], rounds: int, flags: Sequence[str], in_turns: Collection[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Run every contender in every round. A peer that fails is left out; if ours fails, the program ends.

    Args:
        in_turns: names of the contenders that take turns with ours.

    Returns:
        Name -> what its worker told in each round. If it took turns with ours, this also has "beside": the
        seconds of ours in these turns.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name in list(runs):
            names = [name]  # of the contenders that run together
            if name in in_turns and name != OURS and OURS in contenders:
                names = [OURS, name]
            results = run_together({member: contenders[member] for member in names}, flags)
            if results is None:
                del runs[name]
                continue
            medians = []
            for member in names:
                medians.append(f"{member} {median(results[member]['seconds']):.3g} s")
            print(f"round {number}: {', '.join(medians)}", flush=True)
            result = results[name]
            if len(names) > 1:
                result["beside"] = results[OURS]["seconds"]
            runs[name].append(result)
            check_same_work(runs)
    return runs


def run_together(contenders: Mapping[str, Contender], flags: Sequence[str]) -> dict[str, dict] | None:
    """Run one contender, or two that take turns. Returns what each told; None: a peer failed."""
    for name, contender in contenders.items():
        if not contender.python.exists():
            print(f"{name} is left out: no {contender.python}; sh scripts/setup.sh makes it", flush=True)
            return None
        # Ours refuses, and torch emulates it, very slowly.
        if contender.precision == BFLOAT16 and not read_cpu().flags & {"avx512_bf16", "amx_bf16"}:
            print(f"{name} is left out: this CPU does not multiply in bfloat16", flush=True)
            return None
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, contender in contenders.items():
            worker = Worker(start(name, contender, flags, in_turns=len(contenders) > 1))
            stack.callback(worker.end)
            workers[name] = worker
        take_turns(workers.values())
        for name, worker in workers.items():
            exit_code = worker.process.wait()
            if exit_code:
                message = f"{name} is left out: it ended with {exit_code}:\n{''.join(worker.output)}"
                if contenders[name].is_ours:
                    sys.exit(message)
                print(message, flush=True)
                return None
    return {name: worker.result() for name, worker in workers.items()}


class Worker:
    """A process that does the work of a contender. `output` has the last lines of what it printed."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.output: deque[str] = deque(maxlen=40)

    def asks_for_a_turn(self) -> bool:
        """Wait until the worker asks for a turn; False if it ends instead."""
        for line in self.process.stdout:
            if line == f"{READY}\n":
                return True
            self.output.append(line)
        return False

    def give_turn(self) -> None:
        """Let the worker do a step: it waits for a line."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            os.write(self.process.stdin.fileno(), b"\n")

    def result(self) -> dict[str, Any]:
        """What the worker told, in its last line of JSON."""
        line = next(line for line in reversed(self.output) if line.startswith("{"))
        result = json.loads(line)
        if not isinstance(result["seconds"], list):
            result["seconds"] = [result["seconds"]]
        return result

    def end(self) -> None:
        """Kill the worker if it still runs, and free what belongs to it."""
        self.process.kill()
        with self.process:  # closes the pipes
            pass


def take_turns(workers: Iterable[Worker]) -> None:
    """Give each worker a turn after the other, until all have ended."""
    waiting = [worker for worker in workers if worker.asks_for_a_turn()]
    while waiting:
        for worker in list(waiting):
            time.sleep(REST)
            worker.give_turn()
            if not worker.asks_for_a_turn():
                waiting.remove(worker)


def start(name: str, contender: Contender, flags: Sequence[str], in_turns: bool) -> subprocess.Popen:
    """Start the worker of a contender."""
    script = contender.script or Path(sys.argv[0]).resolve()
    worker = OURS if name == PREVIOUS else name  # in its own checkout it is ours
    command = [contender.python, script, f"--worker={worker}", *flags]
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    if contender.precision == FLOAT32:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # a GPU computes in float32, not in TF32
    if in_turns:
        environment[TAKES_TURNS] = "1"
    if contender.tuned:
        # The shell makes the settings, and the worker takes its place.
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
        if not contender.is_ours:  # ours makes these settings itself
            settings = settings_for(read_cpu(), has_gpu=has_gpu())
            settings.pop("KMP_BLOCKTIME")  # it helps threads that only ours has
            environment |= settings
    return subprocess.Popen(
        command,
        cwd=script.parents[1],  # the checkout
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_same_work(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """End the program if two workers told different "check" values or ran on different devices."""
    for key in ("device", "check"):
        values = {}
        for name, results in runs.items():
            if results and key in results[0]:  # of the first round; the others do the same work
                values[name] = results[0][key]
        if len({json.dumps(value) for value in values.values()}) > 1:
            sys.exit(f"the contenders did not do the same work, {key}: {values}")


def wait_for_turn() -> None:
    """In a worker, before a step: wait until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], **more: Any) -> None:
    """In a worker, as its last act: print the result.

    Args:
        seconds: of the whole work, or of each repetition.
        more: "check": equal for all that do the same work; "peak": bytes, if other processes did the work.
    """
    result = {"seconds": seconds, "device": "cpu", "peak": peak_memory()}
    bytes_on_gpu = peak_memory_of_gpu()
    if bytes_on_gpu:
        result |= {"device": "gpu", "peak": bytes_on_gpu}
    print(json.dumps(result | more))


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    fields = read_fields(Path("/proc/self/status").read_text(encoding="utf-8"))
    if "VmHWM" not in fields:
        raise RuntimeError("/proc/self/status has no VmHWM")
    return 1024 * int(fields["VmHWM"].split()[0])  # "123456 kB"


def peak_memory_of_gpu() -> int:
    """The largest memory that this process had on a GPU, in bytes; 0 if it did not use one."""
    torch = sys.modules.get("torch")  # a library that was not imported has used none
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    paddle = sys.modules.get("paddle")
    if paddle and paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated()
    return 0
