"""Work out what a pre-training run needs on many cards, and check the formulae on this machine.

    python benchmarks/plan.py                         small, base and large on 8, 64 and 512 cards
    python benchmarks/plan.py --configs configs/pretrain/large.yaml --cards 16 --precision O2
    python benchmarks/plan.py --measure               peak memory of a base-size step here, beside the formula
    python benchmarks/plan.py --measure --shapes 2x4 6x8 6x8r --vocab 20000

Nothing of the first two is measured. The formulae, in benchmarks/costs.py, are followed through on what is
assumed of a card; by default an NVIDIA A100 80 GB: 312 TFLOP/s in half precision and 600 GB/s of NVLink, 300
each way (its data sheet), 25 GB/s to other machines (200 Gb/s InfiniBand a card), and 35 per cent of the
peak reached. Change what differs on yours.

--measure runs masked-LM steps (those of benchmarks/mlm_step.py: MMLM, float32, dropout, AdamW, clipping) of
each shape, LAYERSxROWS of 128 tokens and "r" for recompute, in a process of its own, after a tiny model that
tells what the process takes without one. Base size takes 7 GB and minutes. The last line is JSON.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import costs
from benchmarks.side_by_side import peak_memory
from utils.config import load_config
from utils.runtime import prepare

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [f"{ROOT}/configs/pretrain/{name}.yaml" for name in ("small", "base", "large")]
GB = 1e9
HIDDEN, HEADS, LENGTH, STEPS = 768, 12, 128, 3
TINY = "1x1"
COLUMNS = ("weights", "gradients", "optimizer", "activations", "logits")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="of run_pretrain.py")
    parser.add_argument("--vocab", type=int, default=250002)
    parser.add_argument("--cards", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1], choices=(0, 1), help="of sharding")
    parser.add_argument("--precision", choices=costs.PRECISIONS, help="default: the configuration's")
    parser.add_argument("--recompute", choices=("true", "false"), help="default: the configuration's")
    parser.add_argument("--attention", choices=("fused", "plain"), default="fused")
    parser.add_argument("--tflops", type=float, default=312, help="a card's peak in the run's precision")
    parser.add_argument("--utilisation", type=float, default=0.35, help="part of the peak that is reached")
    parser.add_argument("--inner_gbs", type=float, default=300, help="GB/s a card sends within a machine")
    parser.add_argument("--outer_gbs", type=float, default=25, help="GB/s a card sends to another machine")
    parser.add_argument("--per_machine", type=int, default=8, help="cards of a machine")
    parser.add_argument("--runtime_gb", type=float, default=2, help="of CUDA, NCCL and Paddle on a card")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--shapes", nargs="+", default=[shape("12x16")], type=shape, metavar="LAYERSxROWS[r]")
    parser.add_argument("--worker", type=shape, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.vocab)
    elif args.measure:
        print(json.dumps({"vocab": args.vocab, "shapes": list(measure(args.shapes, args.vocab))}))
    else:
        print(json.dumps(list(plan(args))))


def shape(text: str) -> tuple[int, int, bool]:
    """ "6x8r" -> 6 layers, 8 rows, recompute."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(r?)", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LAYERSxROWS, such as 12x16, or 12x16r for recompute"
        )
    return int(found[1]), int(found[2]), bool(found[3])


# On paper


def plan(args: argparse.Namespace) -> Iterator[dict]:
    """A row of the Markdown table for each configuration, number of cards and stage of sharding."""
    card = costs.Card(
        args.tflops * 1e12, args.utilisation, args.inner_gbs * GB, args.outer_gbs * GB, args.per_machine
    )
    print("worked out, not measured; GB a card, of the fullest; stage: run.sharding_stage")
    heads = ("run", "cards", "stage", *COLUMNS, "in all", "sent a step", "step, s", "tokens/s", "days")
    print(f"\n| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for path in args.configs:
        size, run = read_run(path, args)
        for cards in args.cards:
            for stage in args.stages:
                found = of_run(size, run, stage, cards, card, args.runtime_gb * GB)
                memory = found["gb"]
                parts = " | ".join(f"{memory[name]:.1f}" for name in COLUMNS)
                print(
                    f"| {Path(path).stem} | {cards} | {stage} | {parts} | {memory['total']:.1f} | "
                    f"{found['sent_gb']:.1f} | {found['seconds']:.2f} | {found['tokens_per_second']:,.0f} | "
                    f"{found['days']:.1f} |"
                )
                yield {"run": Path(path).stem, "cards": cards, "stage": stage} | found
    print()


def read_run(path: str, args: argparse.Namespace) -> tuple[costs.Size, costs.Run]:
    """Shape and run of a configuration."""
    from pretrain.config import PretrainConfig

    config = load_config(PretrainConfig, ["--config", path])
    model, run = config.model, config.run
    size = costs.Size(model.hidden_size, model.num_hidden_layers, model.num_attention_heads, args.vocab)
    precision = args.precision or ("float32" if run.amp == "none" else run.amp_level)
    return size, costs.Run(
        batch=config.optimizer.batch_size,
        length=config.data.max_seq_len,
        micro_batch=max(1, run.micro_batch_tokens // config.data.max_seq_len),
        steps=config.optimizer.steps,
        precision=precision,
        recompute=run.recompute if args.recompute is None else args.recompute == "true",
        fused=args.attention == "fused" and precision != "float32",
    )


def of_run(
    size: costs.Size, run: costs.Run, stage: int, cards: int, card: costs.Card, runtime: float
) -> dict:
    """Memory of the fullest card, communication and time of a step."""
    memory = costs.gpu_memory(size, run, stage, cards, runtime)
    compute, communicate = costs.seconds(size, run, cards, card)
    step = compute + communicate
    return {
        "gb": {name: round(value / GB, 2) for name, value in memory.items()}
        | {"total": round(sum(memory.values()) / GB, 2)},
        "sent_gb": round(costs.communication(size, cards) / GB, 2),
        "compute_seconds": round(compute, 3),
        "communication_seconds": round(communicate, 3),
        "seconds": round(step, 3),
        "tokens_per_second": round(run.batch * run.length / step),
        "days": round(step * run.steps / 86400, 2),
    }


# Here


def measure(shapes: list[tuple[int, int, bool]], vocabulary: int) -> Iterator[dict]:
    """Predicted and measured peak memory of each shape."""
    tiny = shape(TINY)
    base = run_worker(tiny, 100)
    base = base["peak"] - sum(predicted(tiny, 100, base["masked"], 0.0).values())
    print(f"\nthe process without a model: {base / GB:.2f} GB\n")
    heads = ("layers", "rows", "recompute", "predicted, GB", "measured, GB", "off by")
    print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    for layers, rows, recompute in shapes:
        found = run_worker((layers, rows, recompute), vocabulary)
        parts = predicted((layers, rows, recompute), vocabulary, found["masked"], base)
        total = sum(parts.values())
        off = total / found["peak"] - 1
        print(
            f"| {layers} | {rows} | {'yes' if recompute else 'no'} | {total / GB:.2f} | "
            f"{found['peak'] / GB:.2f} | {off:+.1%} |",
            flush=True,
        )
        yield {
            "layers": layers, "rows": rows, "recompute": recompute, "predicted": round(total),
            "measured": found["peak"], "off": round(off, 4),
            "parts_gb": {name: round(value / GB, 3) for name, value in parts.items()},
        }  # fmt: skip
    print()


def predicted(of: tuple[int, int, bool], vocabulary: int, masked: int, base: float) -> dict[str, float]:
    layers, rows, recompute = of
    size = costs.Size(HIDDEN, layers, HEADS, vocabulary, languages=1)
    return costs.cpu_memory(size, rows, LENGTH, masked, recompute, base)


def run_worker(of: tuple[int, int, bool], vocabulary: int) -> dict:
    """What `worker` found, in a process of its own with the settings of all scripts."""
    name = f"{of[0]}x{of[1]}{'r' if of[2] else ''}"
    flags = [str(Path(__file__).resolve()), "--worker", name, "--vocab", str(vocabulary)]
    command = ["sh", "-c", '. scripts/env.sh; exec "$0" "$@"', sys.executable, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the step of {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def worker(of: tuple[int, int, bool], vocabulary: int) -> None:
    """A few steps of masked-LM training; prints the peak memory of this process, as JSON."""
    from benchmarks.mlm_step import mmlm_batches

    prepare(quiet=True)
    from model.ernie_m import ErnieMConfig
    from model.heads import PreTrainingModel
    from pretrain.loss import masked_lm_loss
    from training.engine import Engine
    from training.optimizer import build_optimizer

    layers, rows, recompute = of
    model = PreTrainingModel(ErnieMConfig(vocabulary, HIDDEN, layers, HEADS), ["en"])
    model.ernie_m.recompute = recompute
    engine = Engine(model, build_optimizer(model, 5e-5, weight_decay=0.01), clip_norm=1.0)

    def loss_of(batch):
        return masked_lm_loss(model, batch).total / len(batch.targets), {}

    for _, (batch,) in zip(range(STEPS), mmlm_batches(vocabulary, rows, LENGTH)):
        engine.step([batch], loss_of)
    print(json.dumps({"peak": peak_memory(), "masked": len(batch.targets)}))


if __name__ == "__main__":
    main()
