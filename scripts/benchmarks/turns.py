"""Interleaved benchmarks of this project and baselines, each in a process with its own Python packages.

A benchmark calls `compare`. Each baseline alternates with this project by batches, so that a change in the
machine's load affects both.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import format_markdown_table
from ernie_m.utils.paddle_settings import choose_settings, read_cpu

ROOT = Path(__file__).resolve().parents[2]
VENV = ".venv"
PARITY = ".venv-parity"
LATEST = ".venv-latest"
OPTIMUM = ".venv-optimum"
OURS = "ours"
WORK = "work.json"
WARM_UP = 2  # uncounted batches: the first steps allocate memory
REST = 0.3  # seconds before a turn, until the previous contender's threads stop spinning


class Contender(NamedTuple):
    """A system under test: a library and its configuration.

    Attributes:
        load: function of the shared input and `options` that loads the model, and returns a function that
            runs a batch.
        environment: folder of the virtual environment.
        batches: key of the batches in the shared input.
        bfloat16: whether the contender computes in bfloat16, which not every CPU supports.
        options: keyword arguments of `load`.
    """

    load: Callable[..., Callable[[Any], Any]]
    environment: str = VENV
    batches: str = "batches"
    bfloat16: bool = False
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def python(self) -> str:
        """Return the path of the Python interpreter; for this project that of this process."""
        return sys.executable if self.environment == VENV else str(ROOT / self.environment / "bin/python")


def compare(
    module: str,
    contenders: Mapping[str, Contender],
    shared_input: dict[str, Any],
    amount: int,
    unit: str,
    threads: int | None = None,
) -> None:
    """Benchmark all contenders, and print a table and, in the last line, the results as JSON.

    Args:
        module: name of the benchmark's module in this folder, which defines CONTENDERS.
        contenders: name -> contender, including OURS. Contenders that cannot run on this machine are skipped.
        shared_input: shared input, as JSON values: "batches", and other values.
        amount: number of units in all batches, such as pairs.
        unit: name of the speed, such as "pairs/s".
        threads: number of threads of each contender; None: chosen for this machine.

    Raises:
        UserError: a contender failed.
    """
    rivals = [name for name in contenders if name != OURS and can_run(name, contenders[name])]
    count = len(shared_input["batches"])
    rows: dict[str, dict[str, float]] = {OURS: {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / WORK).write_text(json.dumps(shared_input), encoding="utf-8")
        our_worker = stack.enter_context(start_worker(module, OURS, contenders[OURS], folder, threads))
        our_seconds = []  # per rival: our seconds for all batches, interleaved with it
        for name in rivals:
            with start_worker(module, name, contenders[name], folder, threads) as rival:
                workers = {OURS: our_worker, name: rival}
                seconds, peaks = run_alternately(workers, count)
            our_seconds.append(seconds[OURS])
            rows[name] = make_row(amount / seconds[name], peaks[name])
            rows[name]["ours"] = float(f"{amount / seconds[OURS]:.4g}")  # our speed in the same runs
            rows[name]["times"] = round(seconds[name] / seconds[OURS], 2)
            print(f"{name}: {rows[name]} {unit}", flush=True)
        if not rivals:
            seconds, peaks = run_alternately({OURS: our_worker}, count)
            our_seconds.append(seconds[OURS])
    rows[OURS] = make_row(amount / median(our_seconds), peaks[OURS])
    lines = [["", unit, "ours interleaved", "ours is", "peak GB"]]
    for name, row in rows.items():
        comparison = ["", ""] if name == OURS else [f"{row['ours']:,g}", f"{row['times']:.2f} times"]
        lines.append([name, f"{row['speed']:,g}", *comparison, f"{row['peak_gb']:.2f}"])
    print(format_markdown_table(lines))
    results = {"benchmark": module, "unit": unit, "batches": count, "threads": threads, "contenders": rows}
    print(json.dumps(results))


def run_alternately(
    workers: Mapping[str, subprocess.Popen], count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Run all batches, alternating between workers; return seconds and peak memory in bytes by name."""
    seconds = dict.fromkeys(workers, 0.0)
    peaks = {}
    for number in range(-WARM_UP, count):
        is_warm_up = number < 0  # the first batch, which is repeated
        for name, worker in workers.items():
            response = run_batch(name, worker, 0 if is_warm_up else number)
            peaks[name] = response["peak"]
            if not is_warm_up:
                seconds[name] += response["seconds"]
    return seconds, peaks


def make_row(speed: float, peak: float) -> dict[str, float]:
    """Make the result row of a contender, with its speed and its peak memory in GB."""
    return {"speed": float(f"{speed:.4g}"), "peak_gb": round(peak / 1e9, 2)}


def can_run(name: str, contender: Contender) -> bool:
    """Return whether a contender can run on this machine; if not, print the reason."""
    if not Path(contender.python).exists():
        kind = contender.environment.removeprefix(".venv-")
        print(f"skipping {name}: missing {contender.environment} (sh scripts/setup.sh {kind})")
    elif contender.bfloat16 and not read_cpu().flags & {"avx512_bf16", "amx_bf16"}:
        print(f"skipping {name}: this CPU does not support bfloat16")
    else:
        return True
    return False


@contextlib.contextmanager
def start_worker(
    module: str, name: str, contender: Contender, folder: str, threads: int | None = None
) -> Iterator[subprocess.Popen]:
    """Start the worker process of a contender, and kill it at the end of a `with` block."""
    settings = choose_settings(read_cpu())
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # CPU only
    if contender.environment != VENV:  # this project sets them itself
        del settings["KMP_BLOCKTIME"]  # only useful for this project's threads
        environment |= settings
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    contenders = f"{module}.CONTENDERS[{name!r}]"
    code = f"from scripts.benchmarks import {module}, turns; turns.run_worker({contenders}, {folder!r})"
    # The shell sets malloc's environment, and is replaced by Python.
    line = ["sh", "-c", '. scripts/env.sh; exec "$0" -c "$1"', contender.python, code]
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def run_batch(name: str, worker: subprocess.Popen, batch: int) -> dict[str, float]:
    """Make a worker run a batch, after a pause.

    Returns:
        "seconds" of the batch, and "peak", the worker's peak memory so far in bytes.

    Raises:
        UserError: the worker process has ended.
    """
    time.sleep(REST)
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(b"%d\n" % batch)
    response = worker.stdout.readline()
    if not response:
        raise UserError(f"{name} ended with exit code {worker.wait()} (see its messages above)")
    return json.loads(response)


def run_worker(contender: Contender, folder: str) -> None:
    """Main function of a worker process: run and time the batches whose indices are read from stdin."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with results
    shared_input = json.loads((Path(folder) / WORK).read_text(encoding="utf-8"))
    do = contender.load(shared_input, **contender.options)
    for line in sys.stdin:
        batch = shared_input[contender.batches][int(line)]
        start = time.perf_counter()
        do(batch)
        seconds = time.perf_counter() - start
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak": peak}), file=results, flush=True)


RATE = 5e-5
DECAY = 0.01
CLIP_NORM = 1.0


def make_ernie_m_step(
    model: Any,
    compute_loss: Callable[[Any, Any], Any],
    amp: str,
    split_by_work: Callable[[Any], list] = lambda batch: [batch],
) -> Callable[[Any], None]:
    """Return a function that performs a training step of this project on a batch.

    Args:
        compute_loss: model and part of a batch -> contribution of the part to the batch's loss.
        amp: "none" or "bf16".
        split_by_work: splits a batch into parts.
    """
    from ernie_m.model.optimization import build_optimizer
    from ernie_m.training.engine import Engine
    from ernie_m.training.precision import Precision

    optimizer = build_optimizer(model, peak_lr=RATE, weight_decay=DECAY)
    precision = Precision(amp)
    engine = Engine(model.train(), optimizer, clip_norm=CLIP_NORM, precision=precision)

    def train_on_batch(batch: Any) -> None:
        # There are no sums to log.
        engine.step(split_by_work(batch), lambda model, part: (compute_loss(model, part), {}))

    return train_on_batch


def make_torch_step(model: Any, compute_loss: Callable[[Any], Any], bfloat16: bool) -> Callable[[Any], None]:
    """Return a function that performs a training step of torch on a batch.

    Args:
        compute_loss: batch -> loss.
        bfloat16: whether to use bfloat16 autocast.
    """
    import torch

    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def train_on_batch(batch: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            loss = compute_loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return train_on_batch
