"""Time a fine-tuning step beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_step.py                       base size
    python benchmarks/finetune_step.py --batch 8 --length 256
    python benchmarks/finetune_step.py --layers 2 --rounds 1

One step: 16 x 128 tokens, sequence classification with 3 labels, base shape (12 x 768, 250,002 words),
float32, dropout 0.1, gradient clipped to norm 1, AdamW. All tokens are real: peers may drop an all-ones mask.
bfloat16 (torch's autocast; on a GPU ours too) is shown as another precision: ratios are between contenders in
float32.

Each of the others runs with ours by its side, a step each in turn (benchmarks/side_by_side.py). The last line
is JSON (benchmarks/figures.py); "gemm_share" is the part that a step reaches of the peak of matrix products,
measured in ours beside it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gemm import encoder_operations, head_operations, measure_peak, training_operations
from benchmarks.side_by_side import Contender
from benchmarks.training import BFLOAT16, OURS, TRANSFORMERS, main, time_steps, time_xlm_r
from utils.runtime import prepare

LABELS = 3

CONTENDERS = {
    **OURS,
    **TRANSFORMERS,
    **BFLOAT16,
    "paddlenlp_installed": Contender("PaddleNLP ERNIE-M, as installed", "paddlenlp", False),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", "paddlenlp", True),
}


def random_batches(vocabulary: int, batch: int, length: int) -> Iterator[tuple]:
    """Endless (ids [batch, length], labels [batch])."""
    import numpy as np

    rng = np.random.default_rng(0)
    while True:
        input_ids = rng.integers(4, vocabulary, [batch, length])
        input_ids[:, 0], input_ids[:, -1] = 0, 2
        yield input_ids, rng.integers(0, LABELS, batch)


def ours(layers: int, vocabulary: int, steps: int, batch: int, length: int, amp: str = "none") -> None:
    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.ernie_m import ErnieMConfig
    from model.heads import SequenceClassifier
    from training.engine import Engine
    from training.optimizer import build_optimizer
    from training.precision import Precision

    model = SequenceClassifier(ErnieMConfig(vocabulary, 768, layers, 12), LABELS)
    optimizer = build_optimizer(model, 5e-5, weight_decay=0.01)
    engine = Engine(model, optimizer, clip_norm=1.0, precision=Precision(amp))
    if engine.precision.amp != amp:
        sys.exit(f"amp {amp} needs a Paddle that can use the GPU")

    def loss_of(arrays):
        input_ids, labels = (paddle.to_tensor(array) for array in arrays)
        return F.cross_entropy(model(input_ids), labels), {}

    size = sum(parameter.size for parameter in model.parameters())
    batches = random_batches(vocabulary, batch, length)
    time_steps(steps, batches, lambda *arrays: engine.step([arrays], loss_of), size, measure_peak)


def torch_xlm_r(layers: int, vocabulary: int, steps: int, batch: int, length: int, **options) -> None:
    batches = random_batches(vocabulary, batch, length)
    time_xlm_r("SequenceClassification", batches, layers, vocabulary, steps, num_labels=LABELS, **options)


def paddlenlp_ernie_m(layers: int, vocabulary: int, steps: int, batch: int, length: int) -> None:
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(vocab_size=vocabulary, num_hidden_layers=layers, num_labels=LABELS)
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(5e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)

    def step(input_ids, labels):
        input_ids = paddle.to_tensor(input_ids)
        mask = (input_ids != 1).astype("int64")
        loss = F.cross_entropy(model(input_ids, attention_mask=mask), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        loss.item()

    size = sum(parameter.size for parameter in model.parameters())
    time_steps(steps, random_batches(vocabulary, batch, length), step, size)


WORKERS = {"ours": ours, "torch": torch_xlm_r, "paddlenlp": paddlenlp_ernie_m}


def operations(args) -> float:
    """Of a step's matrix products, with the last layer at the first tokens alone."""
    encoder = encoder_operations(args.batch, args.length, args.layers, outputs=args.batch)
    return training_operations(encoder + head_operations(args.batch, LABELS))


if __name__ == "__main__":
    main(__doc__, CONTENDERS, WORKERS, operations, in_turns=True)
