"""Time a fine-tuning step beside transformers (torch) and PaddleNLP, all in turns with ours, at base size.

--data has a premise, a hypothesis and a label in each line, with tabs between. The batches are those that the
XNLI recipe draws; peers pad them, and a "grouped" peer gets batches of similar length. Pads do not count.
--length makes sequences of that many random tokens instead: without pads a peer may drop the attention mask.
In older revisions this is another program: --against ../another-checkout/benchmarks/finetune_step.py.
"""

import itertools
import json
import random
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

import numpy as np

from benchmarks.contenders import PREVIOUS
from benchmarks.side_by_side import compare, tell
from benchmarks.training_steps import (
    HEAD_SIZE,
    PAD,
    WARM_UP,
    our_step,
    time_steps,
    torch_step,
    wait_for_paddle,
)
from finetune.classification import Classification
from model.config import ErnieMConfig
from reader.batching import Batches, Feature
from reader.classification import Example
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.runtime import prepare

# Ids in random sequences.
CLS = 0
SEP = 2
FIRST_WORD = 4
SIZES = {
    "layers": 12,
    "hidden": 768,
    "vocab": 250_002,
    "batch": 16,
    "steps": 5,
    "length": 0,
    "max_seq_len": 256,
    "data": "",
    "piece_model_path": "",
    "amp": "none",
}


def draw(folder: Path, args: Namespace) -> int:
    """Write the batches of (ids, label) for all contenders.

    "padded" has the batches as they were drawn; "grouped" the same pairs in batches of similar length, which
    come in a random order. Returns the number of tokens in each of the times that `time_all` tells.
    """
    if args.length:
        labels, padded = draw_random(args)
    else:
        labels, padded = draw_real(args)
    pairs = list(itertools.chain.from_iterable(padded))
    pairs.sort(key=lambda pair: len(pair[0]))  # by the number of ids
    grouped = in_batches(pairs, args.batch)
    random.Random(1).shuffle(grouped)
    tokens = sum(len(ids) for ids, _ in pairs)
    batches = {"labels": labels, "grouped": grouped, "padded": padded, "tokens": tokens}
    (folder / "pairs.json").write_text(json.dumps(batches), encoding="utf-8")
    return args.batch * args.length if args.length else tokens


def read_batches(folder: Path) -> dict[str, Any]:
    """Read what `draw` wrote."""
    return json.loads((folder / "pairs.json").read_text(encoding="utf-8"))


def draw_random(args: Namespace) -> tuple[list[str], list[list]]:
    """The labels, and batches of random sequences of full length."""
    rng = random.Random(0)
    words = range(FIRST_WORD, args.vocab)
    labels = ["0", "1", "2"]
    sequences = []
    for _ in range(args.batch * args.steps):
        sequences.append([CLS, *rng.choices(words, k=args.length - 2), SEP])
    pairs = [(ids, rng.randrange(len(labels))) for ids in sequences]
    return labels, in_batches(pairs, args.batch)


def in_batches(pairs: list, size: int) -> list[list]:
    """The pairs in their order, `size` in each batch."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def draw_real(args: Namespace) -> tuple[list[str], list[list]]:
    """The labels of --data, and the batches that fine-tuning would draw from it."""
    rows = read_pairs(args)
    labels = sorted({label for _, _, label in rows})
    examples = [Example(a, b, label=labels.index(label)) for a, b, label in rows]
    task = Classification(Tokenizer(piece_model_path=args.piece_model_path), labels, args.max_seq_len)
    steps = Batches(examples, task.encode, args.batch, seed=1).stream()
    batches = []
    for step in itertools.islice(steps, args.steps):
        (micro_batch,) = step.micro_batches  # without accumulation
        drawn = [examples[i] for i in micro_batch.indices]
        batches.append([(feature.ids, feature.label) for feature in task.encode(drawn)])
    return labels, batches


def read_pairs(args: Namespace) -> list[list[str]]:
    """Premise, hypothesis and label of each line of --data.

    Raises:
        UserError: --data or --piece_model_path is missing, a line has other columns, or there are too few
            lines.
    """
    for path in (args.data, args.piece_model_path):
        if not Path(path).is_file():
            raise UserError(f"'{path}': no such file; give --data and --piece_model_path, or --length")
    lines = Path(args.data).read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 3:
            raise UserError(
                f"{args.data}, line {number}: not premise, hypothesis and label with tabs between"
            )
    if len(rows) < args.batch * args.steps:
        raise UserError(f"{args.data}: {len(rows)} lines; {args.batch * args.steps} are needed")
    return rows


def ours(folder: Path, args: Namespace, amp: str | None = None) -> None:
    """A classifier of this project. `amp`: that of a contender; None: --amp decides."""
    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.batch import TokenBatch
    from model.device import upload
    from model.heads import SequenceClassifier
    from model.word_rows import words_of_step

    if amp is None:
        amp = args.amp
    labels = read_batches(folder)["labels"]
    config = ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // HEAD_SIZE,
    )
    model = SequenceClassifier(config, len(labels))

    def loss_of_arrays(input_ids, targets):
        """The loss of padded ids [B, T] and labels [B]."""
        words = words_of_step([input_ids])
        batch = upload(TokenBatch.from_padded(input_ids, config.pad_token_id, words))
        return F.cross_entropy(model(batch), paddle.to_tensor(targets))

    if args.length:
        time_all(folder, args, our_step(model, loss_of_arrays, amp), to_arrays)
        return
    task = Classification(Tokenizer(piece_model_path=args.piece_model_path), labels, args.max_seq_len)

    def collate(pairs: list) -> tuple:
        """The arguments of a step: the micro-batch that the reader of a training would make."""
        features = [Feature(ids, label) for ids, label in pairs]
        micro_batch = task.encode.collate(features, indices=range(len(pairs)), count=len(pairs))
        return (micro_batch,)

    def loss_of(micro_batch):
        (sent,) = task.send_batches(model, [micro_batch])
        loss, _sums = task.loss(model, sent)
        return loss

    time_all(folder, args, our_step(model, loss_of, amp), collate)


def torch_peer(folder: Path, args: Namespace, order: str = "padded", **options: Any) -> None:
    """transformers' XLM-R. `order`: "padded" or "grouped", see `draw`; `options`: those of `torch_step`."""
    num_labels = len(read_batches(folder)["labels"])
    step = torch_step(args, "ForSequenceClassification", num_labels=num_labels, **options)
    time_all(folder, args, step, to_arrays, order)


def paddlenlp_peer(folder: Path, args: Namespace, order: str = "padded") -> None:
    """PaddleNLP's own ERNIE-M."""
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(
        vocab_size=args.vocab,
        num_hidden_layers=args.layers,
        num_labels=len(read_batches(folder)["labels"]),
        hidden_size=args.hidden,
        num_attention_heads=args.hidden // HEAD_SIZE,
        intermediate_size=4 * args.hidden,
    )
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(5e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)

    def step(input_ids, labels):
        input_ids = paddle.to_tensor(input_ids)
        mask = (input_ids != PAD).astype("int64")
        F.cross_entropy(model(input_ids, attention_mask=mask), paddle.to_tensor(labels)).backward()
        optimizer.step()
        optimizer.clear_grad()
        wait_for_paddle()

    time_all(folder, args, step, to_arrays, order)


def time_all(folder: Path, args: Namespace, step: Callable, collate: Callable, order: str = "padded") -> None:
    """Time a step on each batch, and tell the seconds: of each if all are of one size, else of all together.

    Args:
        step: takes what `collate` makes of the pairs of a batch.
        order: "padded" or "grouped", see `draw`.
    """
    drawn = read_batches(folder)
    batches = [collate(batch) for batch in drawn[order]]
    warm_up = [batches[0]] * WARM_UP  # steps that `time_steps` does not time
    seconds = time_steps(step, warm_up + batches)
    batches_have_one_size = args.length > 0
    tell(seconds if batches_have_one_size else sum(seconds), check=drawn["tokens"])


def to_arrays(pairs: list) -> tuple:
    """The ids [B, T] of (ids, label) pairs, padded to the longest, and their labels [B]."""
    longest = max(len(ids) for ids, _ in pairs)
    input_ids = np.full([len(pairs), longest], PAD, np.int64)
    for row, (ids, _) in zip(input_ids, pairs):
        row[: len(ids)] = ids
    labels = np.array([label for _, label in pairs], np.int64)
    return input_ids, labels


WORKS = {
    "ours": ours,
    "ours_bfloat16": ours,
    "hf_installed_sdpa": torch_peer,
    "hf_best_sdpa": torch_peer,
    "hf_best_eager": torch_peer,
    "hf_best_latest_sdpa": torch_peer,
    "hf_best_latest_eager": torch_peer,
    "hf_latest_bfloat16": torch_peer,
    "paddlenlp_installed": paddlenlp_peer,
    "paddlenlp_best": paddlenlp_peer,
    "hf_grouped": torch_peer,
    "paddlenlp_grouped": paddlenlp_peer,
}


def main() -> None:
    compare(
        __doc__,
        WORKS,
        SIZES,
        unit="tokens/s",
        prepare=draw,
        in_turns=(*WORKS, PREVIOUS),
    )


if __name__ == "__main__":
    run(main)
