"""Made-up text in three scripts, the same on every machine, and tokenizers for it in every library's form.

No digits, no punctuation and no word whose first piece is a bare "▁": there the rules of libraries differ,
and all contenders are to get the same ids.
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
LABELS = 3

TEXTS, PAIRS, QUESTIONS = "texts.txt", "pairs.tsv", "questions.json"
OURS, XLM_R, ERNIE_M = "piece.model", "xlm_r", "ernie_m"  # a file and two folders


def write_tokenizers(folder: Path) -> list[str]:
    """Train a piece model; write it as ours, as XLM-R of transformers and as PaddleNLP's ErnieM.

    Returns:
        The words that the texts are to be made of.
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
    # transformers makes its own fast tokenizer of the piece model.
    (folder / XLM_R / XLM_R_PIECES).write_bytes((folder / OURS).read_bytes())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / XLM_R / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / XLM_R / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    return [word for word in words if tokenizer.tokenize(word)[0] != "▁"]


def write_texts(folder: Path, words: list[str], count: int) -> None:
    """`count` sentences of 1 to 120 words, most of them short, in texts.txt."""
    lines = sentences(np.random.default_rng(1), words, count)
    (folder / TEXTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pairs(folder: Path, words: list[str], count: int) -> None:
    """`count` labelled pairs of such sentences in pairs.tsv."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, LABELS, count).tolist()
    columns = zip(sentences(rng, words, count), sentences(rng, words, count), labels, strict=True)
    rows = ["text_a\ttext_b\tlabel", *(f"{a}\t{b}\t{label}" for a, b, label in columns)]
    (folder / PAIRS).write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_questions(folder: Path, words: list[str], count: int) -> None:
    """In all `count` questions of 5 to 12 words, two on each text of 40 to 400, in questions.json (SQuAD)."""
    rng = np.random.default_rng(3)

    def text(least: int, most: int) -> str:
        return " ".join(words[i] for i in rng.integers(0, len(words), rng.integers(least, most + 1)))

    paragraphs = []
    for number in range(0, count, 2):
        asked = [
            {"id": f"question {i}", "question": text(5, 12)} for i in range(number, min(number + 2, count))
        ]
        paragraphs.append({"context": text(40, 400), "qas": asked})
    content = {"data": [{"paragraphs": paragraphs}]}
    (folder / QUESTIONS).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


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
