"""Run the contenders of a benchmark side by side, each in a process with its own packages and settings.

A round runs every contender. Those that take turns with ours are in memory together with it, and each does
one step at a time, so that a change in the load of the machine meets both. The others run alone.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils.runtime import has_gpu, read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[1]
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
    """One program in one setting."""

    label: str  # its name in tables
    kind: str  # which worker runs it; all but "ours" are peers
    tuned: bool = True  # with scripts/env.sh and our settings for threads and memory; otherwise as installed
    options: Mapping[str, Any] = field(default_factory=dict)  # of the worker
    environment: str | None = None  # folder of its Python; default: .venv for "ours", else .venv-parity
    precision: str = FLOAT32  # of its matrix products; ratios compare contenders in float32
    counts: bool = True  # whether "ratio" may refer to it
    script: Path | None = None  # the benchmark of another checkout; by default this program

    @property
    def python(self) -> Path:
        """The interpreter that runs it."""
        return ROOT / (self.environment or (VENV if self.kind == OURS else PARITY)) / "bin/python"


def compare(
    description: str,
    contenders: Mapping[str, Contender],
    workers: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, int | float | str],
    unit: str,
    amount: Callable[[argparse.Namespace, Path], float],
    prepare: Callable[[Path, argparse.Namespace], None] | None = None,
    turns: Sequence[str] = (),
) -> None:
    """The whole program: flags, rounds, table, and a last line of JSON (`figures`).

    Args:
        workers: kind -> function of (folder with the files, flags, **options), which ends with `tell`.
        sizes: flags and their defaults. Workers get those that differ, so that other revisions know them.
        amount: units of work in each of the "seconds" that a worker tells.
        prepare: writes the files that all contenders get.
        turns: kinds that take turns with ours; they call `wait_for_turn` before each step.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=contenders)
    if OURS in turns:
        parser.add_argument("--against", type=Path, help="another checkout, or a benchmark in one")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = contenders[args.worker]
        return workers[contender.kind](args.folder, args, **contender.options)
    chosen = choose(contenders, args.contenders, getattr(args, "against", None))
    if getattr(args, "amp", "none") != "none":
        ours = [name for name in (OURS, PREVIOUS) if name in chosen]
        chosen |= {name: replace(chosen[name], precision=args.amp) for name in ours}
    shape = {name: getattr(args, name) for name in sizes}
    with tempfile.TemporaryDirectory() as folder:
        if prepare:
            prepare(Path(folder), args)
        given = [f"--{name}={value}" for name, value in shape.items() if value != sizes[name]]
        runs = run_rounds(chosen, args.rounds, [f"--folder={folder}", *given], turns)
        found = figures(runs, chosen, amount(args, Path(folder)), unit)
    print(f"\n{contenders_table(found)}\n")
    left_out = [contender.label for name, contender in chosen.items() if name not in runs]
    print(json.dumps(shape | {"rounds": args.rounds, "left_out": left_out} | found))


def choose(
    contenders: Mapping[str, Contender], asked: Sequence[str] | None, against: Path | None
) -> dict[str, Contender]:
    """The contenders that run: all, or those asked for; with another checkout, ours beside it."""
    names = asked or ([OURS] if against else contenders)
    chosen = {name: contenders[name] for name in names}
    if against:
        script = against if against.is_file() else against / "benchmarks" / Path(sys.argv[0]).name
        if not script.is_file():
            sys.exit(f"--against: {script} is not there; name a checkout of this project")
        chosen[PREVIOUS] = Contender(f"ours in {against}", OURS, script=script.resolve())
    return chosen


def run_rounds(
    chosen: Mapping[str, Contender], rounds: int, flags: Sequence[str], turns: Sequence[str]
) -> dict[str, list[dict]]:
    """Name -> what its worker told in each round.

    What ran in turns with ours also has "beside": the seconds of ours in these turns. A peer that fails is
    left out; if ours fails, the program ends.
    """
    runs: dict[str, list[dict]] = {name: [] for name in chosen}
    for round_ in range(rounds):
        for name in tuple(runs):
            beside = name != OURS and OURS in chosen and chosen[name].kind in turns
            group = [OURS, name] if beside else [name]
            found = run_together({one: chosen[one] for one in group}, flags)
            if found is None:
                del runs[name]
                continue
            medians = (f"{one} {statistics.median(told['seconds']):.3g} s" for one, told in found.items())
            print(f"round {round_ + 1}: {', '.join(medians)}", flush=True)
            runs[name].append(found[name] | ({"beside": found[OURS]["seconds"]} if beside else {}))
            check_same_work(runs)
    return runs


def run_together(contenders: Mapping[str, Contender], flags: Sequence[str]) -> dict[str, dict] | None:
    """What the workers of one or two contenders told; two take turns. None: a peer failed."""
    said: dict[str, deque[str]] = {name: deque(maxlen=40) for name in contenders}  # the last of the output
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, contender in contenders.items():
            if not contender.python.exists():
                print(f"{name} is left out: no {contender.python}; sh scripts/setup.sh makes it", flush=True)
                return None
            processes[name] = stack.enter_context(start(name, contender, flags, len(contenders) > 1))
            stack.callback(processes[name].kill)

        def asks_for_a_turn(name: str) -> bool:
            for line in processes[name].stdout:
                if line == f"{READY}\n":
                    return True
                said[name].append(line)
            return False

        working = [name for name in processes if asks_for_a_turn(name)]
        while working:
            for name in tuple(working):
                time.sleep(REST)
                with contextlib.suppress(BrokenPipeError):  # it has ended
                    os.write(processes[name].stdin.fileno(), b"\n")
                if not asks_for_a_turn(name):
                    working.remove(name)
        for name, process in processes.items():
            if code := process.wait():
                message = f"{name} is left out: it ended with {code}:\n{''.join(said[name])}"
                if contenders[name].kind == OURS:
                    sys.exit(message)
                print(message, flush=True)
                return None
    found = {}
    for name, lines in said.items():
        found[name] = json.loads(next(line for line in reversed(lines) if line[0] == "{"))
        if not isinstance(found[name]["seconds"], list):
            found[name]["seconds"] = [found[name]["seconds"]]
    return found


def start(name: str, contender: Contender, flags: Sequence[str], in_turns: bool) -> subprocess.Popen:
    """Start the worker of a contender."""
    script = contender.script or Path(sys.argv[0]).resolve()
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    command = [contender.python, script, f"--worker={OURS if name == PREVIOUS else name}", *flags]
    if contender.precision == FLOAT32:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # a GPU computes in float32, not in TF32
    if in_turns:
        environment[TAKES_TURNS] = "1"
    if contender.tuned:
        if contender.kind != OURS:  # ours makes these settings itself
            settings = settings_for(read_cpu(), has_gpu=has_gpu())
            settings.pop("KMP_BLOCKTIME")  # it helps threads that only ours has
            environment |= settings
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
    return subprocess.Popen(
        command, cwd=script.parents[1], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def check_same_work(runs: Mapping[str, list[dict]]) -> None:
    """End the program if two workers told different "check" values or ran on different devices."""
    for key in ("device", "check"):
        found = {name: told[0][key] for name, told in runs.items() if told and key in told[0]}
        if len({json.dumps(value) for value in found.values()}) > 1:
            sys.exit(f"the contenders did not do the same work, {key}: {found}")


def wait_for_turn() -> None:
    """Wait before a step until the other program has done its own. Alone it returns at once."""
    if TAKES_TURNS in os.environ:
        print(f"\n{READY}", flush=True)
        sys.stdin.readline()


def tell(seconds: float | list[float], **more: Any) -> None:
    """Print what a worker found, as its last act.

    Args:
        seconds: of the whole work, or of each repetition.
        more: "check": equal for all that do the same work; "peak": bytes, if other processes did the work.
    """
    torch, paddle, on_gpu = sys.modules.get("torch"), sys.modules.get("paddle"), 0
    if torch and torch.cuda.is_available():
        on_gpu = torch.cuda.max_memory_allocated()
    if paddle and paddle.device.get_device().startswith("gpu"):
        on_gpu = max(on_gpu, paddle.device.cuda.max_memory_allocated())
    memory = {"device": "gpu", "peak": on_gpu} if on_gpu else {"device": "cpu", "peak": peak_memory()}
    print(json.dumps({"seconds": seconds} | memory | more))


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def figures(
    runs: Mapping[str, list[dict]], contenders: Mapping[str, Contender], amount: float, unit: str
) -> dict[str, Any]:
    """The figures of the last line, from what the workers told in each round.

    "value" belongs to the median time, "least" to the slowest and "most" to the fastest. The ratio of a round
    is the median time of the other over that of ours; "ratio_to_peer" has the medians over the rounds, and
    "ratio" is that of the fastest of ours to "fastest_peer", both in float32.
    """
    rows, median = {}, statistics.median
    for name, of_one in runs.items():
        contender, times = contenders[name], [one for told in of_one for one in told["seconds"]]
        speeds = {"value": median(times), "least": max(times), "most": min(times)}
        rows[name] = {
            "label": contender.label, "peer": contender.kind != OURS, "tuned": contender.tuned,
            "precision": contender.precision,
            **{key: float(f"{amount / seconds:.4g}") for key, seconds in speeds.items()},
            "peak_gb": round(max(told["peak"] for told in of_one) / 1e9, 2),
        }  # fmt: skip
    found = {"unit": unit, "contenders": rows}
    others = [name for name in runs if contenders[name].kind != OURS or name == PREVIOUS]
    comparable = [name for name in runs if contenders[name].precision == FLOAT32]
    ours = [name for name in comparable if name not in others]
    if not ours or not others:
        return found
    best = max(ours, key=lambda name: rows[name]["value"])
    ratios = {}
    for name in others:
        pairs = ((told, told.get("beside", mine["seconds"])) for told, mine in zip(runs[name], runs[best]))
        rounds = [median(told["seconds"]) / median(mine) for told, mine in pairs]
        ratios[name] = round(median(rounds), 3)
    rivals = [name for name in comparable if name in others and contenders[name].counts and name != PREVIOUS]
    fastest = min(rivals or others, key=ratios.get)
    return found | {"ratio": ratios[fastest], "fastest_peer": fastest, "ratio_to_peer": ratios}


def contenders_table(found: Mapping[str, Any]) -> str:
    """The contenders with their speed, memory and ratio, in Markdown."""
    from utils.tables import in_markdown  # workers in the peers' environments import this file

    lines = []
    for name, row in found["contenders"].items():
        label = row["label"] if row["precision"] == FLOAT32 else f"{row['label']} (another precision)"
        ratio = found.get("ratio_to_peer", {}).get(name)
        times = "" if ratio is None else f"{ratio:.2f} times"
        lines.append([label, f"{row['value']:,g}", f"{row['peak_gb']:.2f}", times])
    return in_markdown([["", found["unit"], "peak GB", "ours is"], *lines])
