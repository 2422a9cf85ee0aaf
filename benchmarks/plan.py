"""Work out what a pre-training run needs on many cards: memory, communication and time. Nothing is measured.

By default a card is an NVIDIA A100 80 GB: 312 TFLOP/s in half precision, 300 GB/s each way within a machine
of 8 (NVLink, data sheet), 25 GB/s to others (InfiniBand), 35 per cent of the peak reached. Sequences have
`data.max_seq_len` tokens and no pads; gradients are summed after the last backward pass.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.config import PretrainConfig
from utils.command_line import load_config
from utils.errors import run as run_main
from utils.tables import in_markdown

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
FLOAT = 4  # bytes
HALF = 2
POSITIONS = 514
LANGUAGES = 96
MASKED = 0.15  # share of the tokens
LOGITS = 1 << 29  # model/masked_loss.py: bytes of a chunk of logits
RUNTIME = 2 * GB  # of CUDA, NCCL and Paddle
CARDS_OF_A_MACHINE = 8
PARTS = ("weights", "gradients", "optimizer", "activations", "logits")


class Card(NamedTuple):
    """A GPU, by its data sheet."""

    tflops: float  # dense products in half precision
    bandwidth: float  # of its memory, GB/s
    memory: float  # GB
    link: float  # to another card of the machine, GB/s each way


CARDS = {
    "V100": Card(125, 900, 32, 150),
    "A100": Card(312, 2039, 80, 300),
    "H100": Card(989, 3350, 80, 450),
    "H200": Card(989, 4800, 141, 450),
    "4090": Card(165, 1008, 24, 32),
    "L4": Card(121, 300, 24, 32),
}  # fmt: skip


class NumberSizes(NamedTuple):
    """Bytes of a number."""

    product: int  # inputs and outputs of products
    norm: int  # inputs of layer norms
    weight: int
    master: int  # the optimizer's float32 copy of a weight
    cast: int  # the copy of a weight that a product takes


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
        """Weights of the word table, the largest parameter."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Weights of the layers' products: 4 H^2 of attention, 8 H^2 of the feed-forward pair."""
        return self.layers * 12 * self.hidden**2

    @property
    def trained(self) -> int:
        """Parameters that are trained. Layers have biases and norms (13 H); the pooler is not used."""
        hidden = self.hidden
        tables = self.table + (POSITIONS + self.languages) * hidden + 2 * hidden
        head = hidden**2 + 3 * hidden + self.vocabulary
        return self.matrices + self.layers * 13 * hidden + tables + head


class PlannedRun(NamedTuple):
    """A run as its configuration describes it."""

    batch: int  # sequences of a step, on all cards
    length: int  # tokens of a sequence
    micro_batch: int  # most tokens of a micro-batch on a card
    steps: int
    precision: str  # a key of `PRECISIONS`
    recompute: bool
    fused: bool = True  # FlashMask: no scores are kept


def layer_memory(
    shape: ModelShape, sizes: NumberSizes, columns: float, fused: bool, behind: float = 1.0
) -> float:
    """Bytes that a layer keeps for each token for the backward pass; `columns` is T, the scores of a token.

    With half precision and fused attention the first part is 34 H, as in Korthikanti et al. 2022, "Reducing
    Activation Recomputation in Large Transformer Models", equation 1. Without it a score takes 7 bytes there,
    not that equation's 5, because Paddle's softmax is float32 in mixed precision. The part after attention is
    computed for the share `behind` of the tokens.
    """
    product = sizes.product
    # the input of q, k and v, and these three
    before_attention = product * (1 + 3)
    # its output, the input of the feed-forward pair, the input and output of gelu (4 each), the inputs of two
    # norms, two dropout masks
    after_attention = product * (1 + 1 + 4 + 4) + 2 * sizes.norm + 2 * 1
    if fused:
        scores = FLOAT * shape.heads
    else:
        # what softmax returns, dropout's mask, the input of the product with the values
        scores = shape.heads * columns * (FLOAT + 1 + product)
    return shape.hidden * (before_attention + behind * after_attention) + scores


def memory(shape: ModelShape, run: PlannedRun, stage: int, cards: int) -> dict[str, float]:
    """Memory of the fullest card, by part, in bytes, without CUDA and its libraries.

    Stage 1 of sharding divides whole parameters, so the owner of the word table is fullest.
    """
    sizes = PRECISIONS[run.precision]
    tokens = min(run.micro_batch, run.batch * run.length / cards)
    layer = tokens * layer_memory(shape, sizes, run.length, run.fused)
    last = tokens * layer_memory(shape, sizes, run.length, run.fused, behind=MASKED)
    inputs = shape.layers * tokens * shape.hidden * sizes.norm
    in_optimizer = shape.trained if stage == 0 else max(shape.table, shape.trained / cards)
    chunk = min(LOGITS, FLOAT * MASKED * tokens * shape.vocabulary)
    # At the peak, in the backward pass: the word table's gradient by the loss, its product with the factor
    # from above, and the gradient by the look-up. In mixed precision also the table that the products take,
    # the gradient of a chunk, and that of the one before, which the allocator still holds.
    table_copies = 3 * FLOAT + (3 * sizes.product if sizes.product < FLOAT else 0)
    return {
        "weights": sizes.weight * shape.trained + sizes.cast * shape.matrices,
        "gradients": FLOAT * shape.trained,
        "optimizer": (2 * FLOAT + sizes.master) * in_optimizer,
        "activations": inputs + layer if run.recompute else (shape.layers - 1) * layer + last,
        # a chunk of logits, of their exponentials and of their gradient
        "logits": 3 * chunk + table_copies * shape.table,
    }


def operations(shape: ModelShape, run: PlannedRun) -> float:
    """Operations of a step on all cards: matrix products, forward and backward (twice as many).

    A layer needs 24 H^2 per token and 4 H per score; in the last layer, 18 of the 24 H^2 are needed only at
    masked positions. The head needs 2 H (H + V) per masked position. Recompute adds a forward pass. Stage 1
    of BTMLM adds one over a quarter of the sequences, with a head over a seventh of the words.
    """
    hidden = shape.hidden
    length = run.length
    encoder = shape.layers * (24 * hidden**2 * length + 4 * hidden * length**2)  # of a sequence
    encoder -= 18 * hidden**2 * length * (1 - MASKED)
    head = 2 * length * MASKED * hidden * (hidden + shape.vocabulary)
    passes = 4 if run.recompute else 3
    return run.batch * (passes * encoder + 3 * head + (encoder + head / 7) / 4)


def row(shape: ModelShape, run: PlannedRun, stage: int, cards: int, args: argparse.Namespace) -> list[str]:
    """GB by part and in all, GB sent, seconds of a step, tokens per second and days, as text."""
    parts = memory(shape, run, stage, cards)
    compute = operations(shape, run) / (cards * args.tflops * 1e12 * args.utilisation)
    # A ring: a reduce-scatter of the gradients, and an all-gather of the sums (stage 1: of the parameters).
    sent = (cards - 1) / cards * 2 * FLOAT * shape.trained
    speed = args.inner_gbs if cards <= CARDS_OF_A_MACHINE else args.outer_gbs
    seconds = compute + sent / GB / speed
    amounts = [parts[name] for name in PARTS]
    amounts += [sum(amounts) + RUNTIME, sent]
    cells = [f"{amount / GB:.1f}" for amount in amounts]
    tokens_per_second = run.batch * run.length / seconds
    days = seconds * run.steps / 86400
    return [*cells, f"{seconds:.2f}", f"{tokens_per_second:,.0f}", f"{days:.1f}"]


def read_run(path: str, vocabulary: int) -> tuple[ModelShape, PlannedRun]:
    """Read a configuration of run_pretrain.py."""
    config = load_config(PretrainConfig, ["--config", path])
    model = config.model
    shape = ModelShape(model.hidden_size, model.num_hidden_layers, model.num_attention_heads, vocabulary)
    precision = "float32" if config.run.amp == "none" else config.run.amp_level
    run = PlannedRun(
        batch=config.optimizer.batch_size,
        length=config.data.max_seq_len,
        micro_batch=config.run.micro_batch_tokens,
        steps=config.optimizer.steps,
        precision=precision,
        recompute=config.run.recompute,
        fused=precision != "float32",
    )
    return shape, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    configs = [f"{ROOT}/configs/pretrain/{name}.yaml" for name in ("small", "base", "large")]
    add("--configs", nargs="+", default=configs, help="of run_pretrain.py")
    add("--cards", type=int, nargs="+", default=[8, 64, 512])
    add("--vocab", type=int, default=250002)
    add("--tflops", type=float, default=312, help="a card's peak in the precision of the run")
    add("--utilisation", type=float, default=0.35, help="share of the peak that is reached")
    add("--inner_gbs", type=float, default=300, help="GB/s that a card sends within a machine")
    add("--outer_gbs", type=float, default=25, help="GB/s that a card sends to another machine")
    args = parser.parse_args()
    if min(args.cards) < 1:
        parser.error("--cards must be 1 or more")
    print("worked out, not measured; GB on the fullest card; stage: run.sharding_stage")
    lines = [["run", "cards", "stage", *PARTS, "in all", "sent a step", "step, s", "tokens/s", "days"]]
    for path in args.configs:
        shape, planned = read_run(path, args.vocab)
        for cards in args.cards:
            for stage in (0, 1):
                cells = row(shape, planned, stage, cards, args)
                lines.append([Path(path).stem, str(cards), str(stage), *cells])
    print(f"\n{in_markdown(lines)}")


if __name__ == "__main__":
    run_main(main)
