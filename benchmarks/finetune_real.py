"""Time a fine-tuning step on real sentence pairs beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_real.py --data pairs.tsv --piece_model_path piece.model
    python benchmarks/finetune_real.py --data .. --piece_model_path .. --against ../another-checkout
    python benchmarks/finetune_real.py --data .. --piece_model_path .. --quick

A line of the file is premise, hypothesis and label, with tabs between. One step is a sequence classification
of 16 or 32 pairs: base shape (12 x 768, 250,002 words), dropout 0.1, gradient clipped to norm 1, AdamW. The
batches are those that the XNLI recipe draws. A "padded" peer gets the same batches, padded to the longest of
the batch. A "grouped" peer gets the same pairs, sorted by length before they are cut into batches. Every
contender takes turns with ours.

The unit is real tokens a second: pads do not count. In the last line of JSON the figures of 32 pairs come
first; "ratio" is that to the fastest padded peer in float32, "ratio_grouped" that to the fastest grouped one,
"ratio_to_previous" that to --against for each size, and "batch_16" has the figures of 16 pairs.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import (
    FLOAT32,
    OURS,
    PREVIOUS,
    VOCABULARY,
    Contender,
    measure,
    parse,
    tell,
    wait_for_turn,
)
from benchmarks.training import (
    GROUPED,
    PADDED,
    WARM_UP,
    operations_of,
    paddlenlp_step,
    torch_step,
    wait_for_paddle,
)

SIZES = {
    "layers": 12, "hidden": 768, "vocab": VOCABULARY, "batch": 32, "steps": 8, "max_seq_len": 256,
    "data": "", "piece_model_path": "", "quick": False,
}  # fmt: skip
QUICK = {"layers": 1, "hidden": 64, "vocab": 40000, "steps": 2}  # checks the program; the figures say nothing
FILES = ("data", "piece_model_path")
DRAWN = "pairs.json"


CONTENDERS = {OURS: Contender("ours", OURS), **PADDED, **GROUPED}


def draw(folder: Path, args) -> None:
    """Write the batches that the recipe draws, and the same pairs in batches of similar length."""
    from finetune.classification import Classification
    from reader.batching import Batches
    from reader.classification import Example
    from reader.tokenization import Tokenizer
    from utils.errors import UserError

    for flag in FILES:
        if not Path(getattr(args, flag)).is_file():
            raise UserError(f"--{flag} {getattr(args, flag)}: there is no such file")
    rows = [line.split("\t") for line in Path(args.data).read_text(encoding="utf-8").splitlines()]
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) != 3]:
        raise UserError(f"{args.data}, line {wrong[0]}: not premise, hypothesis and label with tabs between")
    if len(rows) < args.batch * args.steps:
        raise UserError(f"{args.data}: {len(rows)} lines; {args.batch * args.steps} are needed")
    labels = sorted({row[2] for row in rows})
    examples = [Example(a, b, labels.index(label), None) for a, b, label in rows]
    task = Classification(Tokenizer(None, args.piece_model_path), labels, args.max_seq_len)
    stream = Batches(examples, task.encode, args.batch, seed=1).stream()
    padded = []
    for work, _ in zip(stream, range(args.steps)):
        chosen = [examples[i] for i in work.micro_batches[0].indices]
        padded.append([(feature.ids, feature.label) for feature in task.encode(chosen)])
    pairs = sorted((pair for batch in padded for pair in batch), key=lambda pair: len(pair[0]))
    grouped = [pairs[start : start + args.batch] for start in range(0, len(pairs), args.batch)]
    random.Random(1).shuffle(grouped)
    drawn = {
        "labels": labels,
        "grouped": grouped,
        "padded": padded,
        "tokens": sum(len(ids) for ids, _ in pairs),
    }
    (folder / DRAWN).write_text(json.dumps(drawn), encoding="utf-8")


def read_drawn(folder: Path) -> dict:
    """What `draw` wrote: "labels", "padded" and "grouped" batches of (ids, label), and the number of ids."""
    return json.loads((folder / DRAWN).read_text(encoding="utf-8"))


def time_all(step: Callable, batches: list[tuple], tokens: int, operations: float = 0.0) -> None:
    """Time `step(*batch)` for all batches, after two steps on the first, and tell the seconds of all."""
    for _ in range(WARM_UP):
        step(*batches[0])
    seconds = 0.0
    for batch in batches:
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds += time.perf_counter() - start
    tell(seconds, operations, check=tokens)


def ours(folder: Path, args) -> None:
    """The task, its batches, its loss and the engine, of this checkout or of the one of --against."""
    from utils.runtime import prepare

    prepare(quiet=True)
    from finetune.classification import Classification
    from model.ernie_m import ErnieMConfig
    from reader.features import Feature
    from reader.tokenization import Tokenizer
    from training.engine import Engine
    from training.optimizer import build_optimizer

    drawn = read_drawn(folder)
    task = Classification(Tokenizer(None, args.piece_model_path), drawn["labels"], args.max_seq_len)
    model = task.make_model(ErnieMConfig(args.vocab, args.hidden, args.layers, args.hidden // 64))
    engine = Engine(model, build_optimizer(model, 5e-5, weight_decay=0.01), clip_norm=1.0)

    def collate(pairs: list) -> tuple:
        return (task.encode.collate([Feature(*pair) for pair in pairs], range(len(pairs)), len(pairs)),)

    def step(batch):
        engine.step([batch], lambda batch: (task.loss(model, batch)[0], {}))
        wait_for_paddle()

    operations = operations_of(model, drawn["tokens"])
    time_all(step, list(map(collate, drawn["padded"])), drawn["tokens"], operations)


def torch_peer(folder: Path, args, order: str, **options) -> None:
    drawn = read_drawn(folder)
    step = torch_step(args, "ForSequenceClassification", num_labels=len(drawn["labels"]), **options)
    time_all(step, list(map(to_arrays, drawn[order])), drawn["tokens"])


def paddlenlp_peer(folder: Path, args, order: str) -> None:
    drawn = read_drawn(folder)
    step = paddlenlp_step(args, len(drawn["labels"]))
    time_all(step, list(map(to_arrays, drawn[order])), drawn["tokens"])


def to_arrays(pairs: list) -> tuple:
    """Ids [B, T], padded to the longest, and labels [B]."""
    import numpy as np

    input_ids = np.ones([len(pairs), max(len(ids) for ids, _ in pairs)], np.int64)  # 1: the pad token
    for row, (ids, _) in zip(input_ids, pairs):
        row[: len(ids)] = ids
    return input_ids, np.array([label for _, label in pairs], np.int64)


def main(args) -> None:
    if args.quick:
        vars(args).update(QUICK)
    sizes = [name for name in SIZES if name != "quick"]
    padded, grouped = (
        [name for name, peer in of_order.items() if peer.precision == FLOAT32]
        for of_order in (PADDED, GROUPED)
    )
    results = {}
    for batch in (32, 16):
        print(f"batches of {batch}", flush=True)
        vars(args).update(batch=batch)
        found = measure(
            args, CONTENDERS, sizes, "tokens/s", lambda _, folder: read_drawn(folder)["tokens"], draw,
            turns="all", rivals=padded,
        )  # fmt: skip
        ratios = found.get("ratio_to_peer", {})
        found["ratio_grouped"] = min((ratios[name] for name in grouped if name in ratios), default=None)
        results[batch] = {name: value for name, value in found.items() if name not in FILES}
    previous = {batch: found.get("ratio_to_peer", {}).get(PREVIOUS) for batch, found in results.items()}
    print(json.dumps(results[32] | {"ratio_to_previous": previous, "batch_16": results[16]}))


if __name__ == "__main__":
    workers = {OURS: ours, "torch": torch_peer, "paddlenlp": paddlenlp_peer}
    flags = parse(__doc__, CONTENDERS, workers, SIZES, "all")  # before a package of the project is imported
    from utils.errors import run

    run(lambda: main(flags))
