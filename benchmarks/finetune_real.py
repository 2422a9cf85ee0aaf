"""Time a fine-tuning step beside transformers (torch) and PaddleNLP, all in turns with ours, at base size.

--data has a premise, a hypothesis and a label in each line, with tabs between. The batches are those that the
XNLI recipe draws; peers pad them, and a "grouped" peer gets batches of similar length. Pads do not count.
--length makes sequences of that many random tokens instead, because peers may drop a mask of ones. In older
revisions this is another program: --against ../another-checkout/benchmarks/finetune_step.py.
"""

import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import LATEST, OURS, Contender, compare, tell, wait_for_turn
from utils.errors import UserError, run

WARM_UP = 2  # the first steps touch fresh memory
SIZES = {
    "layers": 12, "hidden": 768, "vocab": 250_002, "batch": 16, "steps": 5, "length": 0, "max_seq_len": 256,
    "data": "", "piece_model_path": "", "amp": "none",
}  # fmt: skip
SDPA, GROUPED = {"attention": "sdpa"}, {"order": "grouped"}
INSTALLED, BFLOAT16 = SDPA | {"fused": False}, SDPA | {"bfloat16": True}
TRANSFORMERS = {
    OURS: Contender("ours", OURS),
    "hf_installed_sdpa": Contender("transformers XLM-R, sdpa, as installed", "torch", False, INSTALLED),
    "hf_best_sdpa": Contender("transformers XLM-R, sdpa", "torch", True, SDPA),
    "hf_best_eager": Contender("transformers XLM-R, eager", "torch"),
    "hf_best_latest_sdpa": Contender("newest transformers, sdpa", "torch", True, SDPA, LATEST),
    "hf_best_latest_eager": Contender("newest transformers, eager", "torch", True, {}, LATEST),
}
BFLOAT16_LABEL = "newest transformers, sdpa, bfloat16"
GROUPED_LABEL = "newest transformers, sdpa, grouped"
CONTENDERS = {
    **TRANSFORMERS,
    "hf_latest_bfloat16": Contender(BFLOAT16_LABEL, "torch", True, BFLOAT16, LATEST, "bfloat16"),
    "paddlenlp_installed": Contender("PaddleNLP ERNIE-M, as installed", "paddlenlp", False),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", "paddlenlp"),
    "hf_grouped": Contender(GROUPED_LABEL, "torch", True, SDPA | GROUPED, LATEST, counts=False),
    "paddlenlp_grouped": Contender("PaddleNLP ERNIE-M, grouped", "paddlenlp", True, GROUPED, counts=False),
}


def draw(folder: Path, args) -> None:
    """Write the batches of (ids, label) for all contenders: "padded" and "grouped"."""
    labels, padded = draw_random(args) if args.length else draw_real(args)
    pairs = sorted((pair for batch in padded for pair in batch), key=lambda pair: len(pair[0]))
    grouped = in_batches(pairs, args.batch)
    random.Random(1).shuffle(grouped)
    tokens = sum(len(ids) for ids, _ in pairs)
    drawn = {"labels": labels, "grouped": grouped, "padded": padded, "tokens": tokens}
    (folder / "pairs.json").write_text(json.dumps(drawn), encoding="utf-8")


def draw_random(args) -> tuple[list[str], list[list]]:
    rng, words = random.Random(0), range(4, args.vocab)
    texts = [[0, *rng.choices(words, k=args.length - 2), 2] for _ in range(args.batch * args.steps)]
    pairs = [(ids, rng.randrange(3)) for ids in texts]
    return ["0", "1", "2"], in_batches(pairs, args.batch)


def in_batches(pairs: list, size: int) -> list[list]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def draw_real(args) -> tuple[list[str], list[list]]:
    from finetune.classification import Classification
    from reader.batching import Batches
    from reader.classification import Example
    from reader.tokenization import Tokenizer

    for path in (args.data, args.piece_model_path):
        if not Path(path).is_file():
            raise UserError(f"'{path}': no such file; give --data and --piece_model_path, or --length")
    rows = [line.split("\t") for line in Path(args.data).read_text(encoding="utf-8").rstrip("\n").split("\n")]
    if wrong := [number for number, row in enumerate(rows, 1) if len(row) != 3]:
        raise UserError(f"{args.data}, line {wrong[0]}: not premise, hypothesis and label with tabs between")
    if len(rows) < args.batch * args.steps:
        raise UserError(f"{args.data}: {len(rows)} lines; {args.batch * args.steps} are needed")
    labels = sorted({row[2] for row in rows})
    examples = [Example(a, b, labels.index(label), None) for a, b, label in rows]
    task = Classification(Tokenizer(None, args.piece_model_path), labels, args.max_seq_len)
    batches = []
    for work in itertools.islice(Batches(examples, task.encode, args.batch, seed=1).stream(), args.steps):
        chosen = [examples[i] for i in work.micro_batches[0].indices]
        batches.append([(feature.ids, feature.label) for feature in task.encode(chosen)])
    return labels, batches


def read_drawn(folder: Path) -> dict:
    """What `draw` wrote."""
    return json.loads((folder / "pairs.json").read_text(encoding="utf-8"))


def tokens_of(args, folder: Path) -> int:
    """The tokens in each of the times that a worker tells."""
    return args.batch * args.length or read_drawn(folder)["tokens"]


def ours(folder: Path, args) -> None:
    from utils.runtime import prepare

    prepare(quiet=True)
    import paddle
    import paddle.nn.functional as F

    from finetune.classification import Classification
    from model.batch import TokenBatch
    from model.config import ErnieMConfig
    from model.device import upload
    from model.heads import SequenceClassifier
    from reader.batching import Feature
    from reader.tokenization import Tokenizer

    labels = read_drawn(folder)["labels"]
    config = ErnieMConfig(args.vocab, args.hidden, args.layers, args.hidden // 64)
    model = SequenceClassifier(config, len(labels))
    if args.length:

        def loss_of(*arrays):
            input_ids, targets = arrays
            batch = upload(TokenBatch.from_padded(input_ids, config.pad_token_id))
            return F.cross_entropy(model(batch), paddle.to_tensor(targets))

        time_all(folder, args, our_step(model, loss_of, args.amp), to_arrays)
    else:
        task = Classification(Tokenizer(None, args.piece_model_path), labels, args.max_seq_len)

        def collate(pairs: list) -> tuple:
            return (task.encode.collate([Feature(*pair) for pair in pairs], range(len(pairs)), len(pairs)),)

        time_all(folder, args, our_step(model, lambda batch: task.loss(model, batch)[0], args.amp), collate)


def torch_peer(folder: Path, args, order: str = "padded", **options) -> None:
    labels = len(read_drawn(folder)["labels"])
    step = torch_step(args, "ForSequenceClassification", num_labels=labels, **options)
    time_all(folder, args, step, to_arrays, order)


def paddlenlp_peer(folder: Path, args, order: str = "padded") -> None:
    """PaddleNLP's own ERNIE-M."""
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification

    config = ErnieMConfig(
        vocab_size=args.vocab, num_hidden_layers=args.layers, num_labels=len(read_drawn(folder)["labels"]),
        hidden_size=args.hidden, num_attention_heads=args.hidden // 64, intermediate_size=4 * args.hidden,
    )  # fmt: skip
    model = ErnieMForSequenceClassification(config)
    model.train()
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(5e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)

    def step(input_ids, labels):
        input_ids = paddle.to_tensor(input_ids)
        mask = (input_ids != 1).astype("int64")
        F.cross_entropy(model(input_ids, attention_mask=mask), paddle.to_tensor(labels)).backward()
        optimizer.step()
        optimizer.clear_grad()
        wait_for_paddle()

    time_all(folder, args, step, to_arrays, order)


def time_all(folder: Path, args, step: Callable, collate: Callable, order: str = "padded") -> None:
    """Time all batches after some steps on the first. Tell the seconds of each if they are of one size."""
    drawn = read_drawn(folder)
    batches = [collate(batch) for batch in drawn[order]]
    seconds = time_steps(step, [batches[0]] * WARM_UP + batches)
    tell(seconds if args.length else sum(seconds), check=drawn["tokens"])


def to_arrays(pairs: list) -> tuple:
    """Ids [B, T], padded to the longest, and labels [B]."""
    import numpy as np

    input_ids = np.ones([len(pairs), max(len(ids) for ids, _ in pairs)], np.int64)  # 1: the pad token
    for row, (ids, _) in zip(input_ids, pairs):
        row[: len(ids)] = ids
    return input_ids, np.array([label for _, label in pairs], np.int64)


def time_steps(step: Callable[..., None], batches: Iterable[tuple]) -> list[float]:
    """The seconds of each `step(*batch)`, which waits for the device, without the first WARM_UP."""
    seconds = []
    for batch in batches:
        wait_for_turn()
        start = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def our_step(model, loss_of: Callable, amp: str = "none") -> Callable[..., None]:
    """A training step of ours. `loss_of(*batch)` is the loss of one batch."""
    from training.engine import Engine
    from training.optimizer import build_optimizer
    from training.precision import Precision

    optimizer = build_optimizer(model, 5e-5, weight_decay=0.01)
    engine = Engine(model, optimizer, clip_norm=1.0, precision=Precision(amp))

    def step(*batch):
        engine.step([batch], lambda batch: (loss_of(*batch), {}))
        wait_for_paddle()

    return step


def torch_step(
    args, head: str, attention: str = "eager", fused: bool = True, bfloat16: bool = False,
    loss_of: Callable = lambda model, ids, mask, labels: model(ids, attention_mask=mask, labels=labels).loss,
    **config,
) -> Callable[..., None]:  # fmt: skip
    """A training step of XLM-R of transformers: (ids, labels) as arrays -> None.

    `head` ends the name of a class: "ForMaskedLM". `config` has further values of the configuration.
    """
    import torch
    import transformers

    device = torch_device()
    shape = hf_config(args.layers, args.vocab, args.hidden, attn_implementation=attention, **config)
    model = getattr(transformers, f"XLMRoberta{head}")(shape).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.01, fused=fused or None)

    def step(*arrays):
        input_ids, labels = (torch.from_numpy(array).to(device) for array in arrays)
        mask = (input_ids != 1).long()
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            loss = loss_of(model, input_ids, mask, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def hf_config(layers: int, vocabulary: int, hidden_size: int = 768, **more):
    """A configuration of XLM-R in transformers."""
    import transformers

    values = {
        "vocab_size": vocabulary, "num_hidden_layers": layers, "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // 64, "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    }  # fmt: skip
    return transformers.XLMRobertaConfig(**values | more)


def torch_device() -> str:
    """The device of the peers that use torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait_for_paddle() -> None:
    """Wait until Paddle's GPU has done all its work."""
    import paddle

    if paddle.device.get_device().startswith("gpu"):
        paddle.device.synchronize()


def main() -> None:
    workers = {OURS: ours, "torch": torch_peer, "paddlenlp": paddlenlp_peer}
    compare(__doc__, CONTENDERS, workers, SIZES, "tokens/s", tokens_of, draw, turns=tuple(workers))


if __name__ == "__main__":
    run(main)
