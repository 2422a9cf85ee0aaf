"""Run contenders side by side on a CPU, each in a process with its own packages and settings.

A benchmark is a program that calls `compare`, which starts the program again for each contender (--worker).
Contenders that take turns are in memory together with ours, and each of the two does one step at a time, so
that a change in the load of the machine meets both. The others run alone.
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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders import BFLOAT16, CONTENDERS, OURS, PREVIOUS, Contender
from benchmarks.figures import contenders_table, figures
from utils.runtime import read_cpu, read_fields, settings_for

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
    """The whole program: flags, contenders, table, and a last line of JSON (`figures`).

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
    parser.add_argument("--contenders", nargs="+", choices=works)
    parser.add_argument("--against", type=Path, help="another checkout, or a benchmark in one")
    parser.add_argument("--worker", choices=works, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        works[args.worker](args.folder, args, **CONTENDERS[args.worker].options)
        return
    chosen = choose(args.contenders or (list(works) if args.against is None else [OURS]), args.against)
    with tempfile.TemporaryDirectory() as folder:
        amount = prepare(Path(folder), args)
        # Only sizes that differ from the defaults, because other revisions may not know them all.
        changed = [f"--{name}={getattr(args, name)}" for name in sizes if getattr(args, name) != sizes[name]]
        results = run_all(chosen, [f"--folder={folder}", *changed], in_turns)
        result = figures(results, chosen, amount, unit)
    print(f"\n{contenders_table(result)}\n")
    print(json.dumps(result))


def choose(names: Sequence[str], against: Path | None = None) -> dict[str, Contender]:
    """The contenders that run: those of `names` that can run here, and ours of another checkout."""
    chosen = {}
    for name in names:
        contender = CONTENDERS[name]
        if not contender.python.exists():
            print(
                f"{name} is left out: no {contender.python}; the peers' environments are made by "
                "sh scripts/setup.sh parity and sh scripts/setup.sh latest",
                flush=True,
            )
            continue
        # On other CPUs ours refuses bfloat16, and torch emulates it very slowly.
        multiplies_in_bfloat16 = read_cpu().flags & {"avx512_bf16", "amx_bf16"}
        if contender.precision == BFLOAT16 and not multiplies_in_bfloat16:
            print(f"{name} is left out: this CPU does not multiply in bfloat16", flush=True)
            continue
        chosen[name] = contender
    if against is not None:
        script = against if against.is_file() else against / "benchmarks" / Path(sys.argv[0]).name
        if not script.is_file():
            sys.exit(f"--against: {script} is not there; name a checkout of this project")
        chosen[PREVIOUS] = replace(CONTENDERS[OURS], label=f"ours in {against}", script=script.resolve())
    return chosen


def run_all(
    contenders: Mapping[str, Contender], flags: Sequence[str], in_turns: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Run every contender. The program ends if one fails, or does other work than the first.

    Args:
        in_turns: names of the contenders that take turns with ours.

    Returns:
        Name -> what its worker told. If it took turns with ours, this also has "beside": the seconds of ours
        in these turns.
    """
    results = {}
    work = {}  # name -> what the worker told of its work
    for name in contenders:
        names = [name]  # of the contenders that run together
        if name in in_turns and name != OURS and OURS in contenders:
            names = [OURS, name]
        told = run_together({member: contenders[member] for member in names}, flags)
        medians = [f"{member} {median(told[member]['seconds']):.3g} s" for member in names]
        print(", ".join(medians), flush=True)
        results[name] = told[name]
        if len(names) > 1:
            results[name]["beside"] = told[OURS]["seconds"]
        work[name] = told[name].get("check")
        if len(set(work.values())) > 1:
            sys.exit(f"the contenders did not do the same work: {work}")
    return results


def run_together(contenders: Mapping[str, Contender], flags: Sequence[str]) -> dict[str, dict]:
    """Run one contender, or two that take turns. Returns what each told."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, contender in contenders.items():
            worker = Worker(name, contender, flags, in_turns=len(contenders) > 1)
            workers[name] = stack.enter_context(worker)
        waiting = [worker for worker in workers.values() if worker.asks_for_a_turn()]
        while waiting:
            for worker in list(waiting):
                time.sleep(REST)
                worker.give_turn()
                if not worker.asks_for_a_turn():
                    waiting.remove(worker)
        return {name: worker.result() for name, worker in workers.items()}


class Worker:
    """A process that does the work of a contender.

    Args:
        flags: of the program, which say what the work is.
        in_turns: whether it waits for its turn before each step.

    Attributes:
        output: the last lines of what it printed.
    """

    def __init__(self, name: str, contender: Contender, flags: Sequence[str], in_turns: bool):
        self.name = name
        self.output: deque[str] = deque(maxlen=40)
        script = contender.script or Path(sys.argv[0]).resolve()
        worker = OURS if name == PREVIOUS else name  # in its own checkout it is ours
        # The shell makes the settings, and the program takes its place.
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', contender.python, script]
        settings = settings_for(read_cpu())
        environment = {name: value for name, value in os.environ.items() if name not in settings}
        environment["CUDA_VISIBLE_DEVICES"] = ""  # all of them compute on the CPU
        if in_turns:
            environment[TAKES_TURNS] = "1"
        if not contender.is_ours:  # ours makes these settings itself
            settings.pop("KMP_BLOCKTIME")  # it helps threads that only ours has
            environment |= settings
        self.process = subprocess.Popen(
            [*command, f"--worker={worker}", *flags],
            cwd=script.parents[1],  # the checkout
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def asks_for_a_turn(self) -> bool:
        """Wait until the worker asks for a turn; False if it ends instead."""
        for line in self.process.stdout:
            if line == f"{READY}\n":
                return True
            self.output.append(line)
        return False

    def give_turn(self) -> None:
        """Let the worker do a step: it waits for a line."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What the worker told, in its last line of JSON. The program ends if the worker failed."""
        if self.process.wait():
            sys.exit(f"{self.name} ended with {self.process.returncode}:\n{''.join(self.output)}")
        line = next(line for line in reversed(self.output) if line.startswith("{"))
        result = json.loads(line)
        if not isinstance(result["seconds"], list):
            result["seconds"] = [result["seconds"]]
        return result

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self.process.kill()
        self.process.communicate()


def wait_for_turn() -> None:
    """In a worker, before a step: wait until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], check: int | None = None) -> None:
    """In a worker, as its last act: print the result.

    Args:
        seconds: of the whole work, or of each repetition.
        check: a number that is the same for all contenders that do the same work.
    """
    fields = read_fields(Path("/proc/self/status").read_text(encoding="utf-8"))
    peak = 1024 * int(fields["VmHWM"].split()[0])  # the largest resident memory so far, "123456 kB"
    print(json.dumps({"seconds": seconds, "peak": peak, "check": check}))
