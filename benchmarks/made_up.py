"""Made-up text in three scripts, equal on every machine, and tokenizers for it in the form of every library.

There are no digits, no punctuation and no words whose first piece is a bare "▁": the rules of the libraries
differ there, and all contenders must get the same ids.
"""

import json
from pathlib import Path

import numpy as np

VOWELS = {
    "bdfgklmnprstvz": ("a", "e", "i", "o", "u", "an", "er", "ol"),
    "бвгдклмнпрст": ("а", "е", "и", "о", "ан", "ер"),
    "βγδκλμνπρστ": ("α", "ε", "ι", "ο", "αν", "ερ"),
}
WORDS, MOST_SYLLABLES = 8000, 4
PIECES, TRAINED_ON = 4000, 5000
TEXTS = "texts.txt"
OURS, XLM_R, ERNIE_M = "piece.model", "xlm_r", "ernie_m"  # a file and two folders


def write_files(folder: Path, args) -> None:
    """Write the tokenizers and `args.sentences` sentences, most of them short, to texts.txt."""
    lines = sentences(np.random.default_rng(1), write_tokenizers(folder), args.sentences)
    (folder / TEXTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_texts(folder: Path) -> list[str]:
    """The sentences that `write_files` wrote."""
    return (folder / TEXTS).read_text(encoding="utf-8").splitlines()


def write_tokenizers(folder: Path) -> list[str]:
    """Train a piece model; write it for ours, for XLM-R of transformers and for ErnieM of PaddleNLP.

    Returns:
        The words that texts may have.
    """
    import sentencepiece

    from reader.tokenization import Tokenizer
    from reader.tokenizer_files import XLM_R_PIECES, write_ernie_m

    rng = np.random.default_rng(0)
    words = make_words(rng)
    with open(folder / OURS, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(rng, words, TRAINED_ON)), model_writer=file, vocab_size=PIECES,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    for name in (XLM_R, ERNIE_M):
        (folder / name).mkdir()
    tokenizer = Tokenizer(None, folder / OURS)
    write_ernie_m(folder / ERNIE_M, tokenizer)
    # transformers makes its own fast tokenizer from the piece model.
    (folder / XLM_R / XLM_R_PIECES).write_bytes((folder / OURS).read_bytes())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / XLM_R / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / XLM_R / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    return [word for word in words if tokenizer.tokenize(word)[0] != "▁"]


def sentences(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    """Sentences of 1 to 120 words."""
    lengths = np.clip(rng.lognormal(2.7, 0.7, count), 1, 120).astype(int)
    return [" ".join(words[i] for i in rng.integers(0, len(words), length)) for length in lengths]


def make_words(rng: np.random.Generator) -> list[str]:
    """Words of 1 to 4 syllables, each in one script."""
    scripts = [[a + b for a in consonants for b in vowels] for consonants, vowels in VOWELS.items()]
    return [
        "".join(rng.choice(scripts[i % len(scripts)], size))
        for i, size in enumerate(rng.integers(1, MOST_SYLLABLES + 1, WORDS))
    ]
