"""Time a fine-tuning step on a CPU beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_step.py                       a real run: about 20 minutes, 7 GB of memory
    python benchmarks/finetune_step.py --layers 2 --rounds 1

One step: 16 x 128 tokens, sequence classification with 3 labels, base shape (12 x 768, 250,002 words),
float32, dropout 0.1, gradient clipped to norm 1, AdamW. All tokens are real: peers may drop an all-ones mask.

Each contender runs in a process of its own environment: ours in .venv, the peers in .venv-parity. A round
runs all of them, one after the other, and the rounds repeat, so that a change in the machine's load meets all
alike. Reported is the median over the steps of all rounds. The last line is JSON; "ratio" is our speed over
that of the fastest peer in its best setting.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runtime import prepare, read_cpu, settings_for

ROOT = Path(__file__).resolve().parents[1]
BATCH, LENGTH, LABELS = 16, 128, 3
WARM_UP = 2  # the first steps touch fresh memory

# What the environment is cleared of, so that "as installed" means it.
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "GLIBC_TUNABLES",
    "FLAGS_use_stride_kernel",
)


@dataclass(frozen=True)
class Contender:
    """One program in one setting.

    Attributes:
        label: in the table.
        kind: which of WORKERS runs it.
        tuned: with scripts/env.sh and the variables of utils.runtime; else as installed.
        options: given to the worker.
    """

    label: str
    kind: str
    tuned: bool
    options: dict = field(default_factory=dict)


CONTENDERS = {
    "ours": Contender("ours", "ours", True),
    "ours_bare": Contender("ours, without scripts/env.sh", "ours", False),
    "hf_installed_sdpa": Contender("transformers XLM-R, sdpa", "torch", False, {"attention": "sdpa"}),
    "hf_installed_eager": Contender("transformers XLM-R, eager", "torch", False, {"attention": "eager"}),
    "hf_best_sdpa": Contender(
        "transformers XLM-R, sdpa, tuned", "torch", True, {"attention": "sdpa", "fused": True}
    ),
    "hf_best_eager": Contender(
        "transformers XLM-R, eager, tuned", "torch", True, {"attention": "eager", "fused": True}
    ),
    "paddlenlp_installed": Contender("PaddleNLP ERNIE-M", "paddlenlp", False),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M, tuned", "paddlenlp", True),
}
FAMILIES = ("hf_best", "hf_installed", "paddlenlp_best", "paddlenlp_installed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each contender in each round")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = CONTENDERS[args.worker]
        WORKERS[contender.kind](args.layers, args.steps, **contender.options)
        return
    names = args.contenders.split(",")
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"--contenders: no {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(args.rounds):
        for name in names:
            seconds[name] += run(name, args.layers, args.steps)
            speed = tokens_per_second(seconds[name][-args.steps :])
            print(f"round {round_ + 1} {name:<22} {speed:8.0f} tokens/s", flush=True)
    report(seconds, args.layers)


def run(name: str, layers: int, steps: int) -> list[float]:
    """Seconds of each timed step of one contender, in a process of its own."""
    contender = CONTENDERS[name]
    python = ROOT / (".venv" if contender.kind == "ours" else ".venv-parity") / "bin/python"
    command = [str(python), __file__, f"--worker={name}", f"--layers={layers}", f"--steps={steps}"]
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    if contender.tuned:
        environment |= settings_for(read_cpu())
        command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tokens_per_second(seconds: list[float]) -> float:
    return BATCH * LENGTH / statistics.median(seconds)


def report(seconds: dict[str, list[float]], layers: int) -> None:
    speeds = {name: tokens_per_second(times) for name, times in seconds.items()}
    print(f"\n{'':<36} tokens/s   seconds a step: least, median, most")
    for name, times in seconds.items():
        spread = f"{min(times):8.2f} {statistics.median(times):8.2f} {max(times):8.2f}"
        print(f"{CONTENDERS[name].label:<36} {speeds[name]:8.0f}   {spread}")
    result = {"layers": layers, "steps": max(map(len, seconds.values()))}
    result["tokens_per_second"] = {name: round(speed, 1) for name, speed in speeds.items()}
    for family in ("", *FAMILIES):
        peers = [speed for name, speed in speeds.items() if name.startswith(family) and name[:4] != "ours"]
        if peers and "ours" in speeds:
            result[f"ratio_to_{family}" if family else "ratio"] = round(speeds["ours"] / max(peers), 2)
    print(json.dumps(result))


def random_batches() -> Iterator[tuple]:
    """Endless (ids [16, 128], labels [16])."""
    import numpy as np

    rng = np.random.default_rng(0)
    while True:
        input_ids = rng.integers(4, 250002, [BATCH, LENGTH])
        input_ids[:, 0], input_ids[:, -1] = 0, 2
        yield input_ids, rng.integers(0, LABELS, BATCH)


def time_steps(steps: int, step: Callable) -> None:
    """Run `step(ids, labels)` a few times and print the seconds of all but the first ones, as JSON."""
    seconds = []
    for _, (input_ids, labels) in zip(range(WARM_UP + steps), random_batches()):
        start = time.perf_counter()
        step(input_ids, labels)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[WARM_UP:]))


def ours(layers: int, steps: int) -> None:
    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.ernie_m import ErnieMConfig
    from model.heads import SequenceClassifier
    from model.optimization import build_optimizer
    from utils.engine import Engine

    model = SequenceClassifier(ErnieMConfig(250002, 768, layers, 12), LABELS)
    engine = Engine(model, build_optimizer(model, 5e-5, weight_decay=0.01, clip_norm=None), clip_norm=1.0)

    def loss_of(batch):
        input_ids, labels = (paddle.to_tensor(array) for array in batch)
        return F.cross_entropy(model(input_ids), labels), {}

    time_steps(steps, lambda *batch: engine.step([batch], loss_of))


def torch_xlm_r(layers: int, steps: int, attention: str, fused: bool = False) -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    config = XLMRobertaConfig(
        vocab_size=250002,
        num_hidden_layers=layers,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=LABELS,
        pad_token_id=1,
        attn_implementation=attention,
    )
    model = XLMRobertaForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(input_ids, labels):
        input_ids = torch.from_numpy(input_ids)
        mask = (input_ids != 1).long()
        model(input_ids, attention_mask=mask, labels=torch.from_numpy(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    time_steps(steps, step)


def paddlenlp_ernie_m(layers: int, steps: int) -> None:
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(num_hidden_layers=layers, num_labels=LABELS)
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(5e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)

    def step(input_ids, labels):
        input_ids = paddle.to_tensor(input_ids)
        mask = (input_ids != 1).astype("int64")
        F.cross_entropy(model(input_ids, attention_mask=mask), paddle.to_tensor(labels)).backward()
        optimizer.step()
        optimizer.clear_grad()

    time_steps(steps, step)


WORKERS = {"ours": ours, "torch": torch_xlm_r, "paddlenlp": paddlenlp_ernie_m}

if __name__ == "__main__":
    main()
