"""An encoder with its tokenizer, as the official flags name them; no head on it."""

from typing import Protocol

import paddle

from finetune.setup import make_tokenizer, model_config
from model.checkpoint.folder import load_from
from model.ernie_m import ErnieMModel
from reader.tokenization import Tokenizer
from utils.logging import logger


class Flags(Protocol):
    """Of the official flags those that say which model it is."""

    ernie_config_path: str | None
    init_pretraining_params: str | None
    init_checkpoint: str | None
    vocab_path: str | None
    piece_model_path: str | None
    max_seq_len: int


def open_encoder(flags: Flags, dtype: str = "float32", seed: int = 1) -> tuple[ErnieMModel, Tokenizer]:
    """Read tokenizer, config and weights; a head in the weights is passed over.

    `init_checkpoint` comes before `init_pretraining_params`; without both the weights are random.

    Raises:
        UserError: a file is missing or damaged, or they do not belong together.
    """
    tokenizer = make_tokenizer(flags)
    config = model_config(flags, tokenizer)
    paddle.seed(seed)
    paddle.set_default_dtype(dtype)
    model = ErnieMModel(config)
    if source := flags.init_checkpoint or flags.init_pretraining_params:
        load_from(model, source, ignore=("classifier.", "lm_head.", "language_embeddings."))
    else:
        logger.warning("no --init_pretraining_params: the weights are random")
    return model, tokenizer
