"""Time sentences to vectors on a CPU beside sentence-transformers (torch).

    python benchmarks/encode.py                                   20,000 sentences at base size: an hour
    python benchmarks/encode.py --layers 2 --sentences 500 --rounds 1

Both get the same file of made-up sentences of 1 to 120 words, the same piece model and the same shape of
random weights (12 x 768, 250,002 words, float32), and make the mean over the tokens of the top layer. Ours is
what encode_vector.py does, from the file of texts to the file of vectors, with a checkpoint and with ONNX
files as export.py writes them; theirs is `SentenceTransformer.encode` on a list, in batches of 32, as it is
by default. Loading the model is not timed.

How contenders are run: benchmarks/side_by_side.py. Reported is the best round of each. The last line is JSON;
"ratio" is our speed over the peer's in its best setting, "ratio_onnx" and "ratio_onnx_int8" are those of ONNX
files.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import (
    GIGABYTE,
    VOCABULARY,
    Contender,
    choose,
    interleave,
    peak_memory,
    report_sentences,
)
from utils.runtime import prepare

TEXT, PIECES = "sentences.txt", "piece.model"
MAX_SEQ_LEN = 256
CONTENDERS = {
    "ours": Contender("ours", "ours", True, {"engine": "dygraph"}),
    "ours_onnx": Contender("ours, ONNX Runtime", "ours", True, {"engine": "onnx"}),
    "ours_onnx_int8": Contender("ours, ONNX Runtime, int8", "ours", True, {"engine": "onnx-int8"}),
    "st_installed": Contender("sentence-transformers", "sentence_transformers", False),
    "st_best": Contender("sentence-transformers, tuned", "sentence_transformers", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contender = CONTENDERS[args.worker]
        WORKERS[contender.kind](Path(args.folder), args.layers, **contender.options)
        return
    chosen = choose(parser, args.contenders, CONTENDERS)
    with tempfile.TemporaryDirectory() as folder:
        make_text(Path(folder), args.sentences)
        flags = [f"--folder={folder}", f"--layers={args.layers}"]
        runs = interleave(
            chosen, args.rounds, flags, lambda found: f"{args.sentences / found['seconds']:8.1f} sentences/s"
        )
    report_sentences(runs, {name: one.label for name, one in chosen.items()}, args.sentences)
    print(json.dumps({"layers": args.layers, "sentences": args.sentences} | result(runs, args.sentences)))


def result(runs: dict[str, list[dict]], sentences: int) -> dict:
    """What the last line holds."""
    best = {name: max(sentences / one["seconds"] for one in of_one) for name, of_one in runs.items()}
    peaks = {name: max(one["peak"] for one in of_one) / GIGABYTE for name, of_one in runs.items()}
    found: dict = {
        "sentences_per_second": {name: round(speed, 1) for name, speed in best.items()},
        "peak_gb": {name: round(peak, 2) for name, peak in peaks.items()},
    }
    if peers := [speed for name, speed in best.items() if CONTENDERS[name].kind != "ours"]:
        for name in best:
            if CONTENDERS[name].kind == "ours":
                found[name.replace("ours", "ratio")] = round(best[name] / max(peers), 2)
    return found


def make_text(folder: Path, count: int) -> None:
    """`count` sentences of made-up words, most of them short, and a piece model for them."""
    import numpy as np
    import sentencepiece

    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
    words = ["".join(rng.choice(syllables, size)) for size in rng.integers(1, 5, 8000)]
    lengths = np.clip(rng.lognormal(2.7, 0.7, count), 1, 120).astype(int)
    lines = [" ".join(words[i] for i in rng.integers(0, len(words), length)) for length in lengths]
    (folder / TEXT).write_text("\n".join(lines) + "\n")
    with open(folder / PIECES, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines[:5000]), model_writer=file, vocab_size=4000, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip


def ours(folder: Path, layers: int, engine: str) -> None:
    prepare(quiet=True)
    from benchmarks.engines import open_engine
    from evaluation.encode import PaddleEncoder
    from evaluation.vectors import VectorWriter
    from inference.encoder import ExportedEncoder
    from model.ernie_m import ErnieMConfig, ErnieMModel
    from reader.features import EncodePairs
    from reader.sentences import Sentences
    from reader.tokenization import Tokenizer

    model = ErnieMModel(ErnieMConfig(VOCABULARY, 768, layers, 12))
    encoder = PaddleEncoder(model)
    if engine != "dygraph":
        encoder = ExportedEncoder(open_engine(engine, folder, model), 768, model.config.pad_token_id, True)
    encode = EncodePairs(Tokenizer(None, folder / PIECES), MAX_SEQ_LEN)
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        VectorWriter(encoder, Sentences(folder / TEXT), encode, Path(output)).vectors(layers, "mean")
        tell(start)


def sentence_transformers(folder: Path, layers: int) -> None:
    import transformers
    from sentence_transformers import SentenceTransformer, models

    transformers.logging.set_verbosity_error()
    config = transformers.XLMRobertaConfig(
        vocab_size=VOCABULARY, num_hidden_layers=layers, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5, pad_token_id=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as saved:
        transformers.XLMRobertaModel(config).save_pretrained(saved)
        transformers.XLMRobertaTokenizerFast(str(folder / PIECES)).save_pretrained(saved)
        encoder = models.Transformer(saved, max_seq_length=MAX_SEQ_LEN)
    model = SentenceTransformer(modules=[encoder, models.Pooling(768, "mean")], device="cpu")
    sentences = (folder / TEXT).read_text().splitlines()
    start = time.perf_counter()
    model.encode(sentences, show_progress_bar=False)
    tell(start)


def tell(start: float) -> None:
    """A worker's last act."""
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_memory()}))


WORKERS = {"ours": ours, "sentence_transformers": sentence_transformers}

if __name__ == "__main__":
    main()
