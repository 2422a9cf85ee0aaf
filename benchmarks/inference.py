"""Sentences to outputs on a CPU: our engines beside transformers (torch), the bare encoder.

    python benchmarks/inference.py                                 base size: an hour
    python benchmarks/inference.py --layers 2 --vocab 1000 --sentences 64 --rounds 1

All get the same rows of ids, of 5 to 120 tokens, and make the states of the top layer, in batches of similar
length: each once in batches of at most 4,096 padded tokens, as predict.py makes them, and once of at most
1,024, which have fewer pads. What counts is the faster of the two. Weights are random, of one shape
(12 x 768, 250,002 words). Engines' files are written before the clock starts; loading is not timed.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py): "ratios"
has each engine's speed over that of the fastest torch in float32, "batch_tokens" of a contender says which
batches it was faster with in each round.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, compare, tell
from benchmarks.training import xlm_r_config

HIDDEN, HEADS = 768, 12
BATCH_TOKENS = (4096, 1024)
SDPA, INT8 = {"attention": "sdpa"}, "int8"
CONTENDERS = {
    "dygraph": Contender("ours, dygraph", "ours", True, {"engine": "dygraph"}),
    "paddle": Contender("ours, Paddle inference", "ours", True, {"engine": "paddle"}),
    "onnx": Contender("ours, ONNX Runtime", "ours", True, {"engine": "onnx"}),
    "onnx-int8": Contender("ours, ONNX Runtime, int8", "ours", True, {"engine": "onnx-int8"}, precision=INT8),
    "hf_installed_sdpa": Contender("transformers, sdpa", "torch", False, SDPA),
    "hf_best_sdpa": Contender("transformers, sdpa, tuned", "torch", True, SDPA),
    "hf_best_eager": Contender("transformers, eager, tuned", "torch", True, {"attention": "eager"}),
    "hf_best_latest_sdpa": Contender("newest transformers, sdpa, tuned", "torch", True, SDPA, LATEST),
    "hf_bfloat16": Contender(
        "transformers, bfloat16", "torch", True, SDPA | {"precision": "bfloat16"}, precision="bfloat16"
    ),
    "hf_int8": Contender(
        "transformers, int8 (dynamic)", "torch", True, SDPA | {"precision": INT8}, precision=INT8
    ),
}


def make_rows(vocabulary: int, count: int) -> list[list[int]]:
    """Ids with special tokens; most rows are short."""
    import numpy as np

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.2, 0.7, count), 3, 118).astype(int)
    return [[0, *random.integers(4, vocabulary - 1, length).tolist(), 2] for length in lengths]


def batches(rows: list[list[int]], batch_tokens: int) -> list:
    """Arrays of rows of similar length."""
    from reader.features import padded_batches

    return [ids for _, ids in padded_batches(rows, pad_id=1, batch_tokens=batch_tokens)]


def ours(folder: Path, args, engine: str) -> None:
    from benchmarks.engines import open_engine
    from model.config import ErnieMConfig

    config = ErnieMConfig(args.vocab, HIDDEN, args.layers, HEADS)
    time_batches(open_engine(engine, folder, config), make_rows(args.vocab, args.sentences))


def transformers_torch(folder: Path, args, attention: str, precision: str = "float32") -> None:
    import torch
    import transformers

    config = xlm_r_config(args.layers, args.vocab, attn_implementation=attention)
    model = transformers.XLMRobertaModel(config).eval()
    if precision == "bfloat16":
        model = model.to(torch.bfloat16)
    elif precision == INT8:
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def work(ids):
        with torch.inference_mode():
            ids = torch.from_numpy(ids)
            return model(ids, attention_mask=(ids != 1).long()).last_hidden_state.float().numpy()

    time_batches(work, make_rows(args.vocab, args.sentences))


def time_batches(work: Callable, rows: list[list[int]]) -> None:
    """A worker's last act: for each size of batches all of them once, after two for warmth."""
    seconds = {}
    for batch_tokens in BATCH_TOKENS:
        arrays = batches(rows, batch_tokens)
        for ids in (arrays[0], arrays[-1]):
            work(ids)
        start = time.perf_counter()
        for ids in arrays:
            work(ids)
        seconds[batch_tokens] = time.perf_counter() - start
    best = min(seconds, key=seconds.get)
    tell(seconds[best], batch_tokens=best)


WORKERS = {"ours": ours, "torch": transformers_torch}

if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        WORKERS,
        {"layers": 12, "vocab": VOCABULARY, "sentences": 512},
        "sentences/s",
        lambda args: args.sentences,
    )
