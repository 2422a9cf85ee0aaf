"""Time a masked-LM training step beside transformers (torch), at base size; a peer takes 18 GB of memory.

MMLM predicts 304 of 16 x 128 tokens. All contenders get the same batches. transformers computes logits at
all positions; its "gathered" form computes them at the masked positions. The peers run alone, because two
would not fit into memory; --against ../another-checkout takes turns with ours.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.finetune_real import TRANSFORMERS, WARM_UP, our_step, time_steps, tokens_of, torch_step
from benchmarks.side_by_side import LATEST, OURS, Contender, compare, tell

IGNORED = -100  # transformers does not predict positions with this label
GATHERED = {"attention": "sdpa", "gathered": True}
SIZES = {"layers": 12, "hidden": 768, "vocab": 250_002, "batch": 16, "length": 128, "steps": 5}
CONTENDERS = TRANSFORMERS | {
    "hf_gathered_sdpa": Contender("transformers XLM-R, sdpa, gathered", "torch", True, GATHERED),
    "hf_gathered_latest_sdpa": Contender(
        "newest transformers, sdpa, gathered", "torch", True, GATHERED, LATEST
    ),
}


def mmlm_batches(args) -> Iterator[tuple]:
    """Endless (Batch of `args.batch` random texts of full length,)."""
    import numpy as np

    from pretrain.config import ObjectiveConfig
    from pretrain.masking import Vocabulary, generator
    from pretrain.objectives import Objectives, Text

    ids = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=args.vocab - 1, size=args.vocab)
    objectives = Objectives(ObjectiveConfig(), ids, args.length)
    rng = np.random.default_rng(0)
    for step in count():
        texts = [Text(rng.choice(ids.ordinary_ids, args.length - 2), language=0) for _ in range(args.batch)]
        yield (objectives.batch("mmlm", texts, [generator(0, step, i) for i in range(args.batch)]),)


def ids_and_labels(args) -> Iterator[tuple]:
    """The same batches as arrays [batch, length]."""
    import numpy as np

    for (batch,) in mmlm_batches(args):
        labels = np.full_like(batch.input_ids, IGNORED)
        labels[batch.targets] = batch.target_ids
        yield tuple(array.reshape([args.batch, args.length]) for array in (batch.input_ids, labels))


def ours(_, args) -> None:
    from utils.runtime import prepare

    prepare(quiet=True)
    from model.ernie_m import ErnieMConfig
    from model.heads import PreTrainingModel
    from pretrain.loss import masked_lm_loss, to_device

    config = ErnieMConfig(args.vocab, args.hidden, args.layers, args.hidden // 64)
    model = PreTrainingModel(config, ["en"])

    def loss_of(batch):
        return masked_lm_loss(model, *to_device([batch])).total / len(batch.targets)

    step = our_step(model, loss_of)
    time_batches(args, step, mmlm_batches(args))


def torch_peer(_, args, gathered: bool = False, **options) -> None:
    options |= {"loss_of": gathered_loss} if gathered else {}
    time_batches(args, torch_step(args, "ForMaskedLM", **options), ids_and_labels(args))


def time_batches(args, step: Callable[..., None], batches: Iterator[tuple]) -> None:
    tell(time_steps(step, islice(batches, WARM_UP + args.steps)))


def gathered_loss(model, input_ids, attention_mask, labels):
    """The loss of transformers' model with logits at the masked positions alone, as a user could write it."""
    import torch.nn.functional as F

    masked = labels != IGNORED
    hidden = model.roberta(input_ids, attention_mask=attention_mask).last_hidden_state[masked]
    return F.cross_entropy(model.lm_head(hidden), labels[masked])


if __name__ == "__main__":
    workers = {OURS: ours, "torch": torch_peer}
    compare(__doc__, CONTENDERS, workers, SIZES, "tokens/s", tokens_of, turns=[OURS])
