"""Run the contenders of a benchmark side by side, each in a process with its own packages and settings.

Ours runs in .venv, its peers in .venv-parity, and their newest releases in .venv-latest. ``--against DIR``
adds another checkout of this project, which runs its own copy of the benchmark: so a change is measured.

A round runs every contender. Programs that "take turns" are in memory together with ours, and each does one
step at a time, so that a change in the load of the machine meets both. The others run alone, as ours also
does. The ratio of a round is the median time of the other over the median time of ours. The reported ratio is
the median over the rounds.

A `Benchmark` names its contenders and has a worker for each kind of contender. A worker does the work and
ends with `tell`. The last line of the output is JSON:

    {"unit": "tokens/s", "rounds": 3, "left_out": [], "fastest_peer": "hf_sdpa", "ratio": 1.7,
     "ratio_spread": [1.65, 1.74], "ratio_to_peer": {"hf_sdpa": 1.7, ..},
     "contenders": {"ours": {"label": .., "peer": .., "tuned": .., "precision": .., "value": 581.0,
                             "least": 575.0, "most": 583.0, "peak_gb": 7.2}, ..}}

"value" belongs to the median time, "least" to the slowest and "most" to the fastest. "ratio" compares the
fastest of ours with the fastest peer, both in float32; "ratio_spread" is its range over the rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
Turns = Literal["none", "revisions", "all"]


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: its name in tables.
        kind: which worker runs it. Everything that is not "ours" is a peer.
        tuned: runs with scripts/env.sh and with our settings for threads and memory; otherwise as installed.
        options: keyword arguments of the worker. "amp" needs a GPU, "bfloat16" a GPU or a CPU with bfloat16
            products.
        environment: folder of its Python; by default .venv for "ours" and .venv-parity for peers.
        precision: of its matrix products. Ratios compare contenders in float32.
        root: the checkout whose benchmark it runs.
    """

    label: str
    kind: str
    tuned: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    precision: str = FLOAT32
    root: Path = ROOT

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return ROOT / (self.environment or (VENV if self.kind == OURS else PARITY)) / "bin/python"

    def missing(self) -> str | None:
        """What this machine lacks to run it."""
        from utils.runtime import has_gpu, read_cpu

        if not self.python.exists():
            return f"{self.python} is not there; sh scripts/setup.sh makes it"
        if self.options.get("amp") and not has_gpu():
            return "it needs a GPU, and there is none"
        if self.options.get("bfloat16") and not has_gpu() and "avx512_bf16" not in read_cpu().flags:
            return "the CPU has no products in bfloat16"
        return None


class WorkerFailed(Exception):
    """A worker ended with an error: (name, the end of its output)."""


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and by whom.

    Attributes:
        description: help text.
        contenders: name -> contender.
        workers: kind of contender -> function of (folder with the files, parsed flags, **options).
        sizes: flags and their defaults; the workers get them, too.
        unit: for example "tokens/s".
        amount: units of work in each of the "seconds" that a worker tells, from the flags and the folder.
        prepare: writes the files that all contenders get.
        check: looks at the files that the contenders left in the folder; ends the program if they disagree.
        turns: who takes turns with ours: nobody, another revision of ours, or every contender. Workers that
            take turns call `wait_for_turn` before each step.
        rivals: the peers that "ratio" may refer to; by default all in float32.
    """

    description: str
    contenders: Mapping[str, Contender]
    workers: Mapping[str, Callable[..., None]]
    sizes: Mapping[str, int | float | str]
    unit: str
    amount: Callable[[argparse.Namespace, Path], float]
    prepare: Callable[[Path, argparse.Namespace], None] = lambda *_: None
    check: Callable[[Path], None] = lambda *_: None
    turns: Turns = "none"
    rivals: Sequence[str] = ()

    def main(self) -> None:
        """The whole program: flags, rounds, table, and the last line of JSON."""
        print(json.dumps(self.measure(self.parse())))

    def parse(self) -> argparse.Namespace:
        """Read the flags. In the process of a worker, run the worker and end the program."""
        parser = argparse.ArgumentParser(
            description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for name, default in self.sizes.items():
            parser.add_argument(f"--{name}", type=type(default), default=default)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--contenders", help=f"of {', '.join(self.contenders)}, with commas between")
        if self.turns != "none":
            parser.add_argument(
                "--against", type=Path, metavar="DIR", help="another checkout of this project"
            )
        parser.add_argument("--worker", choices=self.contenders, help=argparse.SUPPRESS)
        parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
        parser.set_defaults(against=None)
        args = parser.parse_args()
        if args.worker:
            contender = self.contenders[args.worker]
            self.workers[contender.kind](args.folder, args, **contender.options)
            sys.exit()
        asked = args.contenders.split(",") if args.contenders else []
        if unknown := [name for name in asked if name not in self.contenders]:
            parser.error(f"--contenders: no {unknown[0]}; there are {', '.join(self.contenders)}")
        if args.against and not script_of(args.against).is_file():
            parser.error(
                f"--against: {script_of(args.against)} is not there; name a checkout of this project"
            )
        return args

    def measure(self, args: argparse.Namespace) -> dict[str, Any]:
        """Run the rounds and print the table; the content of the last line."""
        chosen, left_out = self.choose(args)
        shape = {name: getattr(args, name) for name in self.sizes}
        with tempfile.TemporaryDirectory() as folder:
            self.prepare(Path(folder), args)
            flags = [f"--folder={folder}", *(f"--{name}={value}" for name, value in shape.items())]
            runs = run_rounds(chosen, args.rounds, flags, self.turns)
            self.check(Path(folder))
            found = figures(runs, chosen, self.amount(args, Path(folder)), self.unit, self.rivals)
        left_out += [contender.label for name, contender in chosen.items() if name not in runs]
        show(found)
        return shape | {"rounds": args.rounds, "left_out": left_out} | found

    def choose(self, args: argparse.Namespace) -> tuple[dict[str, Contender], list[str]]:
        """The contenders that run, and the labels of those that this machine cannot run.

        Without --contenders these are all; with --against, ours and the other checkout.
        """
        names = [OURS] if args.against else list(self.contenders)
        if args.contenders:
            names = args.contenders.split(",")
        chosen = {name: self.contenders[name] for name in names}
        if args.against:
            chosen[PREVIOUS] = Contender(f"ours in {args.against}", OURS, root=args.against.resolve())
        left_out = []
        for name, contender in tuple(chosen.items()):
            if missing := contender.missing():
                print(f"{name} is left out: {missing}", flush=True)
                left_out.append(chosen.pop(name).label)
        return chosen, left_out


def run_rounds(
    chosen: Mapping[str, Contender], rounds: int, flags: Sequence[str], turns: Turns
) -> dict[str, list[dict]]:
    """Name -> what its worker told in each round.

    What ran in turns with ours also has "beside": the seconds of ours in these turns. A peer that fails is
    left out; if ours fails, the program ends.
    """
    runs: dict[str, list[dict]] = {name: [] for name in chosen}
    beside_ours = {"none": (), "revisions": (PREVIOUS,), "all": set(chosen) - {OURS}}[turns]
    for round_ in range(rounds):
        for name in tuple(runs):
            group = [OURS, name] if name in beside_ours and OURS in chosen else [name]
            try:
                found = run_together({one: chosen[one] for one in group}, flags)
            except WorkerFailed as failure:
                failed, message = failure.args
                if chosen[failed].kind == OURS:
                    sys.exit(message)
                del runs[name]
                print(f"{failed} is left out: {message}", flush=True)
                continue
            medians = (f"{one} {statistics.median(told['seconds']):.3g} s" for one, told in found.items())
            print(f"round {round_ + 1}: {', '.join(medians)}", flush=True)
            beside = {"beside": found[OURS]["seconds"]} if len(group) == 2 else {}
            runs[name].append(found[name] | beside)
            check_same_work(runs)
    return runs


def run_together(contenders: Mapping[str, Contender], flags: Sequence[str]) -> dict[str, dict]:
    """What the workers of one or two contenders told. Two take turns.

    Raises:
        WorkerFailed: a worker ended with an error.
    """
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, contender, flags, len(contenders) > 1))
            for name, contender in contenders.items()
        }
        working = [worker for worker in workers.values() if worker.asks_for_a_turn()]
        while working:
            for worker in tuple(working):
                time.sleep(REST)
                worker.give_turn()
                if not worker.asks_for_a_turn():
                    working.remove(worker)
        return {name: worker.result() for name, worker in workers.items()}


def script_of(root: Path) -> Path:
    """This benchmark in another checkout."""
    return root / "benchmarks" / Path(sys.argv[0]).name


class Worker:
    """The process of one contender. Leaving the ``with`` statement ends it."""

    def __init__(self, name: str, contender: Contender, flags: Sequence[str], in_turns: bool):
        from utils.runtime import has_gpu, read_cpu, settings_for

        self.name = name
        self.lines: deque[str] = deque(maxlen=40)  # the last of its output
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        worker = OURS if name == PREVIOUS else name
        command = [str(contender.python), str(script_of(contender.root)), f"--worker={worker}", *flags]
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
        self.process = subprocess.Popen(
            command, cwd=contender.root, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def give_turn(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `asks_for_a_turn` will find
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def asks_for_a_turn(self) -> bool:
        """Wait until the process asks for a turn; False: it has ended."""
        for line in self.process.stdout:
            if line.rstrip("\n") == READY:
                return True
            self.lines.append(line)
        return False

    def result(self) -> dict:
        """What the worker told."""
        if code := self.process.wait():
            raise WorkerFailed(self.name, f"{self.name} ended with {code}:\n{''.join(self.lines)}")
        told = json.loads(next(line for line in reversed(self.lines) if line.startswith("{")))
        seconds = told["seconds"]
        return told | {"seconds": seconds if isinstance(seconds, list) else [seconds]}


def check_same_work(runs: Mapping[str, list[dict]]) -> None:
    """End the program if two workers told different "check" values or ran on different devices."""
    first = {name: told[0] for name, told in runs.items() if told}
    for key in ("device", "check"):
        found = {name: told[key] for name, told in first.items() if key in told}
        if len({json.dumps(value) for value in found.values()}) > 1:
            sys.exit(f"the contenders did not do the same work, {key}: {found}")


def wait_for_turn() -> None:
    """Wait before a step until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], operations: float = 0.0, **more: Any) -> None:
    """Print what a worker found, as its last act.

    Args:
        seconds: of the whole work, or of each repetition.
        operations: of that work, if known; on a GPU of Paddle the share of its peak is told, too.
        more: "check": equal for all that do the same work; "peak": the largest memory in bytes, if other
            processes did the work.
    """
    torch, paddle = sys.modules.get("torch"), sys.modules.get("paddle")
    on_gpu = 0
    if torch and torch.cuda.is_available():
        on_gpu = torch.cuda.max_memory_allocated()
    if paddle and paddle.device.get_device().startswith("gpu"):
        on_gpu = max(on_gpu, paddle.device.cuda.max_memory_allocated())
        if operations:
            from model.device import peak

            median = statistics.median(seconds if isinstance(seconds, list) else [seconds])
            more["share_of_peak"] = operations / median / peak()[0]
    memory = {"device": "gpu", "peak": on_gpu} if on_gpu else {"device": "cpu", "peak": peak_memory()}
    print(json.dumps({"seconds": seconds} | memory | more))


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def figures(
    runs: Mapping[str, list[dict]],
    contenders: Mapping[str, Contender],
    amount: float,
    unit: str,
    rivals: Sequence[str] = (),
) -> dict[str, Any]:
    """The figures of the last line, from what the workers told in each round."""
    rows = {}
    for name, of_one in runs.items():
        contender, times = contenders[name], [one for told in of_one for one in told["seconds"]]
        speeds = {"value": statistics.median(times), "least": max(times), "most": min(times)}
        rows[name] = {
            "label": contender.label, "peer": contender.kind != OURS, "tuned": contender.tuned,
            "precision": contender.precision,
            **{key: float(f"{amount / seconds:.4g}") for key, seconds in speeds.items()},
            "peak_gb": round(max(told["peak"] for told in of_one) / 1e9, 2),
        }  # fmt: skip
        if shares := [told["share_of_peak"] for told in of_one if "share_of_peak" in told]:
            rows[name]["share_of_peak"] = round(statistics.median(shares), 3)
    others = [name for name in runs if contenders[name].kind != OURS or name == PREVIOUS]
    comparable = [name for name in runs if contenders[name].precision == FLOAT32]
    ours = [name for name in comparable if name not in others]
    if not ours or not others:
        return {"unit": unit, "contenders": rows}
    best = max(ours, key=lambda name: rows[name]["value"])
    median = statistics.median
    rounds = {
        name: [
            median(told["seconds"]) / median(told.get("beside", mine["seconds"]))
            for told, mine in zip(runs[name], runs[best])
        ]
        for name in others
    }
    ratios = {name: round(median(of_one), 3) for name, of_one in rounds.items()}
    rivals = rivals or [name for name in comparable if name != PREVIOUS]
    fastest = min([name for name in others if name in rivals] or others, key=ratios.get)
    return {
        "unit": unit, "contenders": rows, "ratio": ratios[fastest],
        "ratio_spread": [round(min(rounds[fastest]), 3), round(max(rounds[fastest]), 3)],
        "fastest_peer": fastest, "ratio_to_peer": ratios,
    }  # fmt: skip


def show(found: Mapping[str, Any]) -> None:
    """Print the table."""
    print(f"\n{found['unit'] + ': median, slowest, fastest':>74}   peak GB  ours is")
    for name, row in found["contenders"].items():
        values = "".join(f"{row[key]:10,.5g}" for key in ("value", "least", "most"))
        ratio = found.get("ratio_to_peer", {}).get(name)
        times = "" if ratio is None else f"{ratio:9.3f} times"
        share = f"   {row['share_of_peak']:.0%} of the card's peak" if "share_of_peak" in row else ""
        print(f"{row['label']:<44}{values}{row['peak_gb']:10.2f}{times}{share}")
