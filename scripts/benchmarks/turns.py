"""Programs that do the same work in turns, each in a process with its own packages.

A benchmark calls `compare`. Each rival is in memory together with ours, and the two alternate by batches,
so that a change in the load of the machine meets both.
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
from ernie_m.utils.logging import in_markdown
from ernie_m.utils.paddle_settings import read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[2]
VENV = ".venv"
PARITY = ".venv-parity"
LATEST = ".venv-latest"
OPTIMUM = ".venv-optimum"
OURS = "ours"
WORK = "work.json"
WARM_UP = 2  # batches that are not counted: the first steps touch fresh memory
REST = 0.3  # seconds before a turn, while the threads of the contender before stop spinning


class Contender(NamedTuple):
    """One program in one setting.

    Attributes:
        start: a function of what is given to all contenders, and of `options`; it loads the weights, and
            returns a function that does a batch.
        environment: the folder of its Python.
        batches: the key of its batches in what is given.
        bfloat16: whether it multiplies in bfloat16, which not every CPU can.
    """

    start: Callable[..., Callable[[Any], Any]]
    environment: str = VENV
    batches: str = "batches"
    bfloat16: bool = False
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def python(self) -> str:
        """Return the Python that runs it; ours is that of this program."""
        return sys.executable if self.environment == VENV else str(ROOT / self.environment / "bin/python")


def compare(
    module: str,
    contenders: Mapping[str, Contender],
    given: dict[str, Any],
    amount: int,
    unit: str,
    threads: int | None = None,
) -> None:
    """Let the contenders do all batches, and print a table and, as the last line, its figures in JSON.

    Args:
        module: the name of the benchmark in this folder, which has the contenders as CONTENDERS.
        contenders: name -> contender, OURS among them. One that cannot run here is left out.
        given: JSON values: "batches", and whatever else the contenders need.
        amount: the number of units in all batches, such as pairs.
        threads: the number of threads of each contender; None: what suits this machine.

    Raises:
        UserError: a contender failed.
    """
    rivals = [name for name in contenders if name != OURS and can_run(name, contenders[name])]
    count = len(given["batches"])
    rows: dict[str, dict[str, float]] = {OURS: {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / WORK).write_text(json.dumps(given), encoding="utf-8")
        ours = stack.enter_context(started(module, OURS, contenders[OURS], folder, threads))
        our_seconds = []  # for each rival: our seconds for all batches, run next to it
        for name in rivals:
            with started(module, name, contenders[name], folder, threads) as rival:
                workers = {OURS: ours, name: rival}
                seconds, peaks = alternate(workers, count)
            our_seconds.append(seconds[OURS])
            rows[name] = row_of(amount / seconds[name], peaks[name])
            rows[name]["ours"] = float(f"{amount / seconds[OURS]:.4g}")  # our speed in the same turns
            rows[name]["times"] = round(seconds[name] / seconds[OURS], 2)
            print(f"{name}: {rows[name]} {unit}", flush=True)
        if not rivals:
            seconds, peaks = alternate({OURS: ours}, count)
            our_seconds.append(seconds[OURS])
    rows[OURS] = row_of(amount / median(our_seconds), peaks[OURS])
    lines = [["", unit, "ours beside it", "ours is", "peak GB"]]
    for name, row in rows.items():
        beside = ["", ""] if name == OURS else [f"{row['ours']:,g}", f"{row['times']:.2f} times"]
        lines.append([name, f"{row['speed']:,g}", *beside, f"{row['peak_gb']:.2f}"])
    print(in_markdown(lines))
    figures = {"benchmark": module, "unit": unit, "batches": count, "threads": threads, "contenders": rows}
    print(json.dumps(figures))


def alternate(
    workers: Mapping[str, subprocess.Popen], count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Let contenders do all batches in turns. Returns the seconds and the largest memory in bytes of each."""
    seconds = dict.fromkeys(workers, 0.0)
    peaks = {}
    for number in range(-WARM_UP, count):
        is_warm_up = number < 0  # the first batch, which is done again afterwards
        for name, worker in workers.items():
            answer = turn(name, worker, 0 if is_warm_up else number)
            peaks[name] = answer["peak"]
            if not is_warm_up:
                seconds[name] += answer["seconds"]
    return seconds, peaks


def row_of(speed: float, peak: float) -> dict[str, float]:
    """Return the figures of a contender."""
    return {"speed": float(f"{speed:.4g}"), "peak_gb": round(peak / 1e9, 2)}


def can_run(name: str, contender: Contender) -> bool:
    """Return whether a contender can run here; prints why not."""
    if not Path(contender.python).exists():
        kind = contender.environment.removeprefix(".venv-")
        print(f"{name} is left out: sh scripts/setup.sh {kind} makes its {contender.environment}")
    elif contender.bfloat16 and not read_cpu().flags & {"avx512_bf16", "amx_bf16"}:
        print(f"{name} is left out: this CPU does not multiply in bfloat16")
    else:
        return True
    return False


@contextlib.contextmanager
def started(
    module: str, name: str, contender: Contender, folder: str, threads: int | None = None
) -> Iterator[subprocess.Popen]:
    """The process of a contender, which waits for turns; it is killed in the end."""
    settings = settings_for(read_cpu())
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # all of them compute on the CPU
    if contender.environment != VENV:  # ours makes the settings itself
        del settings["KMP_BLOCKTIME"]  # it helps threads that only ours has
        environment |= settings
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    contenders = f"{module}.CONTENDERS[{name!r}]"
    code = f"from scripts.benchmarks import {module}, turns; turns.work({contenders}, {folder!r})"
    # The shell makes the settings of malloc, and Python takes its place.
    line = ["sh", "-c", '. scripts/env.sh; exec "$0" -c "$1"', contender.python, code]
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def turn(name: str, worker: subprocess.Popen, batch: int) -> dict[str, float]:
    """Let a contender do a batch. Returns its "seconds", and "peak", its largest memory so far, in bytes.

    Raises:
        UserError: it has ended.
    """
    time.sleep(REST)
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.write(b"%d\n" % batch)
    answer = worker.stdout.readline()
    if not answer:
        raise UserError(f"{name} ended with exit code {worker.wait()}; its own messages are above")
    return json.loads(answer)


def work(contender: Contender, folder: str) -> None:
    """The process of a contender. Each line of its input is the number of a batch to do and to time."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    given = json.loads((Path(folder) / WORK).read_text(encoding="utf-8"))
    do = contender.start(given, **contender.options)
    for line in sys.stdin:
        batch = given[contender.batches][int(line)]
        start = time.perf_counter()
        do(batch)
        seconds = time.perf_counter() - start
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "peak": peak}), file=answers, flush=True)


RATE = 5e-5
DECAY = 0.01
CLIP_NORM = 1.0


def our_step(
    model: Any,
    loss_of: Callable[[Any, Any], Any],
    amp: str,
    in_shares: Callable[[Any], list] = lambda batch: [batch],
) -> Callable[[Any], None]:
    """Return a function of a batch that does a step.

    Args:
        loss_of: the part of a model and a share in the loss of its batch.
        in_shares: the shares of a batch.
        amp: "none" or "bf16".
    """
    from ernie_m.model.optimization import build_optimizer
    from ernie_m.training.engine import Engine
    from ernie_m.training.precision import Precision

    optimizer = build_optimizer(model, peak_lr=RATE, weight_decay=DECAY)
    precision = Precision(amp)
    engine = Engine(model.train(), optimizer, clip_norm=CLIP_NORM, precision=precision)

    def step(batch: Any) -> None:
        engine.step(in_shares(batch), lambda model, part: (loss_of(model, part), {}))  # no sums to log

    return step


def torch_step(model: Any, loss_of: Callable[[Any], Any], bfloat16: bool) -> Callable[[Any], None]:
    """Return the same with torch. `bfloat16`: whether products are in bfloat16 (autocast)."""
    import torch

    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def step(batch: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step
