"""The initial weights of a run: encoder, head and language embeddings, each from its own source."""

from collections.abc import Mapping
from typing import Any

from model.checkpoint.load import load_from
from model.checkpoint.read import Checkpoint, open_checkpoint
from model.heads import PreTrainingModel
from pretrain.config import FRESH, FROM_ENCODER, SCRATCH, InitConfig
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.logging import logger

_HEAD, _LANGUAGES, _TASK = "lm_head.", "language_embeddings.", "classifier."
_WORDS = "embeddings.word_embeddings.weight"
_ENCODER = ("embeddings.", "encoder.", "pooler.")


def initialise(
    model: PreTrainingModel, config: InitConfig, tokenizer: Tokenizer, drawn: Mapping[str, Any] | None = None
) -> None:
    """Load weights into a new model. Whatever `config` does not name keeps its initial value.

    Args:
        tokenizer: of the corpus. If a folder has a vocabulary, it must be the same.
        drawn: digest of the corpus and seed of this run. If the encoder was trained with the same, it has
            seen the items that the run begins with; a warning says so.

    Raises:
        UserError: a folder is missing, has another shape or vocabulary, or lacks the head.
    """
    encoder_source = None
    if config.encoder != SCRATCH:
        checkpoint = encoder_source = open_checkpoint(config.encoder)
        _check_vocabulary(checkpoint, tokenizer)
        load_from(model.ernie_m, checkpoint, ignore=(_HEAD, _LANGUAGES, _TASK))
        _load_languages(model, checkpoint)
        logger.info("encoder: from %s", config.encoder)
        if drawn and checkpoint.settings.get("drawn") == drawn:
            logger.warning(
                "%s was trained on this corpus with run.seed %d, so this run draws the same items again: "
                "change run.seed", config.encoder, drawn["seed"],
            )  # fmt: skip
    if config.lm_head != FRESH:
        folder = config.encoder if config.lm_head == FROM_ENCODER else config.lm_head
        checkpoint = encoder_source if folder == config.encoder else None
        checkpoint = checkpoint or open_checkpoint(folder)
        if not any(name.startswith(_HEAD) for name in checkpoint.tensors):
            raise UserError(
                f"init.lm_head: {folder} has no masked-LM head (released ERNIE-M weights have none); "
                "use init.lm_head fresh with init.lm_head_warmup_steps"
            )
        _check_vocabulary(checkpoint, tokenizer)
        load_from(model, checkpoint, optional=(), ignore=(*_ENCODER, _LANGUAGES, _TASK))
        logger.info("masked-LM head: from %s", folder)


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Compare the size and, if the folder has vocabulary files, the tokens."""
    rows = checkpoint.tensors.shape(_WORDS)[0] if _WORDS in checkpoint.tensors else tokenizer.vocab_size
    vocab, pieces = checkpoint.vocab_path, checkpoint.piece_model_path
    theirs = tokenizer.vocab if pieces is None else Tokenizer(vocab, pieces).vocab
    same_size = rows == tokenizer.vocab_size
    if same_size and theirs == tokenizer.vocab:
        return
    what = "other tokens" if same_size else f"{rows} tokens instead of {tokenizer.vocab_size}"
    paths = {"--piece_model_path": pieces, "--vocab_path": vocab}
    flags = " and ".join(f"{flag} {path}" for flag, path in paths.items() if path)
    raise UserError(
        f"{checkpoint.path} has another vocabulary than the corpus ({what}): build the corpus with that of "
        "the weights" + (f", {flags}" if flags else "")
    )


def _load_languages(model: PreTrainingModel, checkpoint: Checkpoint) -> None:
    """Copy rows by the name of the language. A language that the checkpoint lacks keeps its zero row."""
    name = _LANGUAGES + "weight"
    if name not in checkpoint.tensors:
        return
    known = {language: i for i, language in enumerate(checkpoint.settings.get("languages", ()))}
    theirs, table = checkpoint.tensors[name], model.language_embeddings.weight
    rows = table.numpy()
    for i, language in enumerate(model.languages):
        if language in known:
            rows[i] = theirs[known[language]]
    table.set_value(rows)
    logger.info("language embeddings: %s", ", ".join(sorted(known.keys() & set(model.languages))) or "none")
