"""The vectors of a study's model, whose retrieval is measured as in experiments/three_ways.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from evaluation.encode import PaddleEncoder
from experiments.three_ways import retrieval
from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.ernie_m import ErnieMModel
from reader.bitext import Sentences
from reader.corpus import Corpus
from reader.tokenization import Tokenizer

LONGEST = 62  # tokens of a sentence with [CLS] and [SEP]


def measure_retrieval(
    folder: Path, corpus_path: Path, pairs: Path, random_weights_seed: int | None
) -> dict[str, Any]:
    """Encode held-out pairs and bitexts, and measure as in experiments/three_ways.py.

    Args:
        folder: of the weights, the model's shape and the tokenizer.
        pairs: a folder with two files for each language of the corpus but English, such as de-en.de and
            de-en.en, in upper or lower case; line i of one translates line i of the other.
        random_weights_seed: take random weights of this seed instead of those of the folder.
    """
    checkpoint = open_checkpoint(folder)
    tokenizer = Tokenizer.from_folder(folder)
    paddle.seed(random_weights_seed or 0)  # without one `load_from` replaces the weights
    model = ErnieMModel(checkpoint.config)
    if random_weights_seed is None:
        load_from(model, checkpoint, ignore=("lm_head.", "language_embeddings."))
    encoder = PaddleEncoder(model)

    def vectors(sentences: Sequence[np.ndarray]) -> np.ndarray:
        """The vectors of sentences at every layer, [L + 1, N, H], from their ids without special tokens."""
        return encoder.vectors(tokenizer.sentences(sentences, LONGEST))

    def vectors_of_file(path: Path) -> np.ndarray:
        """The vectors of the lines of a file, in lower case like the corpus: [L + 1, N, H]."""
        lines = [line.lower() for line in Sentences(path).texts()]
        return vectors(tokenizer.encode_batch(lines))

    corpus = Corpus(corpus_path)
    held_out = {}
    for languages, pairs_of_languages in corpus.held_out_parallel.items():
        sentence_pairs = [pairs_of_languages[number] for number in range(len(pairs_of_languages))]
        src = vectors([src_ids for src_ids, _ in sentence_pairs])
        tgt = vectors([tgt_ids for _, tgt_ids in sentence_pairs])
        held_out[languages] = (src, tgt)
    bitexts = {}
    for language in sorted({*corpus.languages} - {"en"}):
        src = vectors_of_file(pairs / f"{language}-en.{language}")
        tgt = vectors_of_file(pairs / f"{language}-en.en")
        bitexts[language] = (src, tgt)
    return retrieval(held_out, bitexts)
