"""What a run's weights start from: encoder, head and language embeddings, each from its own place."""

from model.checkpoint.folder import Checkpoint, load_from, load_into, read_weights
from model.heads import PreTrainingModel
from pretrain.config import FRESH, FROM_ENCODER, SCRATCH, InitConfig
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.logging import logger

_HEAD, _LANGUAGES, _TASK = "lm_head.", "language_embeddings.", "classifier."
_WORDS = "embeddings.word_embeddings.weight"
_ENCODER = ("embeddings.", "encoder.", "pooler.")


def initialise(model: PreTrainingModel, config: InitConfig, tokenizer: Tokenizer) -> None:
    """Fill a freshly made model as `init` says. What is not named stays as it was initialised.

    Args:
        tokenizer: of the corpus; a folder that brings a vocabulary must bring this one.

    Raises:
        UserError: a folder that is missing, of another shape or vocabulary, or without the head it should
            bring.
    """
    if config.encoder != SCRATCH:
        checkpoint = read_weights(config.encoder)
        _check_vocabulary(checkpoint, config.encoder, tokenizer)
        load_from(model.ernie_m, config.encoder, ignore=(_HEAD, _LANGUAGES, _TASK))
        _load_languages(model, checkpoint)
        logger.info("encoder: from %s", config.encoder)
    if config.lm_head != FRESH:
        folder = config.encoder if config.lm_head == FROM_ENCODER else config.lm_head
        checkpoint = read_weights(folder)
        if not any(name.startswith(_HEAD) for name in checkpoint.weights):
            raise UserError(
                f"init.lm_head: {folder} has no masked-LM head (released ERNIE-M weights have none); "
                "use init.lm_head fresh with init.lm_head_warmup_steps"
            )
        _check_vocabulary(checkpoint, folder, tokenizer)
        load_into(model, checkpoint.weights, optional=(), ignore=(*_ENCODER, _LANGUAGES, _TASK))
        logger.info("masked-LM head: from %s", folder)


def freeze_encoder(model: PreTrainingModel, frozen: bool) -> None:
    """Keep the encoder, the tied word table included, as it is, or let it be trained again."""
    for parameter in model.ernie_m.parameters():
        parameter.stop_gradient = frozen


def _check_vocabulary(checkpoint: Checkpoint, folder: str, tokenizer: Tokenizer) -> None:
    """By size, and by token where the folder brings its files: tables of equal size may mean other tokens."""
    rows = checkpoint.weights.shape(_WORDS)[0] if _WORDS in checkpoint.weights else tokenizer.vocab_size
    vocab, pieces = checkpoint.vocab_path, checkpoint.piece_model_path
    theirs = tokenizer.vocab if pieces is None else Tokenizer(vocab, pieces).vocab
    if rows == tokenizer.vocab_size and theirs == tokenizer.vocab:
        return
    same_size = rows == tokenizer.vocab_size
    what = "other tokens" if same_size else f"{rows} tokens instead of {tokenizer.vocab_size}"
    flags = " and ".join(f"{flag} {path}" for flag, path in
                         (("--piece_model_path", pieces), ("--vocab_path", vocab)) if path)  # fmt: skip
    raise UserError(
        f"{folder} has another vocabulary than the corpus ({what}): build the corpus with that of the weights"
        + (f", {flags}" if flags else "")
    )


def _load_languages(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Rows go by the language's name; a language that the checkpoint does not know keeps its zero row."""
    name = _LANGUAGES + "weight"
    if name not in checkpoint.weights:
        return
    known = {language: i for i, language in enumerate(checkpoint.extra.get("languages", ()))}
    theirs, table = checkpoint.weights[name], model.language_embeddings.weight
    rows = table.numpy()
    for i, language in enumerate(model.languages):
        if language in known:
            rows[i] = theirs[known[language]]
    table.set_value(rows)
    logger.info("language embeddings: %s", ", ".join(sorted(known.keys() & set(model.languages))) or "none")
