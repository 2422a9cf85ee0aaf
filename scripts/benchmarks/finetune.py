"""Benchmark fine-tuning steps against transformers (torch) and PaddleNLP, in interleaved runs.

    .venv/bin/python scripts/benchmarks/finetune.py WEIGHTS PAIRS

WEIGHTS is in XLM-R format. PAIRS has a premise, a hypothesis and a label per line, separated by tabs. The
batches are those of the XNLI recipe. The baselines pad them; "grouped" uses the same pairs in batches of
similar length. PaddleNLP's weights are random.
"""

from ernie_m.utils.first_import import run

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.data.data_sets import COLUMNS, read_table
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import open_model
from ernie_m.reader.batching import Batches, pad, split_by_work
from ernie_m.reader.text_featurizer import Example, TextFeaturizer
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import prepare
from ernie_m.utils.value_types import PositiveInt
from scripts.benchmarks.turns import (
    CLIP_NORM,
    DECAY,
    LATEST,
    OURS,
    PARITY,
    RATE,
    Contender,
    compare,
    make_ernie_m_step,
    make_torch_step,
)


@dataclass
class FinetuneBenchmark:
    """Options of the fine-tuning benchmark."""

    weights: str = option(positional=True)
    """Model directory in XLM-R format, including the tokenizer."""

    pairs: str = option(positional=True)
    """Text file with lines of premise<TAB>hypothesis<TAB>label."""

    batch_size: PositiveInt = 32
    """Number of pairs per step."""

    steps: PositiveInt = 20
    """Number of timed steps."""

    max_seq_len: PositiveInt = 256
    """Maximum length of a pair in tokens."""

    joined: bool = False
    """Whether to concatenate pairs into inputs of max_seq_len tokens, without padding."""

    threads: PositiveInt | None = None
    """Number of threads (default: chosen for this machine)."""


def main() -> None:
    flags = parse_options(FinetuneBenchmark, None, __name__)
    shared_input = make_shared_input(flags)
    amount = flags.batch_size * flags.steps
    compare("finetune", CONTENDERS, shared_input, amount, "pairs/s", flags.threads)


def make_shared_input(flags: FinetuneBenchmark) -> dict[str, Any]:
    """Make the shared input: batches of (ids, label), in sampled order and "grouped" by length.

    Raises:
        UserError: a file is missing, corrupt or too short.
    """
    opened = open_model(open_checkpoint(flags.weights))
    columns, _, lines = read_table(Path(flags.pairs))
    rows = [[cells[columns[name]] for name in COLUMNS] for cells in lines]
    needed = flags.batch_size * flags.steps
    if len(rows) < needed:
        raise UserError(f"{flags.pairs}: {len(rows)} lines (expected at least {needed})")
    labels = sorted({label for _, _, label in rows})
    examples = [Example(a, b, label=labels.index(label)) for a, b, label in rows]
    encode = TextFeaturizer(opened.tokenizer, flags.max_seq_len)
    if flags.joined:
        ids = np.concatenate([feature.ids for feature in encode(examples)])
        pairs = [(row, 0) for row in np.resize(ids, (needed, flags.max_seq_len)).tolist()]
    else:
        pairs = []
        stream = Batches(examples, encode, flags.batch_size, seed=1).stream()
        for step in itertools.islice(stream, flags.steps):
            (micro_batch,) = step.micro_batches  # without accumulation
            features = encode([examples[i] for i in micro_batch.indices])
            pairs += [(feature.ids, feature.label) for feature in features]
    grouped = split_into_batches(sorted(pairs, key=lambda pair: len(pair[0])), flags.batch_size)
    random.Random(1).shuffle(grouped)
    return {
        "weights": flags.weights,
        "config": asdict(opened.config),
        "labels": labels,
        "batches": split_into_batches(pairs, flags.batch_size),
        "grouped": grouped,
    }


def split_into_batches(pairs: Sequence, size: int) -> list[Sequence]:
    """Divide pairs into consecutive batches of `size`."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def make_arrays(batch: Sequence, pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a batch, [B, T], padded to the longest pair, and its labels, [B]."""
    ids, labels = zip(*batch)
    return pad(ids, pad_token_id), np.array(labels, np.int64)


def load_ernie_m(shared_input: dict[str, Any], amp: str = "none") -> Callable[[Sequence], None]:
    """Load this project's classifier, and return a function that trains it on a batch without padding."""
    prepare()
    import paddle
    import paddle.nn.functional as F

    from ernie_m.model.checkpoint.load import load_weights
    from ernie_m.model.device_transfer import upload
    from ernie_m.model.heads import SequenceClassifier
    from ernie_m.model.kernel_selection import get_services
    from ernie_m.model.packed_batch import PackedBatch

    checkpoint = open_checkpoint(shared_input["weights"])
    pad_token_id = checkpoint.config.pad_token_id
    model = SequenceClassifier(checkpoint.config, len(shared_input["labels"]))
    load_weights(model, checkpoint, ignore=("classifier.",))

    size = len(shared_input["batches"][0])

    def compute_loss(model: SequenceClassifier, share: Sequence) -> paddle.Tensor:
        ids, labels = make_arrays(share, pad_token_id)
        logits = model(upload(PackedBatch.from_padded(ids, pad_token_id)))
        return F.cross_entropy(logits, paddle.to_tensor(labels), reduction="sum") / size

    def split_batch(batch: Sequence) -> list[Sequence]:
        """Split a batch into parts of similar length, as `Batches` does."""
        lengths = np.array([len(ids) for ids, _ in batch])
        shares = split_by_work(np.argsort(lengths, kind="stable"), lengths, get_services().split_tokens)
        return [[batch[index] for index in share] for share in shares]

    return make_ernie_m_step(model, compute_loss, amp, split_batch)


def load_transformers_baseline(
    shared_input: dict[str, Any], bfloat16: bool = False
) -> Callable[[Sequence], None]:
    """Load the classifier of transformers, and return a function that trains it on a batch."""
    import torch
    from transformers import AutoModelForSequenceClassification

    count = len(shared_input["labels"])
    model = AutoModelForSequenceClassification.from_pretrained(shared_input["weights"], num_labels=count)
    pad_token_id = shared_input["config"]["pad_token_id"]

    def compute_loss(batch: Sequence) -> torch.Tensor:
        ids, labels = map(torch.from_numpy, make_arrays(batch, pad_token_id))
        return model(ids, attention_mask=(ids != pad_token_id).long(), labels=labels).loss

    return make_torch_step(model, compute_loss, bfloat16)


def load_paddlenlp_baseline(shared_input: dict[str, Any]) -> Callable[[Sequence], None]:
    """Make PaddleNLP's classifier of the same size, and return a function that trains it on a batch."""
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(**shared_input["config"], num_labels=len(shared_input["labels"]))
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(CLIP_NORM)
    optimizer = paddle.optimizer.AdamW(
        RATE, parameters=model.parameters(), weight_decay=DECAY, grad_clip=clip
    )

    def train_on_batch(batch: Sequence) -> None:
        ids, labels = map(paddle.to_tensor, make_arrays(batch, config.pad_token_id))
        mask = (ids != config.pad_token_id).astype("int64")
        F.cross_entropy(model(ids, attention_mask=mask), labels).backward()
        optimizer.step()
        optimizer.clear_grad()

    return train_on_batch


CONTENDERS = {
    OURS: Contender(load_ernie_m),
    "ours, bfloat16": Contender(load_ernie_m, bfloat16=True, options={"amp": "bf16"}),
    "transformers": Contender(load_transformers_baseline, LATEST),
    "transformers, grouped": Contender(load_transformers_baseline, LATEST, "grouped"),
    "transformers, bfloat16": Contender(
        load_transformers_baseline, LATEST, bfloat16=True, options={"bfloat16": True}
    ),
    "transformers, grouped, bfloat16": Contender(
        load_transformers_baseline, LATEST, "grouped", bfloat16=True, options={"bfloat16": True}
    ),
    "PaddleNLP": Contender(load_paddlenlp_baseline, PARITY),
}


if __name__ == "__main__":
    run(main)
