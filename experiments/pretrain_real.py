"""Train strategies on one corpus with several seeds, a few runs at a time with one core each.

    python -m experiments.pretrain_real --config configs/pretrain/real4.yaml --corpus DIR --output DIR

Each run is <output>/<strategy>-<seed>. The same command again goes on where runs were stopped; a finished one
is not run again. Further flags (`--optimizer.tokens 1000000`) go to every run.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.errors import UserError, run

STRATEGIES = {"mmlm": ["mmlm"], "mmlm+tlm": ["mmlm", "tlm"], "full": ["mmlm", "tlm", "camlm", "btmlm"]}


def is_finished(output: Path) -> bool:
    """Whether a run has written its result, which it does last."""
    return (output / "encoder" / "model.safetensors").is_file()


class Runs:
    """Processes that are going on. In a `with` statement, SIGTERM and Ctrl-C ask them to save and end."""

    def __init__(self, common: Sequence[str]):
        self.common = list(common)
        self.processes: list[subprocess.Popen] = []
        self.stopped = False

    def __enter__(self) -> "Runs":
        self.before = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stop(self, *_) -> None:
        """Start no more, and ask those that are going on to end."""
        self.stopped = True
        for process in self.processes:
            if process.poll() is None:
                process.terminate()

    def carry_out(self, output: Path, strategy: str, seed: int) -> None:
        """One run from where it stands to its end; its lines are printed with its name before them."""
        if self.stopped:
            return
        if is_finished(output):
            # One write with its line end: two runs print side by side.
            print(f"{output.name}: finished before\n", end="", flush=True)
            return
        active = ", ".join(STRATEGIES[strategy])
        flags = ["--run.output", str(output), "--run.seed", str(seed), "--objectives.active", f"[{active}]"]
        process = subprocess.Popen(
            [sys.executable, "run_pretrain.py", *self.common, *flags],
            env={"OMP_NUM_THREADS": "1", **os.environ},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.processes.append(process)
        if self.stopped:  # meanwhile
            process.terminate()
        for line in process.stdout:
            print(f"{output.name}: {line}", end="", flush=True)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--at_once", type=int, default=2)
    args, flags = parser.parse_known_args()
    chosen = [(strategy, seed) for strategy in args.strategies for seed in args.seeds]
    jobs = {args.output / f"{strategy}-{seed}": (strategy, seed) for strategy, seed in chosen}
    common = ["--config", args.config, "--data.corpus", args.corpus, *flags]
    with Runs(common) as runs, ThreadPoolExecutor(args.at_once) as pool:
        for output, (strategy, seed) in jobs.items():
            pool.submit(runs.carry_out, output, strategy, seed)
    unfinished = [output.name for output in jobs if not is_finished(output)]
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; the same command goes on with them")


if __name__ == "__main__":
    run(main)
