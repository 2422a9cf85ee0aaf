"""The sample set's vocabulary: a sentencepiece BPE model and vocab.txt."""

import re
from pathlib import Path

import sentencepiece

from reader.tokenization import Tokenizer
from scripts.sample.languages import zh

BOUNDARY = "\t"  # which no sentence holds


def train_vocabulary(folder: Path, pieces: int) -> None:
    """Train on folder/mono and folder/parallel; write folder/piece.model and folder/vocab.txt.

    Pieces stay within words, in Chinese too. The model's ids are XLM-R's (unknown 0, begin 1, end 2, no pad),
    so vocab.txt is derived as for XLM-R.
    """
    files = sorted([*folder.glob("mono/*.txt"), *folder.glob("parallel/*.tsv")])
    longest_first = sorted(zh.words(), key=len, reverse=True)
    chinese = re.compile(f"({'|'.join(longest_first)})")
    sentences = (
        chinese.sub(rf"{BOUNDARY}\1{BOUNDARY}", sentence)
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        for sentence in line.split("\t")
        if sentence
    )
    with open(folder / "piece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            model_type="bpe",
            vocab_size=pieces,
            hard_vocab_limit=False,
            character_coverage=1.0,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            pretokenization_delimiter=BOUNDARY,
            num_threads=1,  # the same bytes on every machine
            minloglevel=1,
        )
    Tokenizer(piece_model_path=folder / "piece.model").write_vocab(folder / "vocab.txt")
