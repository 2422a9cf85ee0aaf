"""Time a fine-tuning step beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_step.py                                    base size
    python benchmarks/finetune_step.py --against ../another-checkout      this revision beside another one
    python benchmarks/finetune_step.py --layers 2 --rounds 1

One step: 16 x 128 made-up tokens, sequence classification with 3 labels, base shape (12 x 768, 250,002
words), float32, dropout 0.1, gradient clipped to norm 1, AdamW. No token is a pad, because peers may drop a
mask that is all ones. Every other contender takes turns with ours (benchmarks/side_by_side.py).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import Contender, compare
from benchmarks.training import (
    BFLOAT16,
    CONTENDERS,
    SIZES,
    TRANSFORMERS,
    time_steps,
    time_xlm_r,
    tokens_of_step,
    wait_for_paddle,
)
from utils.runtime import prepare

LABELS = 3
PADDLENLP = {
    "paddlenlp_installed": Contender("PaddleNLP ERNIE-M, as installed", "paddlenlp", tuned=False),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", "paddlenlp"),
}


def random_batches(args) -> Iterator[tuple]:
    """Endless (ids [batch, length], labels [batch])."""
    import numpy as np

    rng = np.random.default_rng(0)
    while True:
        input_ids = rng.integers(4, args.vocab, [args.batch, args.length])
        input_ids[:, 0], input_ids[:, -1] = 0, 2
        yield input_ids, rng.integers(0, LABELS, args.batch)


def ours(_, args, amp: str = "none") -> None:
    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.ernie_m import ErnieMConfig
    from model.heads import SequenceClassifier
    from training.engine import Engine
    from training.optimizer import build_optimizer
    from training.precision import Precision

    model = SequenceClassifier(ErnieMConfig(args.vocab, 768, args.layers, 12), LABELS)
    optimizer = build_optimizer(model, 5e-5, weight_decay=0.01)
    engine = Engine(model, optimizer, clip_norm=1.0, precision=Precision(amp))

    def loss_of(arrays):
        input_ids, labels = (paddle.to_tensor(array) for array in arrays)
        return F.cross_entropy(model(input_ids), labels), {}

    def step(*arrays):
        engine.step([arrays], loss_of)
        wait_for_paddle()

    time_steps(args.steps, random_batches(args), step, sum(p.size for p in model.parameters()))


def torch_xlm_r(_, args, **options) -> None:
    time_xlm_r("SequenceClassification", random_batches(args), args, num_labels=LABELS, **options)


def paddlenlp_ernie_m(_, args) -> None:
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(vocab_size=args.vocab, num_hidden_layers=args.layers, num_labels=LABELS)
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
        wait_for_paddle()

    time_steps(args.steps, random_batches(args), step, sum(p.size for p in model.parameters()))


if __name__ == "__main__":
    compare(
        __doc__,
        {**CONTENDERS, **TRANSFORMERS, **BFLOAT16, **PADDLENLP},
        {"ours": ours, "torch": torch_xlm_r, "paddlenlp": paddlenlp_ernie_m},
        SIZES,
        "tokens/s",
        tokens_of_step,
        turns="all",
    )
