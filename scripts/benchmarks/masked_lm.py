"""Benchmark masked-LM steps against transformers (torch), in interleaved runs.

    .venv/bin/python scripts/benchmarks/masked_lm.py WEIGHTS TEXT

WEIGHTS is in XLM-R format, and TEXT has a text per line. The concatenated tokens fill sequences without
padding, and MMLM predicts 15 % of them. All contenders get the same ids and labels. transformers computes
logits at all positions; "gathered" computes logits only at masked positions, with three lines of user code.
The head is random, except for the embedding matrix.
"""

from ernie_m.utils.first_import import run

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import open_model
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.masking import ObjectiveContext, Text, Vocabulary, make_rng
from ernie_m.pretrain.objectives.mmlm import Mmlm
from ernie_m.pretrain.packing import MicroBatch
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_text
from ernie_m.utils.paddle_settings import prepare
from ernie_m.utils.value_types import PositiveInt
from scripts.benchmarks.turns import LATEST, OURS, Contender, compare, make_ernie_m_step, make_torch_step

IGNORED = -100  # transformers does not predict positions with this label
LARGEST = 1 << 30  # bytes of TEXT


@dataclass
class MaskedLMBenchmark:
    """Options of the masked-LM benchmark."""

    weights: str = option(positional=True)
    """Model directory in XLM-R format, including the tokenizer."""

    text: str = option(positional=True)
    """Text file, one text per line."""

    batch_size: PositiveInt = 8
    """Number of sequences per step."""

    length: PositiveInt = 128
    """Number of tokens per sequence."""

    steps: PositiveInt = 10
    """Number of timed steps."""

    threads: PositiveInt | None = None
    """Number of threads (default: chosen for this machine)."""


def main() -> None:
    flags = parse_options(MaskedLMBenchmark, None, __name__)
    shared_input = make_shared_input(flags)
    amount = flags.batch_size * flags.length * flags.steps
    compare("masked_lm", CONTENDERS, shared_input, amount, "tokens/s", flags.threads)


def make_shared_input(flags: MaskedLMBenchmark) -> dict[str, Any]:
    """Make the shared input: each batch has the ids of its texts, [batch_size, length - 2].

    Raises:
        UserError: a file is missing, corrupt or too short.
    """
    tokenizer = open_model(open_checkpoint(flags.weights)).tokenizer
    ids = np.concatenate(tokenizer.encode_batch(read_text(flags.text, LARGEST).splitlines()))
    shape = (flags.steps, flags.batch_size, flags.length - 2)  # [CLS] and [SEP] are added
    needed = int(np.prod(shape))
    if len(ids) < needed:
        raise UserError(f"{flags.text}: {len(ids)} tokens (expected at least {needed})")
    return {
        "weights": flags.weights,
        "vocabulary": asdict(Vocabulary.from_tokenizer(tokenizer)),
        "length": flags.length,
        "batches": ids[:needed].reshape(shape).tolist(),
    }


def mask_texts(shared_input: dict[str, Any], texts: list) -> MicroBatch:
    """Mask a batch of texts, with the same masks for all contenders."""
    mmlm = Mmlm(
        ObjectiveContext(ObjectiveConfig(), Vocabulary(**shared_input["vocabulary"]), shared_input["length"])
    )
    examples = [Text(np.array(ids), language=0) for ids in texts]
    rngs = [make_rng(seed=0, step=0, index=i) for i in range(len(texts))]
    return mmlm.make_batch(examples, rngs)


def make_ids_and_labels(shared_input: dict[str, Any], texts: list) -> tuple[np.ndarray, np.ndarray]:
    """Return the masked batch in the format of transformers: ids and labels, [B, T] each."""
    batch = mask_texts(shared_input, texts)
    labels = np.full_like(batch.inputs.input_ids, IGNORED)  # [B * T]
    labels[batch.targets] = batch.target_ids
    shape = [len(texts), shared_input["length"]]
    return batch.inputs.input_ids.reshape(shape), labels.reshape(shape)


def load_ernie_m(shared_input: dict[str, Any], amp: str = "none") -> Callable[[list], None]:
    """Load this project's pre-training model, and return a function that trains it on a batch."""
    prepare()
    import paddle

    from ernie_m.model.checkpoint.load import load_weights
    from ernie_m.model.lm_head import PreTrainingModel
    from ernie_m.pretrain.loss import compute_batch_loss, to_device

    checkpoint = open_checkpoint(shared_input["weights"])
    model = PreTrainingModel(checkpoint.config, ["en"])
    load_weights(model, checkpoint, ignore=("lm_head.", "language_embeddings."))

    def compute_loss(model: PreTrainingModel, texts: list) -> paddle.Tensor:
        batch = mask_texts(shared_input, texts)
        (on_device,) = to_device([batch])
        total, _ = compute_batch_loss(model, on_device)
        return total / len(batch.targets)

    return make_ernie_m_step(model, compute_loss, amp)


def load_transformers_baseline(
    shared_input: dict[str, Any], gathered: bool = False, bfloat16: bool = False
) -> Callable[[list], None]:
    """Load the masked LM of transformers, and return a function that trains it on a batch.

    Args:
        gathered: whether to compute logits only at masked positions.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(shared_input["weights"])

    def compute_loss(texts: list) -> torch.Tensor:
        ids, labels = map(torch.from_numpy, make_ids_and_labels(shared_input, texts))
        return compute_gathered_loss(model, ids, labels) if gathered else model(ids, labels=labels).loss

    return make_torch_step(model, compute_loss, bfloat16)


def compute_gathered_loss(model: Any, ids: Any, labels: Any) -> Any:
    """Compute the masked-LM loss with logits only at masked positions, as a user of transformers could.

    The head of the model is `lm_head` in XLM-R, and `cls` in BERT (E5-small).
    """
    import torch.nn.functional as F

    masked = labels != IGNORED
    hidden = model.base_model(ids).last_hidden_state[masked]
    head = model.cls if hasattr(model, "cls") else model.lm_head
    return F.cross_entropy(head(hidden), labels[masked])


CONTENDERS = {
    OURS: Contender(load_ernie_m),
    "ours, bfloat16": Contender(load_ernie_m, bfloat16=True, options={"amp": "bf16"}),
    "transformers": Contender(load_transformers_baseline, LATEST),
    "transformers, gathered": Contender(load_transformers_baseline, LATEST, options={"gathered": True}),
    "transformers, gathered, bfloat16": Contender(
        load_transformers_baseline, LATEST, bfloat16=True, options={"gathered": True, "bfloat16": True}
    ),
}


if __name__ == "__main__":
    run(main)
