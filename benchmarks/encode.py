"""Time sentences to vectors on a CPU beside sentence-transformers (torch), at base size with random weights.

All contenders compute the mean over the tokens of the top layer for the sentences of tokenise.py. Ours does
what encode_vector.py does, with a checkpoint and with the ONNX files of export.py. Loading the model is not
timed.
"""

import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import tokenise
from benchmarks.side_by_side import compare, tell
from benchmarks.training_steps import hf_config, torch_device
from inference.engines import FILES, INT8_LARGEST, OnnxEngine
from model.config import ErnieMConfig
from reader.batching import EncodePairs
from reader.bitext import Sentences
from reader.tokenization import Tokenizer
from utils.runtime import prepare

MAX_SEQ_LEN = 256
HIDDEN_SIZE = 768  # of base
SIZES = {"layers": 12, "vocab": 250_002, "sentences": 2000}


def model_config(args: Namespace) -> ErnieMConfig:
    """Base, but for the number of layers and the vocabulary."""
    return ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=args.layers,
        num_attention_heads=12,
    )


def write_files(folder: Path, args: Namespace) -> int:
    """Write the texts, the tokenizers and the ONNX files. Returns the number of texts."""
    prepare(quiet=True)
    from inference.onnx import write_onnx
    from model.checkpoint.folder import model_weights
    from model.ernie_m import ErnieMModel
    from model.tasks import ENCODING

    config = model_config(args)
    weights = model_weights(ErnieMModel(config).eval())
    for engine, int8_largest in (("onnx", None), ("onnx-int8", INT8_LARGEST)):  # None: no int8
        write_onnx(folder / FILES[engine], weights, config, ENCODING, args.layers, int8_largest)
    return tokenise.write_files(folder, args)


def ours(folder: Path, args: Namespace, engine: str = "dygraph", amp: str = "none") -> None:
    """What encode_vector.py does with an engine.

    Args:
        engine: "dygraph", a checkpoint in Paddle; or "onnx" or "onnx-int8", one of the `FILES`.
        amp: the precision of "dygraph".
    """
    from inference.vectors import VectorWriter

    config = model_config(args)
    if engine == "dygraph":
        prepare(quiet=True)
        from evaluation.encode import PaddleEncoder
        from model.ernie_m import ErnieMModel
        from training.precision import prepare_for_prediction

        model = ErnieMModel(config)
        prepare_for_prediction(model, amp)  # the context that it returns does nothing on a CPU
        encoder = PaddleEncoder(model, "mean", args.layers)
    else:  # without Paddle in the process
        from inference.tasks.encode import GraphEncoder

        encoder = GraphEncoder(OnnxEngine(folder / FILES[engine]), config, "mean", args.layers)
    tokenizer = Tokenizer(piece_model_path=folder / tokenise.PIECE_MODEL)
    encode_texts = EncodePairs(tokenizer, MAX_SEQ_LEN)
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        texts = Sentences(folder / tokenise.TEXTS)
        VectorWriter(encoder, texts, encode_texts, Path(output)).vectors()
        seconds = time.perf_counter() - start
    tokens = sum(len(feature.ids) for feature in encode_texts(texts))
    tell(seconds, check=tokens)


def sentence_transformers(folder: Path, args: Namespace) -> None:
    """Its `encode`, with an XLM-R of the same size."""
    import transformers
    from sentence_transformers import SentenceTransformer

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / tokenise.XLM_R)
    with tempfile.TemporaryDirectory() as saved:
        transformers.XLMRobertaModel(hf_config(args.layers, args.vocab)).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        # Without a modules.json sentence-transformers takes the mean over the tokens.
        model = SentenceTransformer(saved, device=torch_device())
    model.max_seq_length = MAX_SEQ_LEN  # their model has no argument for it
    texts = tokenise.read_texts(folder)
    start = time.perf_counter()
    model.encode(texts, show_progress_bar=False)
    seconds = time.perf_counter() - start
    ids = tokenizer(texts, truncation=True, max_length=MAX_SEQ_LEN)["input_ids"]
    tokens = sum(len(row) for row in ids)
    tell(seconds, check=tokens)


WORKS = {
    "ours": ours,
    "ours_bfloat16": ours,
    "ours_onnx": ours,
    "ours_onnx_int8": ours,
    "st_installed": sentence_transformers,
    "st_best": sentence_transformers,
    "st_best_latest": sentence_transformers,
}


if __name__ == "__main__":
    compare(
        __doc__,
        WORKS,
        SIZES,
        unit="sentences/s",
        prepare=write_files,
    )
