"""Time a fine-tuning step on real sentence pairs beside transformers (torch) and PaddleNLP.

    python benchmarks/finetune_real.py --data pairs.tsv --piece_model_path piece.model
    python benchmarks/finetune_real.py --data .. --piece_model_path .. --against ../another-checkout

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
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import training
from benchmarks.side_by_side import FLOAT32, LATEST, OURS, PREVIOUS, VOCABULARY, Benchmark, Contender, tell

SIZES = {
    "layers": 12, "hidden": 768, "vocab": VOCABULARY, "batch": 32, "steps": 8, "max_seq_len": 256,
    "data": "", "piece_model_path": "",
}  # fmt: skip
FILES = ("data", "piece_model_path")
PADDED, GROUPED = "padded", "grouped"
BFLOAT16 = training.SDPA | {"bfloat16": True}
PEERS = (  # beginning and end of the name, label, kind, environment, options, precision
    ("hf", "_sdpa", "newest transformers, sdpa", "torch", LATEST, training.SDPA, FLOAT32),
    ("hf", "_eager", "newest transformers, eager", "torch", LATEST, {}, FLOAT32),
    ("hf", "_pinned", "transformers XLM-R, sdpa", "torch", None, training.SDPA, FLOAT32),
    ("hf", "_bfloat16", "newest transformers, sdpa, bfloat16", "torch", LATEST, BFLOAT16, "bfloat16"),
    ("paddlenlp", "", "PaddleNLP ERNIE-M", "paddlenlp", None, {}, FLOAT32),
)
CONTENDERS = {OURS: Contender("ours", OURS)} | {
    f"{name}_{order}{end}": Contender(
        f"{label}, {order}", kind, True, options | {"order": order}, environment, precision
    )
    for order in (PADDED, GROUPED)
    for name, end, label, kind, environment, options, precision in PEERS
}


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
    tokens = sum(len(ids) for ids, _ in pairs)
    drawn = {"labels": labels, GROUPED: grouped, PADDED: padded, "tokens": tokens}
    (folder / "pairs.json").write_text(json.dumps(drawn), encoding="utf-8")


def read_drawn(folder: Path) -> dict:
    """What `draw` wrote: "labels", "padded" and "grouped" batches of (ids, label), and the number of ids."""
    return json.loads((folder / "pairs.json").read_text(encoding="utf-8"))


def time_all(
    args, step: Callable[..., None], drawn: dict, order: str, collate: Callable[[list], tuple]
) -> None:
    """Time all batches after some steps on the first, and tell the seconds of all."""
    batches = [collate(batch) for batch in drawn[order]]
    seconds = sum(training.time_steps(step, [batches[0]] * training.WARM_UP + batches))
    tell(seconds, training.operations_of(args, drawn["tokens"]), check=drawn["tokens"])


def ours(folder: Path, args) -> None:
    """The task, its batches, its loss and the engine, of this checkout or of the one of --against."""
    from utils.runtime import prepare

    prepare(quiet=True)
    from finetune.classification import Classification
    from model.ernie_m import ErnieMConfig
    from reader.features import Feature
    from reader.tokenization import Tokenizer

    drawn = read_drawn(folder)
    task = Classification(Tokenizer(None, args.piece_model_path), drawn["labels"], args.max_seq_len)
    model = task.make_model(ErnieMConfig(args.vocab, args.hidden, args.layers, args.hidden // 64))

    def collate(pairs: list) -> tuple:
        return (task.encode.collate([Feature(*pair) for pair in pairs], range(len(pairs)), len(pairs)),)

    time_all(args, training.our_step(model, lambda batch: task.loss(model, batch)[0]), drawn, PADDED, collate)


def torch_peer(folder: Path, args, order: str, **options) -> None:
    drawn = read_drawn(folder)
    labels = len(drawn["labels"])
    step = training.torch_step(args, "ForSequenceClassification", num_labels=labels, **options)
    time_all(args, step, drawn, order, to_arrays)


def paddlenlp_peer(folder: Path, args, order: str) -> None:
    drawn = read_drawn(folder)
    time_all(args, training.paddlenlp_step(args, len(drawn["labels"])), drawn, order, to_arrays)


def to_arrays(pairs: list) -> tuple:
    """Ids [B, T], padded to the longest, and labels [B]."""
    import numpy as np

    input_ids = np.ones([len(pairs), max(len(ids) for ids, _ in pairs)], np.int64)  # 1: the pad token
    for row, (ids, _) in zip(input_ids, pairs):
        row[: len(ids)] = ids
    return input_ids, np.array([label for _, label in pairs], np.int64)


def measure_both(benchmark: Benchmark, args) -> None:
    results = {}
    for batch in (32, 16):
        print(f"batches of {batch}", flush=True)
        vars(args).update(batch=batch)
        found = benchmark.measure(args)
        ratios = found.get("ratio_to_peer", {})
        grouped = [one for name, one in ratios.items() if GROUPED in name and "bfloat16" not in name]
        found["ratio_grouped"] = min(grouped, default=None)
        results[batch] = {name: value for name, value in found.items() if name not in FILES}
    previous = {batch: found.get("ratio_to_peer", {}).get(PREVIOUS) for batch, found in results.items()}
    print(json.dumps(results[32] | {"ratio_to_previous": previous, "batch_16": results[16]}))


if __name__ == "__main__":
    benchmark = Benchmark(
        __doc__,
        CONTENDERS,
        {OURS: ours, "torch": torch_peer, "paddlenlp": paddlenlp_peer},
        SIZES,
        "tokens/s",
        lambda _, folder: read_drawn(folder)["tokens"],
        prepare=draw,
        turns="all",
        rivals=tuple(name for name in CONTENDERS if PADDED in name and "bfloat16" not in name),
    )
    args = benchmark.parse()  # before a package of the project is imported
    from utils.errors import run

    run(lambda: measure_both(benchmark, args))
