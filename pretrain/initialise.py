"""What a run's weights start from: encoder, head and language embeddings, each from its own place."""

import numpy as np
import paddle

from model.checkpoint import load_from, load_into, read_weights
from model.heads import PreTrainingModel
from pretrain.config import InitConfig
from utils.errors import UserError
from utils.logging import logger

SCRATCH, FRESH, SAME = "scratch", "fresh", "encoder"
_HEAD, _LANGUAGES, _TASK = "lm_head.", "language_embeddings.", "classifier."
_ENCODER = ("embeddings.", "encoder.", "pooler.")


def initialise(model: PreTrainingModel, config: InitConfig) -> None:
    """Fill a freshly made model as `init` says. What is not named stays as it was initialised.

    Raises:
        UserError: a folder that is missing, of another shape or vocabulary, or without the head it should
            bring.
    """
    if config.encoder != SCRATCH:
        load_from(model.ernie_m, config.encoder, ignore=(_HEAD, _LANGUAGES, _TASK))
        _load_languages(model, config.encoder)
        logger.info("encoder: from %s", config.encoder)
    if config.lm_head != FRESH:
        folder = config.encoder if config.lm_head == SAME else config.lm_head
        weights = read_weights(folder).weights
        if not any(name.startswith(_HEAD) for name in weights):
            raise UserError(
                f"init.lm_head: {folder} has no masked-LM head (released ERNIE-M weights have none); "
                "use init.lm_head fresh with init.lm_head_warmup_steps"
            )
        load_into(model, weights, optional=(), ignore=(*_ENCODER, _LANGUAGES, _TASK))
        logger.info("masked-LM head: from %s", folder)


def _load_languages(model: PreTrainingModel, folder: str) -> None:
    """Rows go by the language's name; a language that the checkpoint does not know keeps its zero row."""
    checkpoint = read_weights(folder)
    name = _LANGUAGES + "weight"
    if name not in checkpoint.weights:
        return
    known = checkpoint.info["extra"]["languages"]
    table = checkpoint.weights[name]
    rows = model.language_embeddings.weight.numpy()
    for i, language in enumerate(model.languages):
        if language in known:
            rows[i] = np.asarray(table[known.index(language)])
    model.language_embeddings.weight.set_value(paddle.to_tensor(rows))


def freeze_encoder(model: PreTrainingModel, frozen: bool) -> None:
    """Keep the encoder, the tied word table included, as it is while a fresh head finds its feet."""
    for parameter in model.ernie_m.parameters():
        parameter.stop_gradient = frozen
