"""Time from the start of a process to its first finished training step, on a CPU.

    python benchmarks/first_step.py                          base size
    python benchmarks/first_step.py --layers 2 --rounds 1

Importing the library, making the model of benchmarks/finetune_step.py with random weights, its optimizer, and
one step of 16 x 128 tokens. What the shell does before Python starts counts.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.finetune_step import CONTENDERS as STEPS
from benchmarks.finetune_step import WORKERS as TRAINERS
from benchmarks.side_by_side import VOCABULARY, compare
from benchmarks.training import BATCH, LENGTH

CONTENDERS = {
    name: STEPS[name]
    for name in (
        "ours", "ours_bare", "hf_installed_sdpa", "hf_best_sdpa", "hf_best_latest_sdpa",
        "paddlenlp_installed", "paddlenlp_best",
    )
}  # fmt: skip


def one_step(kind: str):
    """The trainer of a kind, stopped after the first step."""
    return lambda _, args, **options: TRAINERS[kind](args.layers, args.vocab, 0, BATCH, LENGTH, **options)


if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        {kind: one_step(kind) for kind in TRAINERS},
        {"layers": 12, "vocab": VOCABULARY},
        "s",
        lambda args: 1,
    )
