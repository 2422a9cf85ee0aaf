"""Run the contenders of a benchmark side by side, each in a process with its own packages and settings.

Ours runs in .venv, its peers in .venv-parity, and their newest releases in .venv-latest. ``--against DIR``
adds another checkout of this project. It runs its own copy of the benchmark or, if it has none, this one with
its packages: this is how a change is measured.

A round runs every contender. Programs that "take turns" are in memory together with ours, and each does one
step at a time, so that a change in the load of the machine meets both. The others run one after the other.
The ratio of a round is the median time of the other over the median time of ours. The reported ratio is the
median over the rounds.

A benchmark names its contenders and gives a worker for each kind of contender. A worker does the work and
ends with `tell`; `compare` does the rest. The last line of the output is JSON:

    {"unit": "tokens/s", "rounds": 3, "left_out": [], "fastest_peer": "hf_best_sdpa", "ratio": 1.7,
     "ratio_spread": [1.65, 1.74], "ratio_to_peer": {"hf_best_sdpa": 1.7, ..},
     "contenders": {"ours": {"label": .., "peer": .., "tuned": .., "precision": .., "value": 581.0,
                             "least": 575.0, "most": 583.0, "peak_gb": 7.2}, ..}}

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
PROJECT = "BENCHMARK_PROJECT"  # the checkout whose packages a worker imports
REST = 0.3  # seconds before a turn, while the threads of the other program stop spinning
Turns = Literal["none", "revisions", "all"]


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: its name in tables.
        kind: which worker runs it. Everything that is not "ours" is a peer.
        tuned: runs with scripts/env.sh and with our settings for threads and memory; otherwise as installed.
        options: keyword arguments of the worker. "compile" needs a C++ compiler, "amp" needs a GPU and
            "bfloat16" needs a GPU or a CPU with bfloat16 products.
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
        from utils.runtime import has_gpu, read_cpu

        if not self.python.exists():
            return f"{self.python} is not there; sh scripts/setup.sh makes it"
        if self.options.get("compile") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "torch.compile needs a C++ compiler, and there is none"
        if self.options.get("amp") and not has_gpu():
            return "it needs a GPU, and there is none"
        if self.options.get("bfloat16") and not has_gpu() and "avx512_bf16" not in read_cpu().flags:
            return "the CPU has no products in bfloat16"
        return None


class WorkerFailed(Exception):
    """A worker ended with an error: (name, the end of its output)."""


def compare(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, int | float | str],
    *how: Any,
    turns: Turns = "none",
    **more: Any,
) -> None:
    """The whole program of a benchmark: flags, rounds, table, and the last line of JSON.

    The arguments are those of `parse` and of `measure`.
    """
    args = parse(description, contenders, workers, sizes, turns)
    print(json.dumps(measure(args, contenders, sizes, *how, turns=turns, **more)))


def parse(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, int | float | str],
    turns: Turns,
) -> argparse.Namespace:
    """Read the flags. In the process of a worker, run the worker and end the program.

    Args:
        workers: kind of contender -> function of (folder with the files, parsed flags, **options).
        sizes: flags and their defaults.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in sizes.items():
        kind = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        parser.add_argument(f"--{name}", **kind)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", help=f"of {', '.join(contenders)}, with commas between")
    if turns != "none":
        parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of this project")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if project := os.environ.get(PROJECT):
            sys.path.insert(0, project)
        contender = contenders[args.worker]
        workers[contender.kind](args.folder, args, **contender.options)
        sys.exit()
    asked = args.contenders.split(",") if args.contenders else []
    if unknown := [name for name in asked if name not in contenders]:
        parser.error(f"--contenders: no {unknown[0]}; there are {', '.join(contenders)}")
    against = getattr(args, "against", None)
    if against and not (against / "model").is_dir():
        parser.error(f"--against: {against / 'model'} is not there; name another checkout of this project")
    return args


def measure(
    args: argparse.Namespace,
    contenders: Mapping[str, Contender],
    sizes: Sequence[str],
    unit: str,
    amount: Callable[[argparse.Namespace, Path], float],
    prepare: Callable[[Path, argparse.Namespace], None] | None = None,
    check: Callable[[Path], None] | None = None,
    turns: Turns = "none",
    rivals: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the rounds and print the table; the content of the last line.

    Args:
        sizes: names of the flags that the workers get.
        unit: for example "tokens/s".
        amount: units of work in each of the "seconds" that a worker tells, from the flags and the folder.
        prepare: writes the files that all contenders get.
        check: looks at the files that the contenders left in the folder; ends the program if they disagree.
        turns: who takes turns with ours: nobody, another revision of ours, or every contender. Workers that
            take turns call `wait_for_turn` before each step.
        rivals: the peers that "ratio" may refer to; by default all in float32.
    """
    chosen, left_out = choose(args, contenders)
    shape = {name: getattr(args, name) for name in sizes}
    with tempfile.TemporaryDirectory() as folder:
        if prepare is not None:
            prepare(Path(folder), args)
        flags = [f"--folder={folder}", *(f"--{name}={value}" for name, value in shape.items())]
        runs = run_rounds(chosen, args.rounds, flags, turns)
        if check is not None:
            check(Path(folder))
        found = figures(runs, chosen, amount(args, Path(folder)), unit, rivals)
    left_out += [contender.label for name, contender in chosen.items() if name not in runs]
    show(found)
    return shape | {"rounds": args.rounds, "left_out": left_out} | found


def choose(
    args: argparse.Namespace, contenders: Mapping[str, Contender]
) -> tuple[dict[str, Contender], list[str]]:
    """The contenders that run, and the labels of those that this machine cannot run.

    Without --contenders these are all that need not be asked for; with --against, ours and the other
    checkout.
    """
    against = getattr(args, "against", None)
    names = [OURS] if against else [name for name, one in contenders.items() if not one.asked]
    if args.contenders:
        names = args.contenders.split(",")
    chosen = {name: contenders[name] for name in names}
    if against:
        chosen[PREVIOUS] = Contender(f"ours in {against}", OURS, root=against.resolve())
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
    partners = {"none": [], "revisions": [PREVIOUS], "all": [name for name in chosen if name != OURS]}[turns]
    pairs = [[OURS, name] for name in partners if OURS in chosen and name in chosen]
    alone = [[name] for name in chosen if [OURS, name] not in pairs and not (name == OURS and pairs)]
    if pairs and alone:
        alone.insert(0, [OURS])
    beside_others = []
    for round_ in range(rounds):
        for group in alone + pairs:
            if any(name not in runs for name in group):
                continue
            try:
                found = run_together({name: chosen[name] for name in group}, flags)
            except WorkerFailed as failure:
                name, message = failure.args
                if chosen[name].kind == OURS:
                    sys.exit(message)
                del runs[name]
                print(f"{name} is left out: {message}", flush=True)
                continue
            seconds = ", ".join(f"{name} {median([told['seconds']]):.3g} s" for name, told in found.items())
            print(f"round {round_ + 1}: {seconds}", flush=True)
            if len(group) == 2:
                beside_others.append(found.pop(OURS))
                found[group[1]]["beside"] = beside_others[-1]["seconds"]
            for name, told in found.items():
                runs[name].append(told)
            check_same_work(runs)
    if OURS in runs and not runs[OURS]:
        runs[OURS] = beside_others or [run_together({OURS: chosen[OURS]}, flags)[OURS]]
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
        from utils.runtime import has_gpu, read_cpu, settings_for

        self.name, self.last = name, ""
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        script = contender.root / "benchmarks" / Path(sys.argv[0]).name
        if not script.is_file():
            script = Path(sys.argv[0]).resolve()
            environment[PROJECT] = str(contender.root)
        worker = OURS if name == PREVIOUS else name
        command = [str(contender.python), str(script), f"--worker={worker}", *flags]
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
    devices = {name: told.get("device") for name, told in first.items()}
    if len(set(devices.values())) > 1:
        sys.exit(f"some contenders ran on a GPU and some did not: {devices}")
    checks = {name: told["check"] for name, told in first.items() if "check" in told}
    if len({json.dumps(value) for value in checks.values()}) > 1:
        sys.exit(f"the contenders did not do the same work: {checks}")


def wait_for_turn() -> None:
    """Wait before a step until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], operations: float = 0.0, **more: Any) -> None:
    """Print what a worker found, as its last act.

    Args:
        seconds: of the whole work, or of each repetition.
        operations: multiplications and additions in these seconds; on a GPU of Paddle its share of the peak
            is told, too.
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

            more["share_of_peak"] = operations / median([seconds]) / peak()[0]
    memory = {"device": "gpu", "peak": on_gpu} if on_gpu else {"device": "cpu", "peak": peak_memory()}
    print(json.dumps({"seconds": seconds} | memory | more))


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def repetitions(parts: Sequence[float | list[float]]) -> list[float]:
    """The seconds of all repetitions of some rounds."""
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def median(parts: Sequence[float | list[float]]) -> float:
    return statistics.median(repetitions(parts))


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
        contender, times = contenders[name], repetitions([told["seconds"] for told in of_one])
        speeds = {"value": statistics.median(times), "least": max(times), "most": min(times)}
        rows[name] = {
            "label": contender.label, "peer": contender.kind != OURS, "tuned": contender.tuned,
            "precision": contender.precision,
            **{key: float(f"{amount / seconds:.4g}") for key, seconds in speeds.items()},
            "peak_gb": round(max(told["peak"] for told in of_one) / 1e9, 2),
        }  # fmt: skip
        if shares := [told["share_of_peak"] for told in of_one if "share_of_peak" in told]:
            rows[name]["share_of_peak"] = round(statistics.median(shares), 3)
    comparable = [name for name in runs if contenders[name].precision == FLOAT32]
    ours = [name for name in comparable if contenders[name].kind == OURS and name != PREVIOUS]
    others = [name for name in runs if contenders[name].kind != OURS or name == PREVIOUS]
    if not ours or not others:
        return {"unit": unit, "contenders": rows}
    best = max(ours, key=lambda name: rows[name]["value"])
    rounds = {
        name: [
            median([told["seconds"]]) / median([told.get("beside", mine["seconds"])])
            for told, mine in zip(runs[name], runs[best])
        ]
        for name in others
    }
    ratios = {name: round(statistics.median(of_one), 3) for name, of_one in rounds.items()}
    rivals = rivals or [name for name in comparable if name != PREVIOUS]
    peers = [name for name in ratios if name in rivals] or list(ratios)
    fastest = min(peers, key=ratios.get)
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
