"""Initializes the model of a new run: encoder, masked-LM head and language embeddings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from paddle import Tensor

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.native_names import LM_BIAS, WORDS
from ernie_m.model.checkpoint.open import Checkpoint, open_checkpoint
from ernie_m.model.checkpoint.weights import Weights, check_finite
from ernie_m.model.lm_head import LMHead, PreTrainingModel
from ernie_m.pretrain.config import AUTO, RANDOM, SAME, InitConfig
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# Prefixes of tensor names.
_ENCODER = ("embeddings.", "encoder.", "pooler.")
_HEAD = "lm_head."
_LANGUAGES = "language_embeddings."
_CLASSIFIER = "classifier."  # prefix of a fine-tuned model's classifier
_TINY = 1e-9  # minimum divisor: an unused subword may have a zero embedding
_SMALL = 0.2  # initial scale of the states that a new head multiplies with the embedding matrix; usually 1


def open_initial_checkpoint(folder: str, tokenizer: Tokenizer) -> Checkpoint:
    """Open an initial checkpoint, and drop unused rows of its embedding matrix and bias.

    Args:
        folder: path of the checkpoint.
        tokenizer: the tokenizer of the corpus, which must equal that of the checkpoint.

    Raises:
        UserError: the checkpoint cannot be opened, the vocabulary differs, or the model is static.
    """
    checkpoint = open_checkpoint(folder)
    _check_vocabulary(checkpoint, tokenizer)
    if checkpoint.config and checkpoint.config.is_static:
        raise UserError(f"{checkpoint.path}: a static model cannot be pretrained (it has no layers)")
    tensors = checkpoint.tensors
    size = tokenizer.vocab_size
    shapes = {name: tensors.shape(name) for name in tensors}
    for name in shapes.keys() & {WORDS, LM_BIAS}:
        rows, *width = shapes[name]
        shapes[name] = (min(rows, size), *width)

    def fetch(name: str) -> np.ndarray:
        return tensors[name][:size] if name in (WORDS, LM_BIAS) else tensors[name]

    return replace(checkpoint, tensors=Weights(tensors.source, shapes, fetch))


def initialize_model(
    model: PreTrainingModel,
    config: InitConfig,
    encoder: Checkpoint | None,
    tokenizer: Tokenizer,
    run_fingerprint: Mapping[str, Any],
    text_rules: str = AUTO,
) -> None:
    """Initialize a new model from the checkpoints of `init`. Other weights keep their random values.

    Args:
        encoder: checkpoint of `config.encoder`, from `open_initial_checkpoint`; None: a random encoder.
        tokenizer: the tokenizer of the corpus.
        run_fingerprint: the digest of the corpus and the seed of this run. A warning is logged if the encoder
            was trained with the same ones, because it has been trained on the run's first examples.
        text_rules: the text rules that the corpus must have. AUTO: the encoder's.

    Raises:
        UserError: a checkpoint is missing, differs in sizes, vocabulary or text rules, or lacks the head.
    """
    _check_text_rules(encoder, tokenizer, text_rules)
    if config.word_embeddings:
        words = model.ernie_m.embeddings.word_embeddings.weight
        _init_word_embeddings(
            words, open_checkpoint(config.word_embeddings), tokenizer, run_fingerprint["seed"]
        )
    if encoder is not None:
        load_weights(model.ernie_m, encoder, ignore=(_HEAD, _LANGUAGES, _CLASSIFIER))
        _load_language_embeddings(model, encoder)
        logger.info("loaded encoder: %s", encoder.path)
        # `Pretraining.collect_files` writes the key "drawn".
        if encoder.settings.get("drawn") == run_fingerprint:
            logger.warning(
                "%s was trained on this corpus with run.seed %d, so this run samples the same examples "
                "again. Change run.seed",
                encoder.path,
                run_fingerprint["seed"],
            )
    if encoder is not None and config.lm_head in (SAME, config.encoder):
        _load_head(model, encoder)  # the same checkpoint, which is open already
        return
    if config.lm_head != RANDOM:
        _load_head(model, open_initial_checkpoint(config.lm_head, tokenizer))
    elif encoder is not None and not _has_head(encoder):
        logger.info("%s: no masked-LM head; starting with a new one of random weights", encoder.path)
    if encoder is not None and _has_head(encoder):
        logger.info("%s: ignoring its masked-LM head (init.lm_head same loads it)", encoder.path)


def _init_word_embeddings(
    word_embeddings: Tensor, static_model: Checkpoint, tokenizer: Tokenizer, seed: int
) -> None:
    """Replace random word embeddings with the principal components of a static model, with unchanged norms.

    The components are rotated randomly, so that no dimension dominates.

    Args:
        word_embeddings: the word embeddings, [V, H], modified in place.
        static_model: a static model with hidden size W >= H.

    Raises:
        UserError: the vocabulary of the static model differs from that of the corpus, W < H, or a row
            contains NaN or infinity.
    """
    _check_vocabulary(static_model, tokenizer)
    size, width = word_embeddings.shape
    rows = check_finite(WORDS, static_model.tensors[WORDS][:size], static_model.path)  # [V, W]
    if rows.shape[1] < width:
        raise UserError(
            f"init.word_embeddings {static_model.path}: width {rows.shape[1]}, expected >= {width}"
        )
    directions, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    vectors = (directions * sizes)[:, :width] @ turn  # [V, H]
    random = word_embeddings.numpy()
    lengths = np.linalg.norm(random, axis=1, keepdims=True)
    vectors *= lengths / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    word_embeddings.set_value(vectors.astype(random.dtype))
    distributed.broadcast_([word_embeddings])  # machines may round differently


def set_token_frequencies(head: LMHead, subword_counts: np.ndarray) -> None:
    """Initialize the bias of a new masked-LM head with log subword frequencies, and shrink its layer norm.

    A bias changes by at most the learning rate per step, and the most frequent subwords are e^10 times as
    frequent as the rarest, so a warm-up of some hundred steps would not learn the frequencies. The logits of
    a random head are noise, so their initial scale is small.

    Args:
        subword_counts: subword counts of the training text, int64 [V]; smoothed by adding one.
    """
    logarithms = np.log(subword_counts + 1.0)
    head.bias.set_value((logarithms - logarithms.mean()).astype(head.bias.numpy().dtype))
    weight = head.state_dict()["layer_norm.weight"]
    weight.set_value(_SMALL * weight.numpy())


def _check_text_rules(encoder: Checkpoint | None, tokenizer: Tokenizer, text_rules: str) -> None:
    """Check that the corpus was tokenized with the text rules that the run requires.

    Args:
        tokenizer: the tokenizer of the corpus.
        text_rules: the value of data.text_rules.

    Raises:
        UserError: the text rules of the corpus differ.
    """
    reason = f"data.text_rules is {text_rules}"
    if text_rules == AUTO:  # the rules of the encoder
        if encoder is None:
            return  # a new encoder uses those of the corpus
        text_rules = encoder.pipeline_config.text_rules
        reason = f"{encoder.path} requires {text_rules}"
    if text_rules != tokenizer.text_rules:
        raise UserError(
            f"{tokenizer.piece_model_path.parent}: text rules {tokenizer.text_rules}, but {reason}. "
            f"Build the corpus with --text_rules {text_rules}, or set data.text_rules {tokenizer.text_rules}"
        )


def _has_head(checkpoint: Checkpoint) -> bool:
    return any(name.startswith(_HEAD) for name in checkpoint.tensors)


def _load_head(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Load the masked-LM head of a checkpoint.

    Raises:
        UserError: the checkpoint has no masked-LM head.
    """
    if not _has_head(checkpoint):
        raise UserError(
            f"init.lm_head: {checkpoint.path} has no masked-LM head (released ERNIE-M weights have none). "
            "Use init.lm_head random with init.lm_head_warmup_steps"
        )
    # Only the head is loaded, and all of its weights are required.
    load_weights(model, checkpoint, optional=(), ignore=(*_ENCODER, _LANGUAGES, _CLASSIFIER))
    logger.info("loaded masked-LM head: %s", checkpoint.path)


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Check that a checkpoint has the vocabulary of the corpus: its size and, if known, its tokens.

    Raises:
        UserError: the vocabulary differs.
    """
    model_path = checkpoint.piece_model_path
    advice = f"Build the corpus with --piece_model_path {model_path or 'of the weights'}"
    if model_path and checkpoint.vocab_path:
        advice += f" and --vocab_path {checkpoint.vocab_path}"
    mismatch = f"{checkpoint.path} has another vocabulary than the corpus"
    if WORDS in checkpoint.tensors:
        try:
            tokenizer.check_model(checkpoint.tensors.shape(WORDS)[0], tokenizer.pad_id, checkpoint.path)
        except UserError as error:
            raise UserError(f"{mismatch} ({error}). {advice}") from error
    if model_path is not None:
        vocab = checkpoint.load_tokenizer().vocab
        if {
            token: vocab[token] for token in vocab if token not in checkpoint.pipeline_config.added_tokens
        } != tokenizer.vocab:
            raise UserError(f"{mismatch} (the tokens differ). {advice}")


def _load_language_embeddings(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Load the language embeddings of a checkpoint, if any, by language name.

    The embedding of a language that the checkpoint lacks stays zero.

    Raises:
        UserError: the shape does not match the languages in config.json, or a value is not finite.
    """
    name = f"{_LANGUAGES}weight"
    if name not in checkpoint.tensors:
        return
    saved_languages = checkpoint.settings.get("languages") or []
    saved_rows = check_finite(name, checkpoint.tensors[name], checkpoint.tensors.source)
    table = model.language_embeddings.weight
    rows = table.numpy()  # [languages, H]
    if saved_rows.shape != (len(saved_languages), rows.shape[1]):
        raise UserError(
            f"{checkpoint.path}: {name} has shape {list(saved_rows.shape)}, but config.json has "
            f"{len(saved_languages)} languages of width {rows.shape[1]}"
        )
    common_languages = []
    for number, language in enumerate(model.languages):
        if language in saved_languages:
            rows[number] = saved_rows[saved_languages.index(language)]
            common_languages.append(language)
    table.set_value(rows)
    logger.info("loaded language embeddings: %s", ", ".join(sorted(common_languages)) or "none")
