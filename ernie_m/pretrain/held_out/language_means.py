"""The mean sentence vector of each language, from the held-out text of a corpus; exports have them."""

import numpy as np

from ernie_m.model.encoder import ErnieMModel
from ernie_m.pretrain.training_text import TrainingText
from ernie_m.reader.corpus import Corpus
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.vectors.centring import LanguageMeans
from ernie_m.vectors.encode import PaddleEncoder

SENTENCES = 300  # taken in each language; more of them change the means, and so retrieval, little


def language_means(
    model: ErnieMModel, text: TrainingText, tokenizer: Tokenizer, max_seq_len: int
) -> dict[str, np.ndarray]:
    """Language -> the mean vector of about `SENTENCES` held-out sentences, at every layer: [L + 1, H].

    The vector of a sentence is the mean over its tokens.

    Args:
        text: what the run trains on; its languages without held-out text are left out.
        max_seq_len: longest sequence, special tokens included; longer sentences are cut.
    """
    encoder = PaddleEncoder(model)
    vectors = {}  # language -> [L + 1, N, H]
    for language in text.languages:
        sentences = held_out_sentences(text.corpus, language)
        if sentences:
            vectors[language] = encoder.vectors(tokenizer.sentences(sentences, max_seq_len))
    means = LanguageMeans.of(vectors)
    return dict(zip(means.languages, means.vectors))


def held_out_sentences(corpus: Corpus, language: str) -> list[np.ndarray]:
    """About `SENTENCES` sentences of a language, or fewer if it has fewer: ids without specials.

    They come from its sentence pairs, equally many from each language pair. A language without pairs has
    lines of its monolingual text instead, each of which may be a whole document.
    """
    held_out_pairs = {pair: text for pair, text in corpus.held_out_parallel.items() if language in pair}
    sentences = []
    for pair, text in held_out_pairs.items():
        equal_part = -(-SENTENCES // len(held_out_pairs))  # rounded up
        count = min(len(text), equal_part)
        side = pair.index(language)
        sentences += [text[number][side] for number in range(count)]
    if not sentences and language in corpus.held_out_mono:
        text = corpus.held_out_mono[language]
        sentences = [text.line(number) for number in range(min(text.num_lines, SENTENCES))]
    return sentences
