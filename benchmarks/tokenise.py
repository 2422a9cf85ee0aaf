"""Time texts to token ids beside Hugging Face's tokenizers (Rust) and PaddleNLP.

All contenders get the same made-up sentences of 1 to 120 words, the same unigram model of 4,000 pieces, and
all cores, except PaddleNLP, which uses one. The program ends if their ids are not the same. There are no
digits, no punctuation and no words whose first piece is a bare "▁": the rules of the libraries differ
there.
"""

import hashlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import sentencepiece

from benchmarks.side_by_side import compare, tell
from reader.tokenization import Tokenizer
from reader.tokenizer_files import write_ernie_m
from reader.tokenizer_json import PIECES as XLM_R_PIECES
from utils.runtime import read_cpu

# The consonants of a script -> what may follow one of them in a syllable.
VOWELS = {
    "bdfgklmnprstvz": ("a", "e", "i", "o", "u", "an", "er", "ol"),
    "бвгдклмнпрст": ("а", "е", "и", "о", "ан", "ер"),
    "βγδκλμνπρστ": ("α", "ε", "ι", "ο", "αν", "ερ"),
}
WORDS = 8000
MOST_SYLLABLES = 4  # of a word
PIECES = 4000
TRAINING_SENTENCES = 5000  # of the piece model
TEXTS = "texts.txt"
PIECE_MODEL = "piece.model"
# The folders of the tokenizers.
XLM_R = "xlm_r"
ERNIE_M = "ernie_m"
REPETITIONS = 3


def write_files(folder: Path, args: Namespace) -> int:
    """Write the tokenizers of all libraries, and `args.sentences` sentences. Returns their number."""
    rng = np.random.default_rng(0)
    words = make_words(rng)
    with open(folder / PIECE_MODEL, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(rng, words, TRAINING_SENTENCES)),
            model_writer=file,
            vocab_size=PIECES,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    for name in (XLM_R, ERNIE_M):
        (folder / name).mkdir()
    tokenizer = Tokenizer(piece_model_path=folder / PIECE_MODEL)
    write_ernie_m(folder / ERNIE_M, tokenizer)
    # transformers makes its own fast tokenizer from the piece model.
    (folder / XLM_R / XLM_R_PIECES).write_bytes((folder / PIECE_MODEL).read_bytes())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / XLM_R / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / XLM_R / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    usable = [word for word in words if tokenizer.tokenize(word)[0] != "▁"]
    lines = sentences(np.random.default_rng(1), usable, args.sentences)
    (folder / TEXTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return args.sentences


def make_words(rng: np.random.Generator) -> list[str]:
    """Words of 1 to 4 syllables, each in one script."""
    syllables_of_scripts = []
    for consonants, vowels in VOWELS.items():
        syllables_of_scripts.append([consonant + vowel for consonant in consonants for vowel in vowels])
    words = []
    for number, length in enumerate(rng.integers(1, MOST_SYLLABLES + 1, WORDS)):
        syllables = syllables_of_scripts[number % len(syllables_of_scripts)]  # the scripts in turn
        words.append("".join(rng.choice(syllables, length)))
    return words


def sentences(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    """Sentences of 1 to 120 words, about half of them of at most 15."""
    lengths = np.clip(rng.lognormal(2.7, 0.7, count), 1, 120).astype(int)
    return [" ".join(words[i] for i in rng.integers(0, len(words), length)) for length in lengths]


def read_texts(folder: Path) -> list[str]:
    """The sentences that `write_files` wrote."""
    return (folder / TEXTS).read_text(encoding="utf-8").splitlines()


def ours(folder: Path, args: Namespace) -> None:
    """The tokenizer of this project, on all cores."""
    tokenizer = Tokenizer(piece_model_path=folder / PIECE_MODEL)
    time_tokenizer(folder, partial(tokenizer.encode_batch, threads=read_cpu().cores))


def tokenizers_rust(folder: Path, args: Namespace) -> None:
    """The library below the fast tokenizer of transformers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / XLM_R).backend_tokenizer

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    time_tokenizer(folder, encode)


def paddlenlp_ernie_m(folder: Path, args: Namespace) -> None:
    """PaddleNLP's tokenizer of ERNIE-M, text by text."""
    from paddlenlp.transformers import ErnieMTokenizer

    tokenizer = ErnieMTokenizer.from_pretrained(str(folder / ERNIE_M))

    def encode(texts: list[str]) -> list[list[int]]:
        return [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]

    time_tokenizer(folder, encode)


def time_tokenizer(folder: Path, encode: Callable[[list[str]], list[list[int]]]) -> None:
    """Encode all texts several times, after a few of them to warm up, and tell the seconds."""
    texts = read_texts(folder)
    encode(texts[:100])
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        ids = encode(texts)
        seconds.append(time.perf_counter() - start)
    lines = [" ".join(map(str, row)) for row in ids]  # those of the last repetition
    digest = hashlib.sha256("\n".join(lines).encode())
    tell(seconds, check=digest.hexdigest())


WORKS = {
    "ours": ours,
    "hf_rust": tokenizers_rust,
    "hf_latest_rust": tokenizers_rust,
    "paddlenlp": paddlenlp_ernie_m,
}


if __name__ == "__main__":
    sizes = {"sentences": 50_000}
    compare(__doc__, WORKS, sizes, unit="sentences/s", prepare=write_files)
