"""Work out what a pre-training run needs on many cards: memory, communication and time. Nothing is measured.

    python benchmarks/plan.py                         small, base and large on 8, 64 and 512 cards
    python benchmarks/plan.py --configs configs/pretrain/large.yaml --cards 16 --precision O2

By default a card is an NVIDIA A100 80 GB: 312 TFLOP/s in half precision, 600 GB/s of NVLink, which is 300
each way (data sheet), 25 GB/s to other machines (200 Gb/s InfiniBand for each card), and 35 per cent of the
peak reached. Change what differs on yours. The last line is JSON.

Batches are packed: nothing is computed for a pad, and a micro-batch is a row of N tokens of all objectives.
Sequences are taken to be as long as `data.max_seq_len` allows, or as --tokens says. Gradients are summed
after the last backward pass, so nothing overlaps.

Symbols: H hidden size, L layers, V vocabulary, N tokens of a micro-batch, n cards, P parameters. Memory is in
bytes; operations are multiplications and additions.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.config import load_config
from utils.errors import run

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
FLOAT, HALF = 4, 2
OBJECTIVES = 4
POSITIONS, LANGUAGES = 514, 96
MASKED = 0.15  # share of the tokens
LOGITS = 1 << 29  # model/word_table.py: bytes of a chunk of logits
FUSED = 64 << 20  # training/distributed.py: bytes of gradients in one sum
CALL_SECONDS = 30e-6  # what a collective call takes beside its bytes
PARTS = ("weights", "gradients", "optimizer", "activations", "logits")


class NumberSizes(NamedTuple):
    """Bytes of a number: inputs and outputs of products, inputs of layer norms, weights of the model, the
    optimizer's float32 copy of a weight, and the copy of a weight that a product takes."""

    product: int
    norm: int
    weight: int
    master: int
    cast: int


PRECISIONS = {
    "float32": NumberSizes(FLOAT, FLOAT, FLOAT, 0, 0),
    "O1": NumberSizes(HALF, FLOAT, FLOAT, 0, HALF),  # weights in float32, products in half precision
    "O2": NumberSizes(HALF, HALF, HALF, FLOAT, 0),  # weights in half precision, master weights in float32
}


class ModelShape(NamedTuple):
    """The sizes of a model."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    languages: int = LANGUAGES

    @property
    def table(self) -> int:
        """The word table, the largest parameter: V H."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Weights of the layers' products: 4 H^2 of attention, 8 H^2 of the feed-forward pair."""
        return self.layers * 12 * self.hidden**2

    @property
    def trained(self) -> int:
        """Parameters that are trained; pre-training does not use the pooler. Layers have biases and norms
        (13 H), the embeddings a norm, and the head H^2 + 3 H + V."""
        hidden = self.hidden
        tables = self.table + (POSITIONS + self.languages) * hidden + 2 * hidden
        head = hidden**2 + 3 * hidden + self.vocabulary
        return self.matrices + self.layers * 13 * hidden + tables + head


class PlannedRun(NamedTuple):
    """A run as its configuration describes it.

    Attributes:
        batch: sequences of a step, on all cards.
        length: tokens of a sequence.
        micro_batch: most tokens of a micro-batch on a card.
        precision: a key of `PRECISIONS`.
        fused: FlashMask: no scores are kept.
    """

    batch: int
    length: int
    micro_batch: int
    steps: int
    precision: str
    recompute: bool
    fused: bool = True

    def tokens(self, cards: int) -> float:
        """N, tokens of the largest micro-batch on a card."""
        return min(self.micro_batch, self.batch * self.length / cards)


def layer_memory(
    shape: ModelShape, sizes: NumberSizes, columns: float, fused: bool, behind: float = 1.0
) -> float:
    """Bytes that a layer keeps for each token for the backward pass.

    With half precision and plain attention this is 34 H + 5 heads T, as in Korthikanti et al. 2022, "Reducing
    Activation Recomputation in Large Transformer Models", equation 1.

    Args:
        columns: T, the scores of a token.
        behind: share of the tokens for which the part after attention is computed.
    """
    product, hidden = sizes.product, shape.hidden
    # input of q, k and v, and these three; behind attention: its output, input of the feed-forward pair,
    # input and output of gelu (4 each), inputs of two norms, two dropout masks
    kept = product * (1 + 3) + behind * (product * (1 + 1 + 4 + 4) + 2 * sizes.norm + 2 * 1)
    scores = FLOAT * shape.heads if fused else shape.heads * columns * (2 * product + 1)
    return hidden * kept + scores


def memory(shape: ModelShape, run: PlannedRun, stage: int, cards: int, runtime: float) -> dict[str, float]:
    """Memory of the fullest card, by part, in bytes.

    Args:
        stage: of sharding, 0 or 1. Stage 1 divides whole parameters, so the owner of the word table is
            fullest.
        runtime: what CUDA, NCCL and Paddle take.
    """
    sizes, tokens = PRECISIONS[run.precision], run.tokens(cards)
    layer = tokens * layer_memory(shape, sizes, run.length, run.fused)
    last = tokens * layer_memory(shape, sizes, run.length, run.fused, behind=MASKED)
    inputs = shape.layers * tokens * shape.hidden * sizes.norm
    own = shape.trained if stage == 0 else max(shape.table, shape.trained / cards)
    chunk = min(LOGITS, FLOAT * MASKED * tokens * shape.vocabulary)
    return {
        "runtime": runtime,
        "weights": sizes.weight * shape.trained + sizes.cast * shape.matrices,
        "gradients": FLOAT * shape.trained,
        "optimizer": (2 * FLOAT + sizes.master) * own,
        "activations": inputs + layer if run.recompute else (shape.layers - 1) * layer + last,
        # A chunk of logits, of their exponentials and of their gradient; the word table's gradient by the
        # loss, which waits for the backward pass, and the part of one chunk.
        "logits": 3 * chunk + (2 * FLOAT + sizes.product) * shape.table,
    }


def operations(shape: ModelShape, run: PlannedRun) -> float:
    """Operations of a step on all cards: matrix products, forward and backward.

    A layer has 24 H^2 for a token and 4 H for a score; in the last layer 18 of the 24 are for the masked
    positions alone. The head has 2 H (H + V) for a masked position. The backward pass has twice as many;
    the loss makes its gradients in the forward pass. Recompute adds a forward pass of the layers. Stage 1 of
    BTMLM, a quarter of the sequences, adds a forward pass of the layers and a head over a seventh of the
    words.
    """
    hidden, length = shape.hidden, run.length
    encoder = shape.layers * (24 * hidden**2 * length + 4 * hidden * length**2)  # of a sequence
    encoder -= 18 * hidden**2 * length * (1 - MASKED)
    head = 2 * length * MASKED * hidden * (hidden + shape.vocabulary)
    passes = 4 if run.recompute else 3
    return run.batch * (passes * encoder + 3 * head + (encoder + head / 7) / OBJECTIVES)


def communication(shape: ModelShape, stage: int, cards: int) -> tuple[float, int]:
    """Bytes that a card sends in a step, and the number of collective calls.

    Stage 0: fleet's fused all-reduce of the P gradients in float32, a ring: a reduce-scatter and an
    all-gather. Stage 1: `DygraphShardingOptimizer` reduces each gradient to its owner and broadcasts each
    parameter. That sends as many bytes, in two calls for each parameter: 16 of each layer, and 12 others.
    """
    sent = (cards - 1) / cards * 2 * FLOAT * shape.trained
    fused = 1 + math.ceil(FLOAT * (shape.trained - shape.table) / FUSED)  # the word table goes alone
    return sent, 2 * (16 * shape.layers + 12) if stage else fused


def plan(shape: ModelShape, run: PlannedRun, stage: int, cards: int, args: argparse.Namespace) -> dict:
    """Memory of the fullest card, and the time of a step without overlap of computing and communicating."""
    parts = {name: size / GB for name, size in memory(shape, run, stage, cards, args.runtime_gb * GB).items()}
    compute = operations(shape, run) / (cards * args.tflops * 1e12 * args.utilisation)
    sent, calls = communication(shape, stage, cards)
    speed = args.inner_gbs if cards <= args.per_machine else args.outer_gbs
    communicate = sent / GB / speed + calls * CALL_SECONDS
    step = compute + communicate
    return {
        "gb": {name: round(value, 2) for name, value in parts.items()}
        | {"total": round(sum(parts.values()), 2)},
        "sent_gb": round(sent / GB, 2),
        "compute_seconds": round(compute, 3),
        "communication_seconds": round(communicate, 3),
        "seconds": round(step, 3),
        "tokens_per_second": round(run.batch * run.length / step),
        "days": round(step * run.steps / 86400, 2),
    }


def read_run(path: str, args: argparse.Namespace) -> tuple[ModelShape, PlannedRun]:
    """Read a configuration of run_pretrain.py; the flags win."""
    from pretrain.config import PretrainConfig

    config = load_config(PretrainConfig, ["--config", path])
    model, settings = config.model, config.run
    precision = args.precision or ("float32" if settings.amp == "none" else settings.amp_level)
    return ModelShape(
        model.hidden_size, model.num_hidden_layers, model.num_attention_heads, args.vocab
    ), PlannedRun(
        batch=config.optimizer.batch_size,
        length=args.tokens or config.data.max_seq_len,
        micro_batch=settings.micro_batch_tokens,
        steps=config.optimizer.steps,
        precision=precision,
        recompute=settings.recompute if args.recompute is None else args.recompute == "true",
        fused=args.attention == "fused" and precision != "float32",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    configs = [f"{ROOT}/configs/pretrain/{name}.yaml" for name in ("small", "base", "large")]
    add("--configs", nargs="+", default=configs, help="of run_pretrain.py")
    add("--vocab", type=int, default=250002)
    add("--cards", type=int, nargs="+", default=[8, 64, 512])
    add("--stages", type=int, nargs="+", default=[0, 1], choices=(0, 1), help="of sharding")
    add("--tokens", type=int, help="mean tokens of a sequence; default: data.max_seq_len, the most")
    add("--precision", choices=PRECISIONS, help="default: the configuration's")
    add("--recompute", choices=("true", "false"), help="default: the configuration's")
    add("--attention", choices=("fused", "plain"), default="fused")
    add("--tflops", type=float, default=312, help="a card's peak in the precision of the run")
    add("--utilisation", type=float, default=0.35, help="share of the peak that is reached")
    add("--inner_gbs", type=float, default=300, help="GB/s that a card sends within a machine")
    add("--outer_gbs", type=float, default=25, help="GB/s that a card sends to another machine")
    add("--per_machine", type=int, default=8, help="cards of a machine")
    add("--runtime_gb", type=float, default=2, help="of CUDA, NCCL and Paddle on a card")
    args = parser.parse_args()
    heads = ("run", "cards", "stage", *PARTS, "in all", "sent a step", "step, s", "tokens/s", "days")
    print("worked out, not measured; GB on the fullest card; stage: run.sharding_stage")
    print(f"\n| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    rows = []
    for path in args.configs:
        shape, planned = read_run(path, args)
        for cards, stage in ((cards, stage) for cards in args.cards for stage in args.stages):
            found = plan(shape, planned, stage, cards, args)
            rows.append({"run": Path(path).stem, "cards": cards, "stage": stage} | found)
            shown = [f"{found['gb'][name]:.1f}" for name in (*PARTS, "total")]
            shown += [f"{found['sent_gb']:.1f}", f"{found['seconds']:.2f}"]
            shown += [f"{found['tokens_per_second']:,.0f}", f"{found['days']:.1f}"]
            print(f"| {Path(path).stem} | {cards} | {stage} | {' | '.join(shown)} |")
    print(f"\n{json.dumps(rows)}")


if __name__ == "__main__":
    run(main)
