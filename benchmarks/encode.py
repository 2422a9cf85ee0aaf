"""Time sentences to vectors on a CPU beside sentence-transformers (torch).

    python benchmarks/encode.py                                   2,000 sentences at base size
    python benchmarks/encode.py --layers 2 --sentences 500 --rounds 1

All get the same file of made-up sentences of 1 to 120 words, the same piece model and the same shape of
random weights (12 x 768, 250,002 words), and make the mean over the tokens of the top layer. Ours is what
encode_vector.py does, from the file of texts to the file of vectors, with a checkpoint and with ONNX files as
export.py writes them; theirs is `SentenceTransformer.encode` on a list, which sorts by length, in batches of
32, as it is by default, or of 8, which may be faster on a CPU. Loading the model is not timed.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py): "ratios"
has each engine's speed over that of the fastest peer.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import made_up
from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, compare, tell
from benchmarks.training import torch_device, xlm_r_config
from utils.runtime import prepare

MAX_SEQ_LEN = 256
CONTENDERS = {
    "ours": Contender("ours", "ours", True, {"engine": "dygraph"}),
    "ours_onnx": Contender("ours, ONNX Runtime", "ours", True, {"engine": "onnx"}),
    "ours_onnx_int8": Contender(
        "ours, ONNX Runtime, int8", "ours", True, {"engine": "onnx-int8"}, precision="int8"
    ),
    "st_installed": Contender("sentence-transformers, as installed", "sentence_transformers", False),
    "st_best": Contender("sentence-transformers", "sentence_transformers", True),
    "st_best_small": Contender(
        "sentence-transformers, batches of 8", "sentence_transformers", True, {"batch": 8}
    ),
    "st_best_latest": Contender(
        "newest sentence-transformers", "sentence_transformers", True, environment=LATEST
    ),
    "st_best_latest_small": Contender(
        "newest sentence-transformers, batches of 8", "sentence_transformers", True, {"batch": 8}, LATEST
    ),
}


def make_files(folder: Path, args) -> None:
    words = made_up.write_tokenizers(folder)
    made_up.write_texts(folder, words, args.sentences)


def ours(folder: Path, args, engine: str) -> None:
    from evaluation.vectors import VectorWriter
    from model.config import ErnieMConfig
    from reader.bitext import Sentences
    from reader.features import EncodePairs
    from reader.tokenization import Tokenizer

    encoder = open_encoder(folder, ErnieMConfig(args.vocab, 768, args.layers, 12), engine)
    encode = EncodePairs(Tokenizer(None, folder / made_up.OURS), MAX_SEQ_LEN)
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        texts = Sentences(folder / made_up.TEXTS)
        VectorWriter(encoder, texts, encode, Path(output)).vectors(args.layers, "mean")
        seconds = time.perf_counter() - start
    tell(seconds, check=sum(len(feature.ids) for feature in encode(texts)))


def open_encoder(folder: Path, config, engine: str):
    """As encode_vector.py does: Paddle only where it runs the model."""
    if engine == "dygraph":
        prepare(quiet=True)
        from evaluation.encode import PaddleEncoder
        from model.ernie_m import ErnieMModel

        return PaddleEncoder(ErnieMModel(config))
    from benchmarks.engines import open_engine
    from inference.tasks.encode import ExportedEncoder

    return ExportedEncoder(open_engine(engine, folder, config), 768, config.pad_token_id, True)


def sentence_transformers(folder: Path, args, batch: int = 32) -> None:
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / made_up.XLM_R)
    with tempfile.TemporaryDirectory() as saved:
        transformers.XLMRobertaModel(xlm_r_config(args.layers, args.vocab)).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        model = SentenceTransformer(saved, device=torch_device())  # no modules.json: the mean over the tokens
    model.max_seq_length = MAX_SEQ_LEN
    texts = (folder / made_up.TEXTS).read_text(encoding="utf-8").splitlines()
    start = time.perf_counter()
    model.encode(texts, batch_size=batch, show_progress_bar=False)
    seconds = time.perf_counter() - start
    ids = tokenizer(texts, truncation=True, max_length=MAX_SEQ_LEN)["input_ids"]
    tell(seconds, check=sum(map(len, ids)))


WORKERS = {"ours": ours, "sentence_transformers": sentence_transformers}

if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        WORKERS,
        {"layers": 12, "vocab": VOCABULARY, "sentences": 2000},
        "sentences/s",
        lambda args: args.sentences,
        prepare=make_files,
    )
