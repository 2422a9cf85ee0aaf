"""Work out what a pre-training run needs: memory, communication, time and speed. Nothing is measured.

The first table has the runs on many cards, the second one the speed of each kind of card. Memory follows
from shapes, time from `benchmarks/estimate.py`. Sequences have `data.max_seq_len` tokens and no pads;
gradients are summed after the last backward pass, over NVLink within a machine of 8 cards and over
InfiniBand, 25 GB/s, between machines. Further options are those of run_pretrain.py and change every run:
--run.micro_batch_tokens 32768.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.estimate import (
    CARDS,
    FLOAT,
    HALF,
    MASKED,
    XNLI_LENGTH,
    XNLI_ROWS,
    Card,
    ModelShape,
    fine_tuning_seconds,
    pretraining_parts,
    pretraining_speed,
)
from benchmarks.recipes import RECIPES
from pretrain.config import PretrainConfig
from utils.command_line import load_config
from utils.errors import run as run_main
from utils.tables import in_markdown

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
# The constants of these names in model/masked_loss.py, which needs Paddle; a test compares them. There the
# memory is what a card of 40 GB reports, here it is what the card is sold with.
LOGITS_BYTES = 1 << 29
MANY_LOGITS_BYTES = 1 << 31
MUCH_MEMORY = 40  # GB
RUNTIME = 2 * GB  # of CUDA, NCCL and Paddle
CARDS_OF_A_MACHINE = 8
BETWEEN_MACHINES = 25  # GB/s
PARTS = ("weights", "gradients", "optimizer", "activations", "logits")
BASE = ModelShape(hidden=768, layers=12, heads=12, vocabulary=250_002)
LARGE = ModelShape(hidden=1024, layers=24, heads=16, vocabulary=250_002)
# With these, base and large leave a sixth of the card's memory free; large needs recompute on cards of 32 GB
# or less.
MICRO_BATCH_TOKENS = {"V100": 8192, "4090": 8192, "A100": 32768, "H100": 32768, "H200": 65536}


class NumberSizes(NamedTuple):
    """Bytes of a number of each kind; 0: there is none."""

    product: int  # inputs and outputs of products
    norm: int  # inputs of layer norms
    weight: int
    master: int  # the optimizer's float32 copy of a weight
    cast: int  # the copy of a weight that a product takes


PRECISIONS = {
    "float32": NumberSizes(product=FLOAT, norm=FLOAT, weight=FLOAT, master=0, cast=0),
    "O1": NumberSizes(product=HALF, norm=HALF, weight=FLOAT, master=0, cast=HALF),
    "O2": NumberSizes(product=HALF, norm=HALF, weight=HALF, master=FLOAT, cast=0),
}


class PlannedRun(NamedTuple):
    """A run as its configuration describes it."""

    batch: int  # sequences of a step, on all cards
    length: int  # tokens of a sequence
    micro_batch: int  # most tokens of a micro-batch on a card
    steps: int
    precision: str  # a key of `PRECISIONS`
    recompute: bool
    fused: bool = True  # FlashMask: no scores are kept
    logits: int = MANY_LOGITS_BYTES  # most bytes of a chunk of logits


def layer_memory(
    shape: ModelShape, sizes: NumberSizes, length: float, fused: bool, after_share: float = 1.0
) -> float:
    """Bytes that a layer keeps for each token for the backward pass.

    With half precision and plain attention this is 34 H + 5 heads T, as in Korthikanti et al. 2022, "Reducing
    Activation Recomputation in Large Transformer Models", equation 1.

    Args:
        length: T, the number of tokens that a token sees.
        fused: whether attention is FlashMask, which keeps one number for each head instead of the scores.
        after_share: the share of the tokens for which the part after attention is computed.
    """
    product = sizes.product
    # the input of q, k and v, and these three
    before_attention = product * (1 + 3)
    # attention's output, the input of the feed-forward pair, the input and output of gelu (4 H wide), the
    # inputs of two norms, two dropout masks
    after_attention = product * (1 + 1 + 4 + 4) + 2 * sizes.norm + 2 * 1
    if fused:
        scores = FLOAT * shape.heads
    else:
        # what softmax returns, dropout's mask, the input of the product with the values
        scores = shape.heads * length * (product + 1 + product)
    return shape.hidden * (before_attention + after_share * after_attention) + scores


def memory(shape: ModelShape, run: PlannedRun, stage: int, cards: int) -> dict[str, float]:
    """Memory of the fullest card, by part, in bytes, without CUDA and its libraries.

    `stage` is that of sharding, 0 or 1. Stage 1 divides the optimizer's state by whole parameters, so the
    owner of the word table is fullest.
    """
    sizes = PRECISIONS[run.precision]
    tokens = min(run.micro_batch, run.batch * run.length / cards)  # of a micro-batch on a card
    layer = tokens * layer_memory(shape, sizes, run.length, run.fused)
    last_layer = tokens * layer_memory(shape, sizes, run.length, run.fused, after_share=MASKED)
    if run.recompute:  # the inputs of all layers, and one layer that is computed again
        inputs = shape.layers * tokens * shape.hidden * sizes.norm
        activations = inputs + layer
    else:
        activations = (shape.layers - 1) * layer + last_layer
    # The number of weights whose moments are on this card.
    in_optimizer = shape.trained if stage == 0 else max(shape.table, shape.trained / cards)
    chunk = min(run.logits, sizes.product * MASKED * tokens * shape.vocabulary)
    return {
        "weights": sizes.weight * shape.trained + sizes.cast * shape.matrices,
        "gradients": FLOAT * shape.trained,
        "optimizer": (2 * FLOAT + sizes.master) * in_optimizer,  # two moments
        "activations": activations,
        # A chunk, in which softmax and gradient take the place of the logits; and at the peak, in the
        # backward pass, three arrays like the word table: its gradients by the loss and by the look-up, and
        # their sum.
        "logits": chunk + 3 * FLOAT * shape.table,
    }


def row(shape: ModelShape, run: PlannedRun, stage: int, cards: int, card: Card) -> list[str]:
    """GB by part and in all, GB sent, seconds of a step, tokens per second and days, as text.

    Args:
        stage: of sharding, 0 or 1.
        cards: how many there are.
        card: the kind of card.
    """
    parts = memory(shape, run, stage, cards)
    tokens = run.batch * run.length
    work = pretraining_parts(
        shape,
        length=run.length,
        micro_batch=run.micro_batch,
        tokens=tokens / cards,
        fused=run.fused,
        recompute=run.recompute,
    )
    seconds = sum(part.seconds(card) for part in work.values())
    # In a ring, a reduce-scatter of the gradients and an all-gather of their sums (stage 1: of the
    # parameters) send all but one of `cards` parts each.
    sent = 2 * (cards - 1) / cards * FLOAT * shape.trained
    link = card.link if cards <= CARDS_OF_A_MACHINE else BETWEEN_MACHINES  # GB/s
    gigabytes_sent = sent / GB
    seconds += gigabytes_sent / link
    amounts = [parts[name] for name in PARTS]
    total = sum(amounts) + RUNTIME
    cells = [f"{amount / GB:.1f}" for amount in (*amounts, total, sent)]
    days = seconds * run.steps / 86400
    return [*cells, f"{seconds:.2f}", f"{tokens / seconds:,.0f}", f"{days:.1f}"]


def speed_table() -> list[list[str]]:
    """The speed of base on each kind of card: pre-training, with the share of each part, and XNLI."""
    lines: list[list[str]] = []
    for name, micro_batch in MICRO_BATCH_TOKENS.items():
        card = CARDS[name]
        speed = pretraining_speed(BASE, length=512, micro_batch=micro_batch, card=card)
        if not lines:
            lines.append(["card", "micro-batch", "tokens/s", "of the peak", *speed.shares, "XNLI, ms a step"])
        shares = [f"{share:.0%}" for share in speed.shares.values()]
        cells = [name, f"{micro_batch:,}", f"{speed.tokens_per_second:,.0f}", f"{speed.share_of_peak:.0%}"]
        tokens = XNLI_ROWS * XNLI_LENGTH
        milliseconds = 1e3 * fine_tuning_seconds(BASE, tokens, XNLI_LENGTH, card)
        # The kernel calls were counted with FlashMask.
        xnli = f"{milliseconds:.0f}" if card.fused else ""
        lines.append([*cells, *shares, xnli])
    return lines


def fine_tuning_memory(shape: ModelShape, tokens: int) -> float:
    """Bytes that fine-tuning with --amp bf16 needs; `tokens` are those of a micro-batch.

    The gradient of the word table has only the rows of the step's words, which are left out.
    """
    sizes = PRECISIONS["O1"]
    weights = sizes.weight * shape.trained + sizes.cast * shape.matrices
    gradients = FLOAT * (shape.trained - shape.table)
    moments = 2 * FLOAT * shape.trained
    activations = tokens * shape.layers * layer_memory(shape, sizes, length=0, fused=True)
    return weights + gradients + moments + activations + RUNTIME


def recipe_table(card: Card) -> list[list[str]]:
    """Minutes and gigabytes of the fine-tuning recipes on one card.

    The card does the micro-batches of all the recipe's devices one after the other. The minutes are those of
    examples of mean length, the gigabytes those of a micro-batch of full length.
    """
    lines = [["recipe", "examples", "tokens each", "base, min", "base, GB", "large, min", "large, GB"]]
    for recipe in RECIPES:
        cells = [recipe.name, f"{recipe.examples:,}", str(recipe.length)]
        tokens = recipe.total_batch * recipe.length
        for shape, epochs in ((BASE, recipe.epochs), (LARGE, recipe.large_epochs)):
            seconds = fine_tuning_seconds(shape, tokens, recipe.length, card, micro_batches=recipe.devices)
            minutes = epochs * recipe.steps_of_an_epoch * seconds / 60
            gigabytes = fine_tuning_memory(shape, tokens=recipe.batch * recipe.max_seq_len) / GB
            cells += [f"{minutes:.0f}", f"{gigabytes:.0f}"]
        lines.append(cells)
    return lines


def read_run(path: str, vocabulary: int, options: list[str], card: Card) -> tuple[ModelShape, PlannedRun]:
    """Read a configuration of run_pretrain.py, with options that change it."""
    config = load_config(PretrainConfig, ["--config", path, *options])
    model = config.model
    shape = ModelShape(
        hidden=model.hidden_size,
        layers=model.num_hidden_layers,
        heads=model.num_attention_heads,
        vocabulary=vocabulary,
    )
    precision = "float32" if config.run.amp == "none" else config.run.amp_level
    run = PlannedRun(
        batch=config.optimizer.batch_size,
        length=config.data.max_seq_len,
        micro_batch=config.run.micro_batch_tokens,
        steps=config.optimizer.steps,
        precision=precision,
        recompute=config.run.recompute,
        fused=card.fused and precision != "float32",
        logits=MANY_LOGITS_BYTES if card.memory >= MUCH_MEMORY else LOGITS_BYTES,
    )
    return shape, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    configs = [f"{ROOT}/configs/pretrain/{name}.yaml" for name in ("small", "base", "large")]
    add("--configs", nargs="+", default=configs, help="of run_pretrain.py")
    add("--cards", type=int, nargs="+", default=[8, 64, 512])
    add("--card", choices=CARDS, default="A100", help="the kind of card")
    add("--vocab", type=int, default=250002)
    args, options = parser.parse_known_args()
    if min(args.cards) < 1:
        parser.error("--cards must be 1 or more")
    print(f"estimated, not measured; {args.card}; GB on the fullest card; stage: run.sharding_stage")
    lines = [["run", "cards", "stage", *PARTS, "in all", "sent a step", "step, s", "tokens/s", "days"]]
    for path in args.configs:
        shape, planned = read_run(path, args.vocab, options, CARDS[args.card])
        for cards in args.cards:
            for stage in (0, 1):
                cells = row(shape, planned, stage, cards, CARDS[args.card])
                lines.append([Path(path).stem, str(cards), str(stage), *cells])
    print(f"\n{in_markdown(lines)}")
    print("\nbase on one card of eight, rows of 512 tokens, bf16 or fp16; XNLI: 32 pairs of 37 tokens")
    print(f"\n{in_markdown(speed_table())}")
    print("\nfine-tuning recipes, training without evaluations, on one card with --amp bf16")
    print(f"\n{in_markdown(recipe_table(CARDS[args.card]))}")


if __name__ == "__main__":
    run_main(main)
