"""Time sentences to vectors on a CPU beside sentence-transformers (torch).

    python benchmarks/encode.py                                   2,000 sentences at base size
    python benchmarks/encode.py --layers 2 --sentences 500 --rounds 1

All contenders get the same file of made-up sentences of 1 to 120 words, the same piece model and the same
shape of random weights (12 x 768, 250,002 words), and compute the mean over the tokens of the top layer.
Ours does what encode_vector.py does, from the file of texts to the file of vectors, with a checkpoint and
with the ONNX files of export.py. Theirs is `SentenceTransformer.encode` on a list, which sorts by length.
Loading the model is not timed.
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import made_up
from benchmarks.side_by_side import LATEST, VOCABULARY, Contender, compare, tell
from benchmarks.training import hf_config, torch_device
from utils.runtime import prepare, read_cpu

MAX_SEQ_LEN = 256
CONTENDERS = {
    "ours": Contender("ours", "ours", options={"engine": "dygraph"}),
    "ours_onnx": Contender("ours, ONNX Runtime", "ours", options={"engine": "onnx"}),
    "ours_onnx_int8": Contender(
        "ours, ONNX Runtime, int8", "ours", options={"engine": "onnx-int8"}, precision="int8"
    ),
    "st_installed": Contender("sentence-transformers, as installed", "torch", tuned=False),
    "st_best": Contender("sentence-transformers", "torch"),
    "st_best_latest": Contender("newest sentence-transformers", "torch", environment=LATEST),
}


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
    """The encoder of encode_vector.py. ONNX Runtime works without Paddle in the process."""
    if engine == "dygraph":
        prepare(quiet=True)
        from evaluation.encode import PaddleEncoder
        from model.ernie_m import ErnieMModel

        return PaddleEncoder(ErnieMModel(config))
    from inference.engines import OnnxEngine
    from inference.requests import FILES
    from inference.tasks.encode import ExportedEncoder

    path = folder / FILES[engine]
    if not path.exists():  # written in a process of its own, because its memory does not count
        writer = multiprocessing.get_context("spawn").Process(target=write_model, args=(path, config, engine))
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(f"{engine}: {path} could not be written")
    return ExportedEncoder(OnnxEngine(path, read_cpu().cores), 768, config.pad_token_id, True)


def write_model(path: Path, config, engine: str) -> None:
    prepare(quiet=True)
    from inference.onnx import write_onnx
    from model.checkpoint.folder import model_weights
    from model.ernie_m import ErnieMModel
    from model.task_names import ENCODING

    weights = model_weights(ErnieMModel(config).eval())
    write_onnx(path, weights, config.to_dict(), ENCODING, int8=engine == "onnx-int8")


def sentence_transformers(folder: Path, args) -> None:
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / made_up.XLM_R)
    with tempfile.TemporaryDirectory() as saved:
        transformers.XLMRobertaModel(hf_config(args.layers, args.vocab)).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        # Without a modules.json it takes the mean over the tokens.
        model = SentenceTransformer(saved, device=torch_device())
    model.max_seq_length = MAX_SEQ_LEN  # an attribute of their model
    texts = made_up.read_texts(folder)
    start = time.perf_counter()
    model.encode(texts, show_progress_bar=False)
    seconds = time.perf_counter() - start
    ids = tokenizer(texts, truncation=True, max_length=MAX_SEQ_LEN)["input_ids"]
    tell(seconds, check=sum(map(len, ids)))


if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        {"ours": ours, "torch": sentence_transformers},
        {"layers": 12, "vocab": VOCABULARY, "sentences": 2000},
        "sentences/s",
        lambda args, _: args.sentences,
        prepare=made_up.write_files,
    )
