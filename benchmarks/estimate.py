"""Estimate what training needs on GPUs: memory, bytes sent, speed and hours. Nothing is measured.

The tables: pre-training runs on many cards; base on each kind of card; a step of XNLI; the fine-tuning
recipes. Further options are those of run_pretrain.py and change every run: --run.micro_batch_tokens 32768.

Sequences have `data.max_seq_len` tokens and no pads. Gradients are summed after the last backward pass, over
NVLink within a machine of 8 cards and over InfiniBand, 25 GB/s, between machines.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.counts import (
    BASE,
    CARDS,
    FLOAT,
    GB,
    LARGE,
    LOGITS_BYTES,
    MANY_LOGITS_BYTES,
    MUCH_MEMORY,
    RUNTIME,
    Card,
    ModelShape,
    PlannedRun,
    fine_tuning_memory,
    fine_tuning_step,
    memory,
    pretraining_parts,
    seconds_of,
)
from pretrain.config import PretrainConfig
from utils.command_line import load_config
from utils.errors import UserError
from utils.errors import run as run_main
from utils.tables import in_markdown

ROOT = Path(__file__).resolve().parents[1]
CARDS_OF_A_MACHINE = 8
BETWEEN_MACHINES = 25  # GB/s
TRUST = 0.27
TRUST_SENTENCE = (
    f"Trust times and speeds to ± {TRUST:.0%}: no card has run this, each share of a card's peak that is "
    "assumed to be reached may be wrong by a fifth, and the time in which FlashMask skips a block by half."
)
XNLI_ROWS = 32  # of a step: two devices with 16
XNLI_LENGTH = 37  # tokens, in the mean
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits")


# The scripts of scripts/base and scripts/large, and what they train on:
#   the name of the script,
#   the examples of the training set, as its authors published it; of MLQA windows of SQuAD 1.1; of Tatoeba
#   pairs of sentences in all 200,000 steps,
#   tokens of an example in the mean: XNLI 37, PAWS-X 58 and windows of questions 191 were counted on public
#   samples with a vocabulary of 128,000 pieces; the others are assumed,
#   the devices for which the recipe is written, and --batch_size, for each device,
#   --max_seq_len; of Tatoeba, whose examples are two sequences, twice that,
#   epochs of base and of large.
RECIPES = (
    ("xnli_cross_lingual_transfer", 392_702, 37, 2, 16, 256, 5, 5),
    ("xnli_translate-train_all", 15 * 392_702, 37, 8, 16, 256, 2, 1),
    ("pawsx_cross_lingual_transfer", 49_401, 58, 2, 32, 256, 10, 10),
    ("pawsx_translate-train_all", 7 * 49_401, 58, 2, 32, 256, 2, 2),
    ("mlqa_cross_lingual_transfer", 92_000, 191, 2, 16, 384, 2, 2),
    ("conll_cross_lingual_transfer", 14_041, 20, 1, 8, 512, 10, 10),
    ("conll_finetune_on_all_dataset", 50_322, 20, 1, 8, 512, 10, 10),
    ("panx_cross_lingual_transfer", 20_000, 13, 1, 8, 512, 10, 10),
    ("tatoeba_fine-tuning", 200_000 * 32, 50, 1, 32, 2 * 512, 1, 1),
)


def run_cells(shape: ModelShape, run: PlannedRun, stage: int, cards: int, card: Card) -> list[str]:
    """The numbers of a run, as text: GB by part and in all, GB sent, seconds of a step, tokens/s and hours.

    Args:
        stage: of sharding, 0 or 1.
        cards: how many there are.
        card: the kind of card.
    """
    parts = memory(shape, run, stage, cards)
    # In a ring, a reduce-scatter of the gradients and an all-gather of their sums (stage 1: of the
    # parameters) send all but one of `cards` parts each.
    sent = 2 * (cards - 1) / cards * FLOAT * shape.trained
    link = card.link if cards <= CARDS_OF_A_MACHINE else BETWEEN_MACHINES
    seconds = sum(seconds_of(pretraining_parts(shape, run, cards), card).values()) + sent / (link * GB)
    amounts = [*(parts[name] for name in MEMORY_PARTS), sum(parts.values()) + RUNTIME, sent]
    return [
        *(f"{amount / GB:.1f}" for amount in amounts),
        f"{seconds:.2f}",
        rounded(run.batch * run.length / seconds),
        f"{seconds * run.steps / 3600:.0f}",
    ]


def rounded(value: float) -> str:
    """A number with three digits before its zeros: there are no more to trust."""
    return f"{float(f'{value:.3g}'):,.0f}"


def speed_table() -> list[list[str]]:
    """Base on one of eight cards of each kind: speed, share of the peak, and the share of each part."""
    lines: list[list[str]] = []
    for name, card in CARDS.items():
        options = ["--run.micro_batch_tokens", str(card.micro_batch)]
        shape, run = read_run(f"{ROOT}/configs/pretrain/base.yaml", options, card)
        parts = pretraining_parts(shape, run, CARDS_OF_A_MACHINE)
        times = seconds_of(parts, card)
        total = sum(times.values())
        computed = sum(work.products + work.attention for work in parts.values())
        if not lines:
            lines.append(["card", "micro-batch", "tokens/s", "of the peak", *times])
        cells = [name, f"{card.micro_batch:,}"]
        cells.append(rounded(run.batch * run.length / CARDS_OF_A_MACHINE / total))
        cells.append(f"{computed / total / (card.tflops * 1e12):.0%}")
        lines.append(cells + [f"{seconds / total:.0%}" for seconds in times.values()])
    return lines


def xnli_table() -> list[list[str]]:
    """Milliseconds of a step of XNLI with base on each kind of card: the host's, and of each part."""
    lines: list[list[str]] = []
    for name, card in CARDS.items():
        if not card.fused:  # the kernel calls were counted with FlashMask
            continue
        host, parts = fine_tuning_step(BASE, XNLI_ROWS * XNLI_LENGTH, XNLI_LENGTH, card)
        if not lines:
            lines.append(["card", "step", "host", "card's work", *parts])
        work = sum(parts.values())
        lines.append(
            [name, *(f"{1e3 * value:.1f}" for value in (max(host, work), host, work, *parts.values()))]
        )
    return lines


def recipe_table(card: Card) -> list[list[str]]:
    """Minutes and gigabytes of the fine-tuning recipes on one card.

    The card does the micro-batches of all the recipe's devices one after the other. The minutes are those of
    examples of mean length, the gigabytes those of a micro-batch of full length.
    """
    lines = [["recipe", "examples", "tokens each", "base, min", "base, GB", "large, min", "large, GB"]]
    for name, examples, length, devices, batch, max_seq_len, base_epochs, large_epochs in RECIPES:
        cells = [name, f"{examples:,}", str(length)]
        rows = devices * batch  # of a step
        for shape, epochs in ((BASE, base_epochs), (LARGE, large_epochs)):
            host, parts = fine_tuning_step(shape, rows * length, length, card, micro_batches=devices)
            steps = epochs * math.ceil(examples / rows)
            minutes = steps * max(host, sum(parts.values())) / 60
            gigabytes = fine_tuning_memory(shape, tokens=batch * max_seq_len) / GB
            cells += [f"{minutes:.0f}", f"{gigabytes:.0f}"]
        lines.append(cells)
    return lines


def read_run(path: str, options: list[str], card: Card) -> tuple[ModelShape, PlannedRun]:
    """Read a configuration of run_pretrain.py, with options that change it."""
    config = load_config(PretrainConfig, ["--config", path, *options])
    model = config.model
    shape = ModelShape(
        hidden=model.hidden_size,
        layers=model.num_hidden_layers,
        heads=model.num_attention_heads,
        vocabulary=BASE.vocabulary,
    )
    if config.run.amp == "none":
        raise UserError(f"{path}: run.amp: none; the estimate is of bf16 and fp16")
    run = PlannedRun(
        batch=config.optimizer.batch_size,
        length=config.data.max_seq_len,
        micro_batch=config.run.micro_batch_tokens,
        steps=config.optimizer.steps,
        half_weights=config.run.amp_level == "O2",
        recompute=config.run.recompute,
        fused=card.fused,
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
    args, options = parser.parse_known_args()
    if min(args.cards) < 1:
        parser.error("--cards must be 1 or more")
    card = CARDS[args.card]
    lines = [
        ["run", "cards", "stage", *MEMORY_PARTS, "in all", "sent a step", "step, s", "tokens/s", "hours"]
    ]
    for path in args.configs:
        shape, run = read_run(path, options, card)
        for cards in args.cards:
            for stage in (0, 1):
                cells = run_cells(shape, run, stage, cards, card)
                lines.append([Path(path).stem, str(cards), str(stage), *cells])
    for text in (
        TRUST_SENTENCE,
        f"{args.card}; GB on the fullest card; stage: run.sharding_stage",
        in_markdown(lines),
        "base on one card of eight, rows of 512 tokens, bf16 or fp16",
        in_markdown(speed_table()),
        "a step of XNLI, 32 pairs of 37 tokens, base with --amp bf16, ms",
        in_markdown(xnli_table()),
        f"fine-tuning recipes, training without evaluations, on one {args.card} with --amp bf16",
        in_markdown(recipe_table(card)),
    ):
        print(f"{text}\n")


if __name__ == "__main__":
    run_main(main)
