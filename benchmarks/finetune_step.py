"""Time a fine-tuning step beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_step.py                                    base size
    python benchmarks/finetune_step.py --against ../another-checkout      this revision beside another one
    python benchmarks/finetune_step.py --layers 2 --rounds 1

One step: 16 x 128 made-up tokens, sequence classification with 3 labels, base shape (12 x 768, 250,002
words), float32, dropout 0.1, gradient clipped to norm 1, AdamW. No token is a pad, because peers may drop a
mask that is all ones. Every other contender takes turns with ours (benchmarks/side_by_side.py).
benchmarks/finetune_real.py does the same on real pairs.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import training
from benchmarks.side_by_side import LATEST, OURS, Benchmark, Contender, tell

LABELS = 3
CONTENDERS = {
    **training.CONTENDERS,
    "ours_bfloat16": Contender("ours, bfloat16", OURS, options={"amp": "bf16"}, precision="bfloat16"),
    "hf_latest_bfloat16": Contender(
        "newest transformers, sdpa, bfloat16 autocast",
        "torch",
        True,
        training.SDPA | {"bfloat16": True},
        LATEST,
        "bfloat16",
    ),
    "paddlenlp_installed": Contender("PaddleNLP ERNIE-M, as installed", "paddlenlp", tuned=False),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", "paddlenlp"),
}


def time_random_batches(args, step: Callable[..., None]) -> None:
    """Time the step on ids [batch, length] and labels [batch], and tell the seconds."""
    import numpy as np

    rng = np.random.default_rng(0)
    batches = []
    for _ in range(training.WARM_UP + args.steps):
        input_ids = rng.integers(4, args.vocab, [args.batch, args.length])
        input_ids[:, 0], input_ids[:, -1] = 0, 2
        batches.append((input_ids, rng.integers(0, LABELS, args.batch)))
    tell(training.time_steps(step, batches), training.operations_of(args, args.batch * args.length))


def ours(_, args, amp: str = "none") -> None:
    from utils.runtime import prepare

    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.ernie_m import ErnieMConfig
    from model.heads import SequenceClassifier

    model = SequenceClassifier(ErnieMConfig(args.vocab, 768, args.layers, 12), LABELS)

    def loss_of(*arrays):
        input_ids, labels = (paddle.to_tensor(array) for array in arrays)
        return F.cross_entropy(model(input_ids), labels)

    time_random_batches(args, training.our_step(model, loss_of, amp))


def torch_xlm_r(_, args, **options) -> None:
    time_random_batches(
        args, training.torch_step(args, "ForSequenceClassification", num_labels=LABELS, **options)
    )


def paddlenlp_ernie_m(_, args) -> None:
    time_random_batches(args, training.paddlenlp_step(args, LABELS))


if __name__ == "__main__":
    Benchmark(
        __doc__,
        CONTENDERS,
        {"ours": ours, "torch": torch_xlm_r, "paddlenlp": paddlenlp_ernie_m},
        training.SIZES,
        "tokens/s",
        lambda args, _: args.batch * args.length,
        turns="all",
    ).main()
