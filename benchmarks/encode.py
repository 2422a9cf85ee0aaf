"""Time sentences to vectors on a CPU beside sentence-transformers (torch), at base size with random weights.

All contenders compute the mean over the tokens of the top layer for the same made-up sentences of 1 to 120
words, with the same unigram model of 4,000 pieces. There are no digits, no punctuation and no words whose
first piece is a bare "▁": the rules of the libraries differ there. Ours does what encode_vector.py does, with
a checkpoint and with the ONNX files of export.py. Loading the model is not timed.
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import sentencepiece

from benchmarks.side_by_side import compare, tell
from benchmarks.training_steps import hf_config
from inference.engines import FILES, INT8_LARGEST, OnnxEngine
from model.config import ErnieMConfig
from reader.batching import EncodePairs
from reader.bitext import Sentences
from reader.tokenization import Tokenizer
from reader.tokenizer_json import PIECES as XLM_R_PIECES
from utils.runtime import prepare

MAX_SEQ_LEN = 256
HIDDEN_SIZE = 768  # of base
SIZES = {"layers": 12, "vocab": 250_002, "sentences": 2000}
# A syllable is one of these consonants and one of these ends.
CONSONANTS = "bdfgklmnprstvz"
VOWELS = ("a", "e", "i", "o", "u", "an", "er", "ol")
WORDS = 8000
MOST_SYLLABLES = 4  # of a word
PIECES = 4000
TRAINING_SENTENCES = 5000  # of the piece model
TEXTS = "texts.txt"
PIECE_MODEL = "piece.model"
XLM_R = "xlm_r"  # the folder of the peer's tokenizer


def model_config(args: Namespace) -> ErnieMConfig:
    """Base, but for the number of layers and the vocabulary."""
    return ErnieMConfig(
        vocab_size=args.vocab,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=args.layers,
        num_attention_heads=12,
    )


def write_files(folder: Path, args: Namespace) -> int:
    """Write the tokenizers, --sentences texts and the ONNX files. Returns the number of texts."""
    prepare(quiet=True)
    from inference.onnx import write_onnx
    from model.checkpoint.folder import model_weights
    from model.ernie_m import ErnieMModel
    from model.tasks import ENCODING

    config = model_config(args)
    weights = model_weights(ErnieMModel(config).eval())
    for engine, int8_largest in (("onnx", None), ("onnx-int8", INT8_LARGEST)):  # None: no int8
        path = folder / FILES[engine]
        write_onnx(path, weights, config, ENCODING, layers=args.layers, int8_largest=int8_largest)

    rng = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    lengths = rng.integers(1, MOST_SYLLABLES + 1, WORDS)
    words = ["".join(rng.choice(syllables, length)) for length in lengths]
    with open(folder / PIECE_MODEL, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(rng, words, TRAINING_SENTENCES)),
            model_writer=file,
            vocab_size=PIECES,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    # transformers makes its own fast tokenizer from the piece model.
    (folder / XLM_R).mkdir()
    (folder / XLM_R / XLM_R_PIECES).write_bytes((folder / PIECE_MODEL).read_bytes())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / XLM_R / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / XLM_R / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    tokenizer = Tokenizer(piece_model_path=folder / PIECE_MODEL)
    usable = [word for word in words if tokenizer.tokenize(word)[0] != "▁"]
    lines = sentences(np.random.default_rng(1), usable, args.sentences)
    (folder / TEXTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return args.sentences


def sentences(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    """Sentences of 1 to 120 words, about half of them of at most 15."""
    lengths = np.clip(rng.lognormal(2.7, 0.7, count), 1, 120).astype(int)
    return [" ".join(words[i] for i in rng.integers(0, len(words), length)) for length in lengths]


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
        encoder = PaddleEncoder(model, "mean", layer=args.layers)
    else:  # without Paddle in the process
        from inference.tasks.encode import GraphEncoder

        encoder = GraphEncoder(OnnxEngine(folder / FILES[engine]), config, "mean", layer=args.layers)
    tokenizer = Tokenizer(piece_model_path=folder / PIECE_MODEL)
    encode_texts = EncodePairs(tokenizer, MAX_SEQ_LEN)
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        texts = Sentences(folder / TEXTS)
        VectorWriter(encoder, texts, encode_texts, Path(output)).vectors()
        seconds = time.perf_counter() - start
    tokens = sum(len(feature.ids) for feature in encode_texts(texts))
    tell(seconds, check=tokens)


def sentence_transformers(folder: Path, args: Namespace) -> None:
    """Its `encode`, with an XLM-R of the same size."""
    import transformers
    from sentence_transformers import SentenceTransformer

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / XLM_R)
    with tempfile.TemporaryDirectory() as saved:
        transformers.XLMRobertaModel(hf_config(args.layers, args.vocab)).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        # Without a modules.json sentence-transformers takes the mean over the tokens.
        model = SentenceTransformer(saved, device="cpu")
    model.max_seq_length = MAX_SEQ_LEN  # their model has no argument for it
    texts = (folder / TEXTS).read_text(encoding="utf-8").splitlines()
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
    "st_best_latest": sentence_transformers,
}


if __name__ == "__main__":
    compare(__doc__, WORKS, SIZES, unit="sentences/s", prepare=write_files)
