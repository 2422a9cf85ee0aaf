"""Run the contenders of a benchmark side by side, each in a process with its own packages and settings.

Ours runs in .venv, its peers in .venv-parity, and their newest releases in .venv-latest. ``--against DIR``
adds another checkout of this project, which runs its own copy of the benchmark with the Python of .venv:
this is how a change is measured.

A round runs every contender. Programs that "take turns" are in memory together with ours, and each does one
step at a time, so that a change in the load of the machine meets both. The others run one after the other.
The ratio of a round says how many times faster ours was: the median time of the other over the median time
of ours. The reported ratio is the median over the rounds.

A benchmark names its contenders and gives a worker for each kind of contender. A worker does the work and
ends with `tell`; `compare` does the rest. The last line of the output is JSON:

    {"unit": "tokens/s", "rounds": 3, "left_out": [], "fastest_peer": "hf_best_sdpa", "ratio": 1.7,
     "ratio_spread": [1.65, 1.74], "ratio_to_peer": {"hf_best_sdpa": 1.7, ..},
     "contenders": {"ours": {"label": .., "peer": .., "tuned": .., "precision": .., "value": 581.0,
                             "least": 575.0, "most": 583.0, "peak_gb": 7.2, "beyond_gb": 1.9}, ..}}

"value" belongs to the median time, "least" to the slowest and "most" to the fastest. "ratio" compares the
fastest of ours with the fastest peer, both in float32; "ratio_spread" is its range over the rounds.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.runtime import has_gpu, read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 250002
OURS, PREVIOUS = "ours", "previous"
VENV, PARITY, LATEST = ".venv", ".venv-parity", ".venv-latest"
FLOAT32 = "float32"
# Variables that are removed from the environment, so that "as installed" is true.
SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "KMP_BLOCKTIME", "GLIBC_TUNABLES",
    "FLAGS_use_stride_kernel", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
# How a worker and this program agree on turns. Other revisions use the same words.
READY, TAKES_TURNS = "ready for a turn", "BENCHMARK_TAKES_TURNS"
REST = 0.3  # seconds before a turn, while the threads of the other program stop spinning


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: its name in tables.
        kind: which worker runs it. Everything that is not "ours" is a peer.
        tuned: runs with scripts/env.sh and with our settings for threads and memory; otherwise as installed.
        options: keyword arguments of the worker. "compile" needs a C++ compiler, "amp" needs a GPU.
        environment: folder of its Python; by default .venv for "ours" and .venv-parity for peers.
        precision: of its matrix products. Ratios compare contenders in float32.
        asked: runs only if --contenders names it.
        root: the checkout whose benchmark it runs.
    """

    label: str
    kind: str
    tuned: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    precision: str = FLOAT32
    asked: bool = False
    root: Path = ROOT

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return ROOT / (self.environment or (VENV if self.kind == OURS else PARITY)) / "bin/python"

    def missing(self) -> str | None:
        """What this machine lacks to run it."""
        if not self.python.exists():
            return f"{self.python} is not there; sh scripts/setup.sh makes it"
        if self.options.get("compile") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "torch.compile needs a C++ compiler, and there is none"
        if self.options.get("amp") and not has_gpu():
            return "it needs a GPU, and there is none"
        return None


class WorkerFailed(Exception):
    """A worker ended with an error. The message has the end of its output."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


def compare(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, float],
    unit: str,
    amount: Callable[[argparse.Namespace], float],
    prepare: Callable[[Path, argparse.Namespace], None] | None = None,
    check: Callable[[Path], None] | None = None,
    turns: Literal["none", "revisions", "all"] = "none",
) -> None:
    """The whole program of a benchmark: flags, rounds, table, and the last line of JSON.

    Args:
        workers: kind of contender -> function of (folder with the files, parsed flags, **options).
        sizes: flags with a number and their defaults.
        unit: for example "tokens/s".
        amount: units of work in each of the "seconds" that a worker tells.
        prepare: writes the files that all contenders get.
        check: looks at the files that the contenders left in the folder; ends the program if they disagree.
        turns: who takes turns with ours: nobody, another revision of ours, or every contender. Workers that
            take turns call `wait_for_turn` before each step.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", help=f"of {', '.join(contenders)}, with commas between")
    if turns != "none":
        parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of this project")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = contenders[args.worker]
        workers[contender.kind](args.folder, args, **contender.options)
        return
    chosen, left_out = choose(parser, args, contenders)
    shape = {name: getattr(args, name) for name in sizes}
    with tempfile.TemporaryDirectory() as folder:
        if prepare is not None:
            prepare(Path(folder), args)
        flags = [f"--folder={folder}", *(f"--{name}={value}" for name, value in shape.items())]
        runs = run_rounds(chosen, args.rounds, flags, turns)
        if check is not None:
            check(Path(folder))
    left_out += [contender.label for name, contender in chosen.items() if name not in runs]
    found = figures(runs, chosen, amount(args), unit)
    show(found)
    print(json.dumps(shape | {"rounds": args.rounds, "left_out": left_out} | found))


def choose(
    parser: argparse.ArgumentParser, args: argparse.Namespace, contenders: Mapping[str, Contender]
) -> tuple[dict[str, Contender], list[str]]:
    """The contenders that run, and the labels of those that this machine cannot run.

    Without --contenders these are all that need not be asked for; with --against, ours and the other
    checkout.
    """
    against = getattr(args, "against", None)
    if args.contenders:
        names = args.contenders.split(",")
    else:
        names = [OURS] if against else [name for name, one in contenders.items() if not one.asked]
    if unknown := [name for name in names if name not in contenders]:
        parser.error(f"--contenders: no {unknown[0]}; there are {', '.join(contenders)}")
    chosen = {name: contenders[name] for name in names}
    if against:
        script = against / "benchmarks" / Path(sys.argv[0]).name
        if not script.is_file():
            parser.error(f"--against: {script} is not there; name another checkout of this project")
        chosen[PREVIOUS] = Contender(f"ours in {against}", OURS, root=against.resolve())
    left_out = []
    for name, contender in tuple(chosen.items()):
        if missing := contender.missing():
            print(f"{name} is left out: {missing}", flush=True)
            left_out.append(chosen.pop(name).label)
    return chosen, left_out


def run_rounds(
    chosen: Mapping[str, Contender], rounds: int, flags: Sequence[str], turns: str
) -> dict[str, list[dict]]:
    """Name -> what its worker told in each round.

    What ran in turns with ours also has "beside": the seconds of ours in these turns. A peer that fails is
    left out; if ours fails, the program ends.
    """
    runs: dict[str, list[dict]] = {name: [] for name in chosen}
    in_turns = [
        name
        for name in chosen
        if OURS in chosen and name != OURS and (turns == "all" or (turns == "revisions" and name == PREVIOUS))
    ]
    alone = [name for name in chosen if name not in in_turns and not (name == OURS and len(in_turns) > 0)]
    if OURS in chosen and in_turns and alone:
        alone.insert(0, OURS)
    ours_in_turns = []
    for round_ in range(rounds):
        for group in [*([name] for name in alone), *([OURS, name] for name in in_turns)]:
            if any(name not in runs for name in group):
                continue
            try:
                found = run_together({name: chosen[name] for name in group}, flags)
            except WorkerFailed as failure:
                if chosen[failure.name].kind == OURS:
                    sys.exit(str(failure))
                del runs[failure.name]
                print(f"{failure.name} is left out: {failure}", flush=True)
                continue
            if len(group) == 2:
                ours_in_turns.append(found.pop(OURS))
                found[group[1]]["beside"] = ours_in_turns[-1]["seconds"]
            for name, told in found.items():
                runs[name].append(told)
            check_same_work(runs)
            seconds = {name: median([told["seconds"]]) for name, told in found.items()}
            print(
                f"round {round_ + 1}: " + ", ".join(f"{n} {s:.3g} s" for n, s in seconds.items()), flush=True
            )
    if OURS in runs and not runs[OURS]:
        runs[OURS] = ours_in_turns or [run_together({OURS: chosen[OURS]}, flags)[OURS]]
    return runs


def run_together(contenders: Mapping[str, Contender], flags: Sequence[str]) -> dict[str, dict]:
    """What the workers of one or two contenders told. Two take turns.

    Raises:
        WorkerFailed: a worker ended with an error.
    """
    with contextlib.ExitStack() as stack:
        programs = {
            name: stack.enter_context(WorkerProcess(name, contender, flags, len(contenders) > 1))
            for name, contender in contenders.items()
        }
        working = [program for program in programs.values() if program.wait_until_ready()]
        while working:
            for program in tuple(working):
                time.sleep(REST)
                program.start_turn()
                if not program.wait_until_ready():
                    working.remove(program)
        return {name: program.result() for name, program in programs.items()}


class WorkerProcess:
    """The process of one worker. Leaving the ``with`` statement ends it."""

    def __init__(self, name: str, contender: Contender, flags: Sequence[str], in_turns: bool):
        self.name, self.last = name, ""
        script = contender.root / "benchmarks" / Path(sys.argv[0]).name
        worker = OURS if name == PREVIOUS else name
        command = [str(contender.python), str(script), f"--worker={worker}", *flags]
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        if contender.precision == FLOAT32:
            environment["NVIDIA_TF32_OVERRIDE"] = "0"  # a GPU computes in float32, not in TF32
        if in_turns:
            environment[TAKES_TURNS] = "1"
        if contender.tuned:
            if contender.kind != OURS:  # ours makes these settings itself
                settings = settings_for(read_cpu(), has_gpu=has_gpu())
                settings.pop("KMP_BLOCKTIME", None)  # it helps threads that only ours has
                environment |= settings
            command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `__exit__` closes it
        self._process = subprocess.Popen(
            command, cwd=contender.root, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def start_turn(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `wait_until_ready` will find
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def wait_until_ready(self) -> bool:
        """Wait until the process asks for a turn; False: it has ended."""
        for line in self._process.stdout:
            if line.rstrip("\n") == READY:
                return True
            self.last = line if line.strip() else self.last
        return False

    def result(self) -> dict:
        """What the worker told."""
        if code := self._process.wait():
            self._errors.seek(0)
            raise WorkerFailed(self.name, f"{self.name} ended with {code}:\n{self._errors.read()[-3000:]}")
        return json.loads(self.last)


def check_same_work(runs: Mapping[str, list[dict]]) -> None:
    """End the program if two workers told different "check" values or ran on different devices."""
    first = {name: told[0] for name, told in runs.items() if told}
    if len({told.get("device") for told in first.values()}) > 1:
        devices = {name: told.get("device") for name, told in first.items()}
        sys.exit(f"some contenders ran on a GPU and some did not: {devices}")
    checks = {name: told["check"] for name, told in first.items() if "check" in told}
    if len({json.dumps(value) for value in checks.values()}) > 1:
        sys.exit(f"the contenders did not do the same work: {checks}")


def wait_for_turn() -> None:
    """Wait before a step until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], **more: Any) -> None:
    """Print what a worker found, as its last act.

    Args:
        seconds: of the whole work, or of each repetition. more: "kept": bytes that every program must hold;
        "check": equal for all that do the same work; "peak":
            the largest memory in bytes, if other processes did the work.
    """
    torch, paddle = sys.modules.get("torch"), sys.modules.get("paddle")
    on_gpu = [0]
    if torch and torch.cuda.is_available():
        on_gpu.append(torch.cuda.max_memory_allocated())
    if paddle and paddle.device.get_device().startswith("gpu"):
        on_gpu.append(paddle.device.cuda.max_memory_allocated())
    memory = (
        {"device": "gpu", "peak": max(on_gpu)} if max(on_gpu) else {"device": "cpu", "peak": peak_memory()}
    )
    print(json.dumps({"seconds": seconds} | memory | more))


def peak_memory(process: int | str = "self") -> int:
    """The largest resident memory of a process so far, in bytes; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def median(seconds: Sequence[float | list[float]]) -> float:
    """The median over all repetitions of some rounds."""
    return statistics.median(one for part in seconds for one in (part if isinstance(part, list) else [part]))


def figures(
    runs: Mapping[str, list[dict]], contenders: Mapping[str, Contender], amount: float, unit: str
) -> dict[str, Any]:
    """The figures of the last line, from what the workers told in each round."""
    rows = {name: _row(told, contenders[name], amount) for name, told in runs.items()}
    comparable = [name for name in runs if contenders[name].precision == FLOAT32]
    ours = [name for name in comparable if contenders[name].kind == OURS and name != PREVIOUS]
    others = [name for name in runs if contenders[name].kind != OURS or name == PREVIOUS]
    if not ours or not others:
        return {"unit": unit, "contenders": rows}
    best = max(ours, key=lambda name: rows[name]["value"])
    rounds = {
        name: [
            median([told["seconds"]]) / median([told.get("beside", mine["seconds"])])
            for told, mine in zip(of_one, runs[best])
        ]
        for name, of_one in runs.items()
        if name in others
    }
    ratios = {name: round(statistics.median(of_one), 3) for name, of_one in rounds.items()}
    peers = [name for name in ratios if name in comparable and name != PREVIOUS] or list(ratios)
    fastest = min(peers, key=ratios.get)
    return {
        "unit": unit,
        "contenders": rows,
        "ratio": ratios[fastest],
        "ratio_spread": [round(min(rounds[fastest]), 3), round(max(rounds[fastest]), 3)],
        "fastest_peer": fastest,
        "ratio_to_peer": ratios,
    }


def _row(of_one: list[dict], contender: Contender, amount: float) -> dict[str, Any]:
    times = [one for told in of_one for one in _as_list(told["seconds"])]
    speeds = {"value": statistics.median(times), "least": max(times), "most": min(times)}
    row = {
        "label": contender.label,
        "peer": contender.kind != OURS,
        "tuned": contender.tuned,
        "precision": contender.precision,
        **{name: float(f"{amount / seconds:.4g}") for name, seconds in speeds.items()},
        "peak_gb": round(max(told["peak"] for told in of_one) / 1e9, 2),
    }
    if "kept" in of_one[0]:
        row["beyond_gb"] = round(max(told["peak"] - told["kept"] for told in of_one) / 1e9, 2)
    return row


def _as_list(seconds: float | list[float]) -> list[float]:
    return seconds if isinstance(seconds, list) else [seconds]


def show(found: Mapping[str, Any]) -> None:
    """Print the table."""
    print(f"\n{found['unit'] + ': median, slowest, fastest':>74}   peak GB  ours is")
    for name, row in found["contenders"].items():
        values = "".join(f"{row[key]:10,.5g}" for key in ("value", "least", "most"))
        ratio = found.get("ratio_to_peer", {}).get(name)
        times = "" if ratio is None else f"{ratio:9.3f} times"
        print(f"{row['label']:<44}{values}{row['peak_gb']:10.2f}{times}")
