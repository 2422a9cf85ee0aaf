"""Time a masked-LM training step beside transformers (torch), at base size; a peer takes 18 GB of memory.

MMLM predicts 304 of 16 x 128 tokens. All contenders get the same batches. transformers computes logits at
all positions; its "gathered" form computes them at the masked positions. The peers run alone, because two
would not fit into memory; --against ../another-checkout takes turns with ours.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.contenders import PREVIOUS
from benchmarks.side_by_side import compare, tell
from benchmarks.training_steps import (
    HEAD_SIZE,
    PAD,
    WARM_UP,
    loss_of_transformers,
    our_step,
    time_steps,
    torch_step,
)
from model.config import ErnieMConfig
from pretrain.config import ObjectiveConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Text
from utils.runtime import prepare

IGNORED = -100  # transformers does not predict positions with this label
SIZES = {"layers": 12, "hidden": 768, "vocab": 250_002, "batch": 16, "length": 128, "steps": 5}


def mmlm_batches(args: Namespace) -> Iterator[tuple]:
    """--steps batches of --batch random texts of full length, after those of the warm-up.

    A tuple holds the arguments of one step, which here are the batch alone.
    """
    vocabulary = Vocabulary(cls_id=0, pad_id=PAD, sep_id=2, unk_id=3, mask_id=args.vocab - 1, size=args.vocab)
    objectives = Objectives(ObjectiveConfig(), vocabulary, args.length)
    rng = np.random.default_rng(0)
    for step in range(WARM_UP + args.steps):
        texts = []
        for _ in range(args.batch):
            ids = rng.choice(vocabulary.ordinary_ids, args.length - 2)  # [CLS] and [SEP] are added
            texts.append(Text(ids, language=0))
        generators = [generator(seed=0, step=step, index=i) for i in range(args.batch)]
        yield (objectives.batch("mmlm", texts, generators),)


def ids_and_labels(args: Namespace) -> Iterator[tuple]:
    """The batches of `mmlm_batches` as a model of transformers takes them: ids and labels, both [B, T]."""
    for (batch,) in mmlm_batches(args):
        labels = np.full_like(batch.input_ids, IGNORED)  # [B * T]
        labels[batch.targets] = batch.target_ids
        shape = [args.batch, args.length]
        yield batch.input_ids.reshape(shape), labels.reshape(shape)


def tokens_of(folder: Path, args: Namespace) -> int:
    """The number of tokens of a batch, which each contender makes itself."""
    return args.batch * args.length


def ours(folder: Path, args: Namespace, amp: str = "none") -> None:
    """A step of MMLM of this project."""
    prepare(quiet=True)
    from model.heads import PreTrainingModel
    from pretrain.loss import masked_lm_loss, to_device

    config = ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // HEAD_SIZE,
    )
    model = PreTrainingModel(config, ["en"])

    def loss_of(batch):
        (sent,) = to_device([batch])
        return masked_lm_loss(model, sent).total / len(batch.targets)

    tell(time_steps(our_step(model, loss_of, amp), mmlm_batches(args)))


def torch_peer(folder: Path, args: Namespace, gathered: bool = False, **options: Any) -> None:
    """transformers' XLM-R. `gathered`: with logits at the masked positions alone."""
    loss_of = gathered_loss if gathered else loss_of_transformers
    step = torch_step(args, "ForMaskedLM", loss_of=loss_of, **options)
    tell(time_steps(step, ids_and_labels(args)))


def gathered_loss(model: Any, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
    """The loss of transformers' model with logits at the masked positions alone, as a user could write it."""
    import torch.nn.functional as F

    masked = labels != IGNORED
    hidden = model.roberta(input_ids, attention_mask=attention_mask).last_hidden_state[masked]
    return F.cross_entropy(model.lm_head(hidden), labels[masked])


WORKS = {
    "ours": ours,
    "ours_bfloat16": ours,
    "hf_best_sdpa": torch_peer,
    "hf_best_latest_sdpa": torch_peer,
    "hf_best_latest_eager": torch_peer,
    "hf_gathered_latest_sdpa": torch_peer,
}


if __name__ == "__main__":
    compare(__doc__, WORKS, SIZES, unit="tokens/s", prepare=tokens_of, in_turns=(PREVIOUS,))
