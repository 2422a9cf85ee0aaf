"""Sentences to outputs on a CPU: our engines beside transformers (torch), the bare encoder.

    python benchmarks/inference.py                                 base size: half an hour
    python benchmarks/inference.py --layers 2 --vocab 1000 --sentences 64 --rounds 1

All get the same rows of ids, of 5 to 120 tokens, and make the states of the top layer: ours as predict.py
does it, in batches of similar length of at most 4,096 padded tokens; transformers in the same batches, with
the attention that is faster, in inference mode. Weights are random, of one shape (12 x 768, 250,002 words).
Engines' files are written before the clock starts; loading is not timed.

Contenders run one after the other in each round, each in a process of its own (benchmarks/side_by_side.py).
The last line is JSON (benchmarks/figures.py): "ratios" has each engine's speed over that of the fastest
torch.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import figures, report
from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, choose, interleave, tell
from utils.runtime import prepare

HIDDEN, HEADS, BATCH_TOKENS = 768, 12, 4096
CONTENDERS = {
    "dygraph": Contender("ours, dygraph", "ours", True, {"engine": "dygraph"}),
    "paddle": Contender("ours, Paddle inference", "ours", True, {"engine": "paddle"}),
    "onnx": Contender("ours, ONNX Runtime", "ours", True, {"engine": "onnx"}),
    "onnx-int8": Contender(
        "ours, ONNX Runtime, int8", "ours", True, {"engine": "onnx-int8"}, precision="int8"
    ),
    "hf_installed_sdpa": Contender("transformers, sdpa", "torch", False, {"attention": "sdpa"}),
    "hf_best_sdpa": Contender("transformers, sdpa, tuned", "torch", True, {"attention": "sdpa"}),
    "hf_best_eager": Contender("transformers, eager, tuned", "torch", True, {"attention": "eager"}),
    "hf_best_latest_sdpa": Contender(
        "newest transformers, sdpa, tuned", "torch", True, {"attention": "sdpa"}, LATEST
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--sentences", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = CONTENDERS[args.worker]
        work = ours if contender.kind == "ours" else transformers_torch
        work(Path(args.folder), args.layers, args.vocab, args.sentences, **contender.options)
        return
    chosen = choose(parser, args.contenders, CONTENDERS)
    settings = {"layers": args.layers, "vocab": args.vocab, "sentences": args.sentences}
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--folder={folder}", *(f"--{name}={value}" for name, value in settings.items())]
        runs = interleave(
            chosen, args.rounds, flags, lambda found: f"{args.sentences / found['seconds']:8.1f} sentences/s"
        )
    found = figures(runs, chosen, args.sentences, "sentences/s")
    report(found)
    print(json.dumps(settings | {"rounds": args.rounds} | found))


def make_rows(vocabulary: int, count: int) -> list[list[int]]:
    """Ids with special tokens; most rows are short."""
    import numpy as np

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.2, 0.7, count), 3, 118).astype(int)
    return [[0, *random.integers(4, vocabulary - 1, length).tolist(), 2] for length in lengths]


def batches(rows: list[list[int]]) -> list:
    """Arrays of rows of similar length."""
    from reader.features import padded_batches

    return [ids for _, ids in padded_batches(rows, pad_id=1, batch_tokens=BATCH_TOKENS)]


def ours(folder: Path, layers: int, vocabulary: int, sentences: int, engine: str) -> None:
    prepare(quiet=True)
    from benchmarks.engines import open_engine
    from model.ernie_m import ErnieMConfig, ErnieMModel

    encoder = ErnieMModel(ErnieMConfig(vocabulary, HIDDEN, layers, HEADS))
    time_batches(open_engine(engine, folder, encoder), batches(make_rows(vocabulary, sentences)))


def transformers_torch(folder: Path, layers: int, vocabulary: int, sentences: int, attention: str) -> None:
    import torch
    import transformers

    config = transformers.XLMRobertaConfig(
        vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1, attn_implementation=attention,
    )  # fmt: skip
    model = transformers.XLMRobertaModel(config).eval()

    def work(ids):
        with torch.inference_mode():
            ids = torch.from_numpy(ids)
            return model(ids, attention_mask=(ids != 1).long()).last_hidden_state.numpy()

    time_batches(work, batches(make_rows(vocabulary, sentences)))


def time_batches(work, arrays: list) -> None:
    """A worker's last act: all batches once, after two of them for warmth."""
    for ids in (arrays[0], arrays[-1]):
        work(ids)
    start = time.perf_counter()
    for ids in arrays:
        work(ids)
    tell(time.perf_counter() - start)


if __name__ == "__main__":
    main()
