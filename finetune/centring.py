"""The language means of run_retrieval.py, whose report also has searches with centred vectors."""

from collections.abc import Mapping

import numpy as np

from evaluation.centring import MEANS_POOLING, LanguageMeans
from finetune.flags import RetrievalFlags
from finetune.retrieval import encode_texts, layer_of
from model.checkpoint.read import Checkpoint
from model.ernie_m import ErnieMModel
from reader.bitext import Bitext, sentences_by_language
from reader.tokenization import Tokenizer
from utils.logging import logger


def sentences_to_centre_on(flags: RetrievalFlags, bitexts: list[Bitext]) -> dict[str, list[str]]:
    """Language -> the sentences of --centre_on; empty without that flag.

    Raises:
        UserError: the flag has another form, a language of the bitexts is missing, or a file cannot be read.
    """
    if not flags.centre_on:
        return {}
    return sentences_by_language(flags.centre_on, "--centre_on", languages=_languages(bitexts))


def means_of_sentences(
    sentences: Mapping[str, list[str]], flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """Language -> the mean vector of its sentences at the layer that is searched, [H].

    With --layer sweep, that of each layer, [L + 1, H].
    """
    means = {}
    for language, texts in sentences.items():
        vectors = encode_texts(texts, flags, model, tokenizer)  # [N, H], or [L + 1, N, H]
        means[language] = vectors.mean(axis=-2, dtype=np.float64)  # over the N sentences
    return means


def means_of_checkpoint(
    checkpoint: Checkpoint | None, flags: RetrievalFlags, model: ErnieMModel, bitexts: list[Bitext]
) -> dict[str, np.ndarray]:
    """Language -> its mean vector in the checkpoint's folder, at the layer that is searched, [H].

    With --layer sweep, that of each layer, [L + 1, H]. Empty if there are none, if they are of another
    pooling, or if a language of the bitexts is missing.
    """
    if checkpoint is None or checkpoint.language_means_path is None:
        return {}
    if flags.pooling != MEANS_POOLING:
        return {}
    shape = (model.config.num_hidden_layers + 1, model.config.hidden_size)
    means = LanguageMeans.read(checkpoint.language_means_path, shape)
    missing = [language for language in _languages(bitexts) if language not in means.languages]
    if missing:
        logger.info(
            "%s has no %s: no search has centred vectors; --centre_on takes the means of your own text",
            checkpoint.language_means_path,
            ", ".join(missing),
        )
        return {}
    mean_of_language = means.by_language()  # [L + 1, H] each
    if flags.layer == "sweep":
        return mean_of_language
    layer = layer_of(flags, model.config.num_hidden_layers)
    return {language: mean[layer] for language, mean in mean_of_language.items()}


def _languages(bitexts: list[Bitext]) -> list[str]:
    """English and the other language of each bitext; none without bitexts, because nothing is searched."""
    if not bitexts:
        return []
    return ["en", *(bitext.language for bitext in bitexts)]
