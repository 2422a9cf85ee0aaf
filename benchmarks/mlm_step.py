"""Time a masked-LM training step beside transformers (torch).

    python benchmarks/mlm_step.py                            base size; a peer takes 18 GB of memory
    python benchmarks/mlm_step.py --layers 1 --vocab 8000 --rounds 1
    python benchmarks/mlm_step.py --contenders ours,hf_gathered_sdpa,hf_gathered_latest_sdpa

One step: 16 x 128 tokens of which 304 are to be predicted (15 % of each sequence, MMLM), base shape
(12 x 768, 250,002 words, tied output), float32, dropout 0.1, gradient clipped to norm 1, AdamW. Ours is the
step of pre-training: the batch, the loss and the engine that a run has. All get the same batches.
transformers makes logits at all positions; "gathered", which runs when it is named, at the masked ones alone.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py);
"memory_ratio" is our peak memory beyond weights, gradients and Adam's moments over that of the leanest peer.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gemm import encoder_operations, head_operations, measure_peak, training_operations
from benchmarks.training import BATCH, GATHERED, LENGTH, OURS, TRANSFORMERS, main, time_steps, time_xlm_r
from utils.runtime import prepare

CONTENDERS = {**OURS, **TRANSFORMERS, **GATHERED}
IGNORED = -100  # the label of positions that transformers is not to predict


def mmlm_batches(vocabulary: int, size: int = BATCH, length: int = LENGTH) -> Iterator[tuple]:
    """Endless (Batch of `size` random texts of full length,)."""
    import numpy as np

    from pretrain.config import ObjectiveConfig
    from pretrain.masking import Vocabulary, generator
    from pretrain.objectives import Objectives, Text

    ids = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=vocabulary - 1, size=vocabulary)
    objectives = Objectives(ObjectiveConfig(), ids, length)
    rng = np.random.default_rng(0)
    step = 0
    while True:
        texts = [Text(rng.choice(ids.ordinary_ids, length - 2), language=0) for _ in range(size)]
        yield (objectives.batch("mmlm", texts, [generator(0, step, i) for i in range(size)]),)
        step += 1


def ids_and_labels(vocabulary: int, size: int = BATCH, length: int = LENGTH) -> Iterator[tuple]:
    """The same batches as arrays [size, length]."""
    import numpy as np

    for (batch,) in mmlm_batches(vocabulary, size, length):
        labels = np.full_like(batch.input_ids, IGNORED)
        labels[batch.targets] = batch.target_ids
        yield batch.input_ids.reshape([size, length]), labels.reshape([size, length])


def ours(layers: int, vocabulary: int, steps: int, size: int, length: int) -> None:
    prepare(quiet=True)
    from model.ernie_m import ErnieMConfig
    from model.heads import PreTrainingModel
    from pretrain.loss import masked_lm_loss
    from training.engine import Engine
    from training.optimizer import build_optimizer

    model = PreTrainingModel(ErnieMConfig(vocabulary, 768, layers, 12), ["en"])
    engine = Engine(model, build_optimizer(model, 5e-5, weight_decay=0.01), clip_norm=1.0)

    def loss_of(batch):
        return masked_lm_loss(model, batch).total / len(batch.targets), {}

    parameters = sum(parameter.size for parameter in model.parameters())
    batches = mmlm_batches(vocabulary, size, length)
    time_steps(steps, batches, lambda batch: engine.step([batch], loss_of), parameters, measure_peak)


def torch_xlm_r(
    layers: int, vocabulary: int, steps: int, size: int, length: int, gathered: bool = False, **options
) -> None:
    batches = ids_and_labels(vocabulary, size, length)
    loss_of = gathered_loss if gathered else None
    time_xlm_r("MaskedLM", batches, layers, vocabulary, steps, loss_of=loss_of, **options)


def gathered_loss(model, input_ids, attention_mask, labels):
    """The loss of transformers' model, with logits at the masked positions alone: what a user could write."""
    import torch.nn.functional as F

    masked = labels != IGNORED
    hidden = model.roberta(input_ids, attention_mask=attention_mask).last_hidden_state[masked]
    return F.cross_entropy(model.lm_head(hidden), labels[masked])


WORKERS = {"ours": ours, "torch": torch_xlm_r}


def operations(args) -> float:
    """Of a step's matrix products, with logits and the last layer at the masked positions alone."""
    (batch,) = next(mmlm_batches(args.vocab, args.batch, args.length))
    encoder = encoder_operations(args.batch, args.length, args.layers, outputs=batch.masked)
    return training_operations(encoder + head_operations(batch.masked, args.vocab))


if __name__ == "__main__":
    main(__doc__, CONTENDERS, WORKERS, operations)
