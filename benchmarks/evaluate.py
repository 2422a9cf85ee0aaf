"""Time the evaluation of a classifier on a CPU beside transformers (torch) and PaddleNLP.

    python benchmarks/evaluate.py                            1,000 pairs at base size
    python benchmarks/evaluate.py --layers 2 --pairs 200 --rounds 1

From a file of made-up labelled pairs of mixed length to loss and accuracy, with one tokenizer and one shape
of random weights (12 x 768, 250,002 words, float32): reading, tokenising, forward passes and the score;
loading the model is not timed. Ours is what run_classifier.py does, length buckets of 32 pairs and a
process that reads ahead. transformers gets its fast tokenizer and batches of 32 or 8 sorted by
length ("compiled": with dynamic shapes), as installed what its Trainer has by default: batches of 8 in the
order of the file. PaddleNLP has its own tokenizer and the sorted batches.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import made_up
from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, compare, tell
from benchmarks.training import torch_device, xlm_r_config
from utils.runtime import prepare

MAX_SEQ_LEN, BATCH = 256, 32
CONTENDERS = {
    "ours": Contender("ours", "ours", True),
    "hf_installed": Contender("transformers, as installed", "torch", False, {"batch": 8, "sort": False}),
    "hf_best_sdpa": Contender("transformers, sdpa", "torch", True),
    "hf_best_small": Contender("transformers, sdpa, batches of 8", "torch", True, {"batch": 8}),
    "hf_best_eager": Contender("transformers, eager", "torch", True, {"attention": "eager"}),
    "hf_best_compiled": Contender("transformers, sdpa, compiled", "torch", True, {"compile": True}),
    "hf_best_latest": Contender("newest transformers, sdpa", "torch", True, environment=LATEST),
    "paddlenlp_best": Contender("PaddleNLP ERNIE-M", "paddlenlp", True),
}


def make_files(folder: Path, args) -> None:
    words = made_up.write_tokenizers(folder)
    made_up.write_pairs(folder, words, args.pairs)


def ours(folder: Path, args) -> None:
    prepare(quiet=True)
    from finetune.classification import Classification
    from finetune.datasets import EvalFile
    from finetune.evaluation import evaluate
    from model.ernie_m import ErnieMConfig
    from reader.tokenization import Tokenizer
    from training.engine import Engine
    from training.optimizer import build_optimizer

    labels = [str(i) for i in range(made_up.LABELS)]
    task = Classification(Tokenizer(None, folder / made_up.OURS), labels, MAX_SEQ_LEN, named=False)
    model = task.make_model(ErnieMConfig(args.vocab, 768, args.layers, 12))
    engine = Engine(model, build_optimizer(model, 5e-5))
    path = folder / made_up.PAIRS
    start = time.perf_counter()
    data = task.read(path, "dev")
    evaluate(task, engine, [EvalFile(str(path), "en", path, data)], BATCH, in_tokens=False, epoch=0)
    seconds = time.perf_counter() - start
    tell(seconds, check=[len(data), sum(len(feature.ids) for feature in task.encode(data))])


def torch_xlm_r(
    folder: Path,
    args,
    attention: str = "sdpa",
    batch: int = BATCH,
    sort: bool = True,
    compile: bool = False,
) -> None:
    import torch
    import transformers

    shape = xlm_r_config(args.layers, args.vocab, attn_implementation=attention, num_labels=made_up.LABELS)
    device = torch_device()
    model = transformers.XLMRobertaForSequenceClassification(shape).to(device).eval()
    forward = torch.compile(model, dynamic=True) if compile else model
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / made_up.XLM_R)

    def encode(a: list[str], b: list[str]) -> list[list[int]]:
        return tokenizer(a, b, truncation=True, max_length=MAX_SEQ_LEN)["input_ids"]

    def logits_and_loss(ids, labels):
        with torch.inference_mode():
            ids, labels = (torch.from_numpy(array).to(device) for array in (ids, labels))
            output = forward(ids, attention_mask=(ids != 1).long(), labels=labels)
            return output.logits.cpu().numpy(), output.loss.item()

    if compile:  # which is not what is compared
        import numpy as np

        for rows, length in ((BATCH, 16), (BATCH, 40), (3, 24)):
            logits_and_loss(np.full([rows, length], 5), np.zeros(rows, int))
    time_evaluation(folder, encode, logits_and_loss, batch, sort)


def paddlenlp_ernie_m(folder: Path, args) -> None:
    import paddle
    import paddle.nn.functional as F
    from paddlenlp.transformers import ErnieMConfig, ErnieMForSequenceClassification, ErnieMTokenizer

    config = ErnieMConfig(vocab_size=args.vocab, num_hidden_layers=args.layers, num_labels=made_up.LABELS)
    model = ErnieMForSequenceClassification(config)
    model.eval()
    tokenizer = ErnieMTokenizer.from_pretrained(str(folder / made_up.ERNIE_M))

    def encode(a: list[str], b: list[str]) -> list[list[int]]:
        return tokenizer(a, b, truncation=True, max_length=MAX_SEQ_LEN)["input_ids"]

    @paddle.no_grad()
    def logits_and_loss(ids, labels):
        ids = paddle.to_tensor(ids)
        logits = model(ids, attention_mask=(ids != 1).astype("int64"))
        return logits.numpy(), float(F.cross_entropy(logits, paddle.to_tensor(labels)))

    time_evaluation(folder, encode, logits_and_loss, BATCH, sort=True)


def time_evaluation(
    folder: Path, encode: Callable, logits_and_loss: Callable, batch: int, sort: bool
) -> None:
    """A peer's loop over padded batches, from the file to loss and accuracy."""
    import numpy as np

    start = time.perf_counter()
    lines = (folder / made_up.PAIRS).read_text(encoding="utf-8").splitlines()[1:]
    a, b, labels = zip(*(line.split("\t") for line in lines))
    labels = np.asarray(labels, np.int64)
    rows = encode(list(a), list(b))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if sort else list(range(len(rows)))
    right, loss = 0, 0.0
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        ids = np.ones([len(chosen), max(len(rows[i]) for i in chosen)], np.int64)  # 1 is the pad
        for filled, i in zip(ids, chosen):
            filled[: len(rows[i])] = rows[i]
        logits, mean = logits_and_loss(ids, labels[chosen])
        right += int((logits.argmax(-1) == labels[chosen]).sum())
        loss += mean * len(chosen)
    assert 0 <= right <= len(rows) and np.isfinite(loss)
    tell(time.perf_counter() - start, check=[len(rows), sum(map(len, rows))])


WORKERS = {"ours": ours, "torch": torch_xlm_r, "paddlenlp": paddlenlp_ernie_m}

if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        WORKERS,
        {"layers": 12, "vocab": VOCABULARY, "pairs": 1000},
        "pairs/s",
        lambda args: args.pairs,
        prepare=make_files,
    )
