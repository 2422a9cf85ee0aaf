"""The initial weights of a run: encoder, head and language embeddings, each from its own source."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from paddle import Tensor

from ernie_m.model.checkpoint.key_mapping import LM_BIAS, WORDS
from ernie_m.model.checkpoint.load import load_from
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.weights import Weights, finite
from ernie_m.model.lm_head import LMHead, PreTrainingModel
from ernie_m.pretrain.config import AUTO, RANDOM, SAME, InitConfig
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# Prefixes of the names of tensors.
_ENCODER = ("embeddings.", "encoder.", "pooler.")
_HEAD = "lm_head."
_LANGUAGES = "language_embeddings."
_CLASSIFIER = "classifier."  # how the tensors of a fine-tuned model's classifier begin
_TINY = 1e-9  # a divisor is at least this: a subword that is in no pair may have a vector of zeros
_SMALL = (
    0.2  # the initial scale of the states that a new head multiplies with the embedding matrix; usually 1
)


def open_weights(folder: str, tokenizer: Tokenizer) -> Checkpoint:
    """Open weights for the vocabulary of a corpus, without the rows that none of its tokens reads.

    Args:
        tokenizer: the tokenizer of the corpus. If the folder has a vocabulary, it must be the same.

    Raises:
        UserError: as `open_checkpoint`, the vocabulary is another one, or there are no layers.
    """
    checkpoint = open_checkpoint(folder)
    _check_vocabulary(checkpoint, tokenizer)
    if checkpoint.config and checkpoint.config.is_static:
        raise UserError(f"{checkpoint.path}: a static model cannot be pre-trained (it has no layers)")
    tensors = checkpoint.tensors
    size = tokenizer.vocab_size
    shapes = {name: tensors.shape(name) for name in tensors}
    for name in shapes.keys() & {WORDS, LM_BIAS}:
        rows, *width = shapes[name]
        shapes[name] = (min(rows, size), *width)

    def fetch(name: str) -> np.ndarray:
        return tensors[name][:size] if name in (WORDS, LM_BIAS) else tensors[name]

    return replace(checkpoint, tensors=Weights(tensors.source, shapes, fetch))


def initialize(
    model: PreTrainingModel,
    config: InitConfig,
    encoder: Checkpoint | None,
    tokenizer: Tokenizer,
    corpus_and_seed: Mapping[str, Any],
    text_rules: str = AUTO,
) -> None:
    """Load weights into a new model. Whatever `config` does not name keeps its initial value.

    Args:
        encoder: `config.encoder`, opened by `open_weights`; None: its weights are new.
        tokenizer: the tokenizer of the corpus.
        corpus_and_seed: the digest of the corpus and the seed of this run. If the encoder was trained with
            the same, it has seen the items that the run begins with; a warning says so.

        text_rules: the text rules that the corpus must have. AUTO: those of the encoder.

    Raises:
        UserError: a folder is missing, has another shape or vocabulary, or lacks the head.
    """
    _check_text_rules(encoder, tokenizer, text_rules)
    if config.word_embeddings:
        words = model.ernie_m.embeddings.word_embeddings.weight
        _give_word_vectors(words, open_checkpoint(config.word_embeddings), tokenizer, corpus_and_seed["seed"])
    if encoder is not None:
        load_from(model.ernie_m, encoder, ignore=(_HEAD, _LANGUAGES, _CLASSIFIER))
        _load_languages(model, encoder)
        logger.info("encoder: from %s", encoder.path)
        # `Pretraining.files` writes the setting "drawn".
        if encoder.settings.get("drawn") == corpus_and_seed:
            logger.warning(
                "%s was trained on this corpus with run.seed %d, so this run samples the same examples "
                "again. Change run.seed",
                encoder.path,
                corpus_and_seed["seed"],
            )
    if encoder is not None and config.lm_head in (SAME, config.encoder):
        _load_head(model, encoder)  # the same folder, which is open already
        return
    if config.lm_head != RANDOM:
        _load_head(model, open_weights(config.lm_head, tokenizer))
    if encoder is not None and _has_head(encoder):
        logger.info("%s has a masked-LM head, which is not read: init.lm_head same reads it", encoder.path)


def _give_word_vectors(words: Tensor, table: Checkpoint, tokenizer: Tokenizer, seed: int) -> None:
    """Replace random word vectors with the principal components of a static model, each as long as before.

    They are turned at random, so that no coordinate is larger than the others.

    Args:
        words: [V, H].
        table: its rows have W >= H numbers.

    Raises:
        UserError: the table has another vocabulary than the corpus, or is too narrow.
    """
    _check_vocabulary(table, tokenizer)
    size, width = words.shape
    rows = table.tensors[WORDS][:size]  # [V, W]
    if rows.shape[1] < width:
        raise UserError(f"init.word_embeddings {table.path}: {rows.shape[1]} numbers a piece, below {width}")
    directions, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    vectors = (directions * sizes)[:, :width] @ turn  # [V, H]
    random = words.numpy()
    lengths = np.linalg.norm(random, axis=1, keepdims=True)
    vectors *= lengths / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    words.set_value(vectors.astype(random.dtype))
    distributed.broadcast_([words])  # another machine may round otherwise


def set_token_frequencies(head: LMHead, piece_counts: np.ndarray) -> None:
    """Let a new head on a trained encoder begin with how often each subword occurs.

    A bias changes by no more than the learning rate in a step, and the most frequent subwords are e^10 times
    as
    frequent as the rarest: a warm-up of some hundred steps would not learn them. What a random head adds to
    the bias is noise, so it begins small.

    Args:
        piece_counts: int64 [V]. One is added to each.
    """
    logarithms = np.log(piece_counts + 1.0)
    head.bias.set_value((logarithms - logarithms.mean()).astype(head.bias.numpy().dtype))
    weight = head.state_dict()["layer_norm.weight"]
    weight.set_value(_SMALL * weight.numpy())


def _check_text_rules(encoder: Checkpoint | None, tokenizer: Tokenizer, text_rules: str) -> None:
    """Refuse a corpus whose text was cut with other rules than the run asks for.

    Args:
        tokenizer: the tokenizer of the corpus, whose files are in the folder of the corpus.
        text_rules: as in the configuration.

    Raises:
        UserError: the corpus has other rules.
    """
    reason = f"data.text_rules is {text_rules}"
    if text_rules == AUTO:  # those of the weights that the run starts from
        if encoder is None:
            return  # new weights have none: they learn those of the corpus
        text_rules = encoder.preprocessing.text_rules
        reason = f"{encoder.path} reads with {text_rules}"
    if text_rules != tokenizer.text_rules:
        raise UserError(
            f"{tokenizer.piece_model_path.parent}: its text was cut with the text rules "
            f"{tokenizer.text_rules}, and {reason}; build the corpus with --text_rules {text_rules}, or ask "
            f"for data.text_rules {tokenizer.text_rules}"
        )


def _has_head(checkpoint: Checkpoint) -> bool:
    return any(name.startswith(_HEAD) for name in checkpoint.tensors)


def _load_head(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Load the masked-LM head.

    Raises:
        UserError: there is none.
    """
    if not _has_head(checkpoint):
        raise UserError(
            f"init.lm_head: {checkpoint.path} has no masked-LM head (released ERNIE-M weights have none); "
            "use init.lm_head random with init.lm_head_warmup_steps"
        )
    # Only the head is loaded, and none of its weights may be absent.
    load_from(model, checkpoint, optional=(), ignore=(*_ENCODER, _LANGUAGES, _CLASSIFIER))
    logger.info("masked-LM head: from %s", checkpoint.path)


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Compare the size and, if the folder has vocabulary files, the tokens.

    Raises:
        UserError: they differ from those of the corpus.
    """
    pieces = checkpoint.piece_model_path
    advice = f"build the corpus with --piece_model_path {pieces or 'of the weights'}"
    if pieces and checkpoint.vocab_path:
        advice += f" and --vocab_path {checkpoint.vocab_path}"
    fault = f"{checkpoint.path} has another vocabulary than the corpus"
    if WORDS in checkpoint.tensors:
        try:
            tokenizer.check_model(checkpoint.tensors.shape(WORDS)[0], tokenizer.pad_id, checkpoint.path)
        except UserError as error:
            raise UserError(f"{fault} ({error}): {advice}") from error
    if pieces is not None:
        vocab = checkpoint.tokenizer().vocab
        if {
            token: vocab[token] for token in vocab if token not in checkpoint.preprocessing.added_tokens
        } != tokenizer.vocab:
            raise UserError(f"{fault} (other tokens): {advice}")


def _load_languages(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Copy the language embeddings, if there are some, by the name of the language.

    A language that the checkpoint lacks keeps its zero row.

    Raises:
        UserError: they are not one row for each of the languages of config.json, or not finite.
    """
    name = f"{_LANGUAGES}weight"
    if name not in checkpoint.tensors:
        return
    saved_languages = checkpoint.settings.get("languages") or []
    saved_rows = finite(name, checkpoint.tensors[name], checkpoint.tensors.source)
    table = model.language_embeddings.weight
    rows = table.numpy()  # [languages, H]
    if saved_rows.shape != (len(saved_languages), rows.shape[1]):
        raise UserError(
            f"{checkpoint.path}: {name} has shape {list(saved_rows.shape)}, but config.json has "
            f"{len(saved_languages)} languages, of {rows.shape[1]} numbers each"
        )
    common_languages = []
    for number, language in enumerate(model.languages):
        if language in saved_languages:
            rows[number] = saved_rows[saved_languages.index(language)]
            common_languages.append(language)
    table.set_value(rows)
    logger.info("language embeddings: %s", ", ".join(sorted(common_languages)) or "none")
