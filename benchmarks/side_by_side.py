"""Training steps of several programs side by side, each in a process of its own environment and settings.

Ours runs in .venv, the peers in .venv-parity, their newest releases in .venv-latest where that exists. A
round runs all contenders, one after the other, and the rounds repeat, so that a change in the machine's load
meets all alike. Reported are medians over the steps of all rounds, and the highest peak memory beyond
weights, gradients and Adam's two moments.

A benchmark gives its contenders and, for each kind, the worker that times it; `main` does the rest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.runtime import read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[1]
BATCH, LENGTH, VOCABULARY = 16, 128, 250002
WARM_UP = 3  # the first steps touch fresh memory

# What the environment is cleared of, so that "as installed" means it.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "GLIBC_TUNABLES",
    "FLAGS_use_stride_kernel",
)
GIGABYTE = 1e9
PINNED, LATEST = ".venv-parity", ".venv-latest"  # environments of the peers


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: in the table.
        kind: which worker runs it.
        tuned: with scripts/env.sh and the variables of utils.runtime; else as installed.
        options: given to the worker.
        environment: where it runs; None: .venv for "ours", .venv-parity for all else.
    """

    label: str
    kind: str
    tuned: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None

    @property
    def python(self) -> Path:
        """The interpreter."""
        default = ".venv" if self.kind == "ours" else PINNED
        return ROOT / (self.environment or default) / "bin/python"


OURS = {
    "ours": Contender("ours", "ours", True),
    "ours_bare": Contender("ours, without scripts/env.sh", "ours", False),
}
TRANSFORMERS = {
    "hf_installed_sdpa": Contender("transformers XLM-R, sdpa", "torch", False, {"attention": "sdpa"}),
    "hf_installed_eager": Contender("transformers XLM-R, eager", "torch", False, {"attention": "eager"}),
    "hf_best_sdpa": Contender(
        "transformers XLM-R, sdpa, tuned", "torch", True, {"attention": "sdpa", "fused": True}
    ),
    "hf_best_eager": Contender(
        "transformers XLM-R, eager, tuned", "torch", True, {"attention": "eager", "fused": True}
    ),
    "hf_best_latest_sdpa": Contender(
        "newest transformers, sdpa, tuned", "torch", True, {"attention": "sdpa", "fused": True}, LATEST
    ),
    "hf_best_latest_eager": Contender(
        "newest transformers, eager, tuned", "torch", True, {"attention": "eager", "fused": True}, LATEST
    ),
}

Worker = Callable[..., None]  # (layers, vocabulary, steps, **options): ends in `time_steps`


def main(
    description: str, contenders: Mapping[str, Contender], workers: Mapping[str, Worker], families: tuple
) -> None:
    """The benchmark's command line.

    Args:
        families: beginnings of contenders' names; the result has our ratio to the fastest peer of each.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each contender in each round")
    parser.add_argument("--contenders", default=",".join(contenders), help="names, separated by commas")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = contenders[args.worker]
        workers[contender.kind](args.layers, args.vocab, args.steps, **contender.options)
        return
    chosen = choose(parser, args.contenders, contenders)
    flags = [f"--layers={args.layers}", f"--vocab={args.vocab}", f"--steps={args.steps}"]
    runs = interleave(chosen, args.rounds, flags, lambda found: f"{speed([found]):8.0f} tokens/s")
    shape = {"layers": args.layers, "vocab": args.vocab, "rounds": args.rounds, "steps": args.steps}
    report({contenders[name].label: of_one for name, of_one in runs.items()})
    print(json.dumps(shape | result(runs, families)))


def choose(
    parser: argparse.ArgumentParser, names: str, contenders: Mapping[str, Contender]
) -> dict[str, Contender]:
    """The contenders of --contenders whose environment is there; of the others it is said."""
    chosen = {}
    for name in names.split(","):
        if name not in contenders:
            parser.error(f"--contenders: no {name}; there are {', '.join(contenders)}")
        if contenders[name].python.exists():
            chosen[name] = contenders[name]
        else:
            print(f"{name} is left out: {contenders[name].python} is not there; sh scripts/setup.sh makes it")
    return chosen


def interleave(
    contenders: Mapping[str, Contender], rounds: int, flags: list[str], shown: Callable[[dict], str]
) -> dict[str, list[dict]]:
    """Name -> what its worker found in each round; a round is all of them, one after the other.

    Args:
        flags: of the workers.
        shown: what was found, for people.
    """
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    for round_ in range(rounds):
        for name, contender in contenders.items():
            runs[name].append(run([f"--worker={name}", *flags], contender))
            print(f"round {round_ + 1} {name:<22} {shown(runs[name][-1])}", flush=True)
    return runs


def run(flags: list[str], contender: Contender) -> dict:
    """What one contender's worker found, in a process of its own."""
    command = [str(contender.python), str(Path(sys.argv[0]).resolve()), *flags]
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    if contender.tuned:
        environment |= settings_for(read_cpu())
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{contender.label} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def time_steps(steps: int, batches: Iterator[tuple], step: Callable, parameters: int) -> None:
    """The worker's last act: run `step(*batch)` a few times and print what was found, as JSON.

    Args:
        steps: that are timed, after WARM_UP others.
        parameters: numbers in the model; all are trained, in float32.
    """
    seconds = []
    for _, batch in zip(range(WARM_UP + steps), batches):
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    kept = parameters * 4 * 4  # weights, gradients, two moments
    print(json.dumps({"seconds": seconds[WARM_UP:], "peak": peak_memory(), "kept": kept}))


def time_xlm_r(
    head: str,
    batches: Iterator[tuple],
    layers: int,
    vocabulary: int,
    steps: int,
    attention: str,
    fused: bool = False,
    **config,
) -> None:
    """`time_steps` of transformers' XLM-R with the given head, on batches of (ids, labels)."""
    import torch
    import transformers

    shape = transformers.XLMRobertaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        attn_implementation=attention,
        **config,
    )
    model = getattr(transformers, f"XLMRobertaFor{head}")(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(input_ids, labels):
        input_ids = torch.from_numpy(input_ids)
        mask = (input_ids != 1).long()
        model(input_ids, attention_mask=mask, labels=torch.from_numpy(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    time_steps(steps, batches, step, sum(parameter.numel() for parameter in model.parameters()))


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


def speed(runs: list[dict]) -> float:
    """Tokens per second by the median step."""
    return BATCH * LENGTH / statistics.median(step for run in runs for step in run["seconds"])


def memory(runs: list[dict]) -> float:
    """GB at the peak beyond weights, gradients and moments."""
    return max(run["peak"] - run["kept"] for run in runs) / GIGABYTE


def report(runs: dict[str, list[dict]]) -> None:
    """The table: a row per contender's label."""
    print(f"\n{'':<36} tokens/s   seconds a step: least, median, most   peak GB    beyond")
    for label, of_one in runs.items():
        seconds = [step for run in of_one for step in run["seconds"]]
        spread = f"{min(seconds):8.2f} {statistics.median(seconds):8.2f} {max(seconds):8.2f}"
        peak = max(run["peak"] for run in of_one) / GIGABYTE
        print(f"{label:<36} {speed(of_one):8.0f}   {spread} {peak:19.2f} {memory(of_one):9.2f}")


def report_sentences(runs: dict[str, list[dict]], labels: Mapping[str, str], sentences: int) -> None:
    """The table of workers that found "seconds" for all sentences, and "peak"."""
    print(f"\n{'':<32} peak GB   sentences/s of each round")
    for name, of_one in runs.items():
        peak = max(one["peak"] for one in of_one) / GIGABYTE
        shown = " ".join(f"{sentences / one['seconds']:8.1f}" for one in of_one)
        print(f"{labels[name]:<32} {peak:7.2f}   {shown}")


def result(runs: dict[str, list[dict]], families: tuple) -> dict:
    """What the last line holds; "ratio" and "memory_ratio" are to the fastest and to the leanest peer."""
    speeds = {name: speed(of_one) for name, of_one in runs.items()}
    beyond = {name: memory(of_one) for name, of_one in runs.items()}
    found: dict[str, Any] = {
        "tokens_per_second": {name: round(value, 1) for name, value in speeds.items()},
        "kept_gb": round(max(run["kept"] for of_one in runs.values() for run in of_one) / GIGABYTE, 2),
        "memory_beyond_gb": {name: round(value, 2) for name, value in beyond.items()},
    }
    peers = [name for name in runs if not name.startswith("ours")]
    if "ours" not in runs or not peers:
        return found
    found["ratio"] = round(speeds["ours"] / max(speeds[name] for name in peers), 2)
    for family in families:
        if members := [name for name in peers if name.startswith(family)]:
            found[f"ratio_to_{family}"] = round(speeds["ours"] / max(speeds[name] for name in members), 2)
    found["memory_ratio"] = round(beyond["ours"] / min(beyond[name] for name in peers), 3)
    return found
