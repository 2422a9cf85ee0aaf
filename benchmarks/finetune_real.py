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
)
from model.config import ErnieMConfig
from reader.batching import Batches, EncodePairs, pad
from reader.classification import Example
from reader.tokenization import Tokenizer
from scripts.data.prepare import COLUMNS, read_table
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
}


def draw(folder: Path, args: Namespace) -> int:
    """Write the batches of (ids, label) for all contenders.

    "padded" has the batches as they were drawn; "grouped" the same pairs in batches of similar length, which
    come in a random order. Returns the number of tokens in each of the times that `time_all` tells.
    """
    labels, pairs = draw_random(args) if args.length else draw_real(args)
    padded = in_batches(pairs, args.batch)
    grouped = in_batches(sorted(pairs, key=lambda pair: len(pair[0])), args.batch)  # by the number of ids
    random.Random(1).shuffle(grouped)
    tokens = sum(len(ids) for ids, _ in pairs)
    batches = {"labels": labels, "grouped": grouped, "padded": padded, "tokens": tokens}
    (folder / "pairs.json").write_text(json.dumps(batches), encoding="utf-8")
    return args.batch * args.length if args.length else tokens


def in_batches(pairs: list, size: int) -> list[list]:
    """The pairs in their order, `size` in each batch."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def read_batches(folder: Path) -> dict[str, Any]:
    """Read what `draw` wrote."""
    return json.loads((folder / "pairs.json").read_text(encoding="utf-8"))


def draw_random(args: Namespace) -> tuple[list[str], list]:
    """The labels, and random sequences of full length, each (ids, label)."""
    rng = random.Random(0)
    words = range(FIRST_WORD, args.vocab)
    sequences = []
    for _ in range(args.batch * args.steps):
        sequences.append([CLS, *rng.choices(words, k=args.length - 2), SEP])
    return ["0", "1", "2"], [(ids, rng.randrange(3)) for ids in sequences]


def draw_real(args: Namespace) -> tuple[list[str], list]:
    """The labels of --data, and the pairs (ids, label) in the order in which fine-tuning would draw them.

    Raises:
        UserError: --data or --piece_model_path is missing, the columns are not premise, hypothesis and label,
            or there are too few lines.
    """
    table = read_table(Path(args.data or "--data"))  # without a path the error names the flag
    places = [table.places[name] for name in COLUMNS]
    rows = [[cells[place] for place in places] for cells in table.rows]
    if len(rows) < args.batch * args.steps:
        raise UserError(f"{args.data}: {len(rows)} lines; {args.batch * args.steps} are needed")
    labels = sorted({label for _, _, label in rows})
    examples = [Example(a, b, label=labels.index(label)) for a, b, label in rows]
    encode = EncodePairs(Tokenizer(piece_model_path=args.piece_model_path), args.max_seq_len)
    steps = Batches(examples, encode, args.batch, seed=1).stream()
    pairs = []
    for step in itertools.islice(steps, args.steps):
        (micro_batch,) = step.micro_batches  # without accumulation
        features = encode([examples[i] for i in micro_batch.indices])
        pairs += [(feature.ids, feature.label) for feature in features]
    return labels, pairs


def ours(folder: Path, args: Namespace, amp: str = "none") -> None:
    """A classifier of this project, which computes nothing for a pad."""
    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from model.batch import TokenBatch
    from model.device import upload
    from model.heads import SequenceClassifier
    from model.word_rows import words_of_step

    config = ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // HEAD_SIZE,
    )
    model = SequenceClassifier(config, len(read_batches(folder)["labels"]))

    def loss_of(input_ids, labels):
        words = words_of_step([input_ids])
        batch = upload(TokenBatch.from_padded(input_ids, PAD, words))
        return F.cross_entropy(model(batch), paddle.to_tensor(labels))

    time_all(folder, args, our_step(model, loss_of, amp))


def torch_peer(folder: Path, args: Namespace, order: str = "padded", **options: Any) -> None:
    """transformers' XLM-R. `order`: "padded" or "grouped", see `draw`; `options`: those of `torch_step`."""
    num_labels = len(read_batches(folder)["labels"])
    step = torch_step(args, "ForSequenceClassification", num_labels=num_labels, **options)
    time_all(folder, args, step, order)


def paddlenlp_peer(folder: Path, args: Namespace) -> None:
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

    time_all(folder, args, step)


def time_all(folder: Path, args: Namespace, step: Callable, order: str = "padded") -> None:
    """Time a step on each batch, and tell the seconds: of each if all are of one size, else of all together.

    Args:
        step: takes the ids [B, T] of a batch, padded to the longest, and the labels [B].
        order: "padded" or "grouped", see `draw`.
    """
    drawn = read_batches(folder)
    batches = []
    for pairs in drawn[order]:
        labels = np.array([label for _, label in pairs], np.int64)
        batches.append((pad([ids for ids, _ in pairs], PAD), labels))
    warm_up = [batches[0]] * WARM_UP  # steps that `time_steps` does not time
    seconds = time_steps(step, warm_up + batches)
    tell(seconds if args.length else sum(seconds), check=drawn["tokens"])


WORKS = {
    "ours": ours,
    "ours_bfloat16": ours,
    "hf_best_sdpa": torch_peer,
    "hf_best_latest_sdpa": torch_peer,
    "hf_best_latest_eager": torch_peer,
    "hf_latest_bfloat16": torch_peer,
    "paddlenlp_best": paddlenlp_peer,
    "hf_grouped": torch_peer,
}


def main() -> None:
    compare(__doc__, WORKS, SIZES, unit="tokens/s", prepare=draw, in_turns=(*WORKS, PREVIOUS))


if __name__ == "__main__":
    run(main)
