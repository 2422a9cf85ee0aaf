"""Time a masked-LM training step beside transformers (torch).

    python benchmarks/mlm_step.py                                    base size; a peer takes 18 GB of memory
    python benchmarks/mlm_step.py --against ../another-checkout      this revision beside another one

One step: 16 x 128 tokens of which 304 are predicted (15 % of each sequence, MMLM), base shape (12 x 768,
250,002 words, tied output), float32, dropout 0.1, gradient clipped to norm 1, AdamW. Ours is the step of
pre-training: its batch, its loss and its engine. All contenders get the same batches. transformers computes
logits at all positions; its "gathered" form computes them at the masked positions.

Another checkout takes turns with ours. The peers run alone, because two of them would not fit into memory.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import training
from benchmarks.side_by_side import LATEST, Benchmark, Contender, tell
from benchmarks.training import BATCH, LENGTH

IGNORED = -100  # transformers does not predict positions with this label
GATHERED = {"attention": "sdpa", "gathered": True}
CONTENDERS = {
    **training.CONTENDERS,
    "hf_gathered_sdpa": Contender("transformers XLM-R, sdpa, gathered", "torch", options=GATHERED),
    "hf_gathered_latest_sdpa": Contender(
        "newest transformers, sdpa, gathered", "torch", True, GATHERED, LATEST
    ),
}


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


def ours(_, args) -> None:
    from utils.runtime import prepare

    prepare(quiet=True)
    from model.ernie_m import ErnieMConfig
    from model.heads import PreTrainingModel
    from pretrain.loss import masked_lm_loss

    model = PreTrainingModel(ErnieMConfig(args.vocab, 768, args.layers, 12), ["en"])
    step = training.our_step(model, lambda batch: masked_lm_loss(model, batch).total / len(batch.targets))
    time_batches(args, step, mmlm_batches)


def torch_xlm_r(_, args, gathered: bool = False, **options) -> None:
    loss_of = gathered_loss if gathered else None
    step = training.torch_step(args, "ForMaskedLM", loss_of=loss_of, **options)
    time_batches(args, step, ids_and_labels)


def time_batches(args, step, batches) -> None:
    sizes = args.vocab, args.batch, args.length
    (first,) = next(mmlm_batches(*sizes))
    drawn = islice(batches(*sizes), training.WARM_UP + args.steps)
    operations = training.operations_of(args, first.tokens, len(first.targets))
    tell(training.time_steps(step, drawn), operations)


def gathered_loss(model, input_ids, attention_mask, labels):
    """The loss of transformers' model with logits at the masked positions alone, as a user could write it."""
    import torch.nn.functional as F

    masked = labels != IGNORED
    hidden = model.roberta(input_ids, attention_mask=attention_mask).last_hidden_state[masked]
    return F.cross_entropy(model.lm_head(hidden), labels[masked])


if __name__ == "__main__":
    Benchmark(
        __doc__,
        CONTENDERS,
        {"ours": ours, "torch": torch_xlm_r},
        training.SIZES,
        "tokens/s",
        lambda args, _: args.batch * args.length,
        turns="revisions",
    ).main()
