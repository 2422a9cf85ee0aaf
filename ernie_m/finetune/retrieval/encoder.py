"""The encoder whose embeddings retrieval trains and evaluates, and mining searches."""

from collections.abc import Callable, Sequence

import numpy as np
import paddle

from ernie_m.finetune.retrieval.retrieval_args import EmbeddingFlags
from ernie_m.model.checkpoint.check_weights import HEADS, list_unused_parts
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.pipeline_config import MEAN_WITHOUT_SPECIAL, PipelineConfig, TextKind
from ernie_m.reader.text_featurizer import warn_about_repeated_prompt
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.logging import logger
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import parse_layer

# Texts and their kind -> their embeddings at the evaluated layer, [N, H]; with --layer sweep at each layer,
# [L + 1, N, H].
Encode = Callable[[Sequence[str], TextKind], np.ndarray]


def make_encoder(
    config: ErnieMConfig,
    checkpoint: Checkpoint | None,
    dtype: str = "float32",
    seed: int = 1,
    pooling: str = MEAN_WITHOUT_SPECIAL,
    is_trained: bool = False,
) -> ErnieMModel:
    """Build an encoder, identical on every process, and load its weights from a checkpoint.

    Args:
        checkpoint: the checkpoint, whose head is ignored; None: random weights.
        pooling: the pooling of the embeddings; only "pooler" requires the weights of the pooler.
        is_trained: whether the model will be trained, so that a missing pooler may be initialized randomly.
    """
    paddle.seed(seed)
    paddle.set_default_dtype(dtype)
    model = ErnieMModel(config)
    if checkpoint is None:
        logger.warning("no --init_pretraining_params: initializing all weights randomly")
    else:
        ignored = (*HEADS, *list_unused_parts(checkpoint, pooling == "pooler"))
        load_weights(model, checkpoint, optional=("pooler.",) if is_trained else (), ignore=ignored)
    return model


def resolve_layer(flags: EmbeddingFlags, num_layers: int) -> int:
    """Return the index of the encoder layer of the embeddings by --layer; with the pooler, the last layer."""
    return num_layers if flags.pooling == "pooler" else parse_layer(flags.layer, num_layers)


def make_encode_function(
    encoder: PaddleEncoder, tokenizer: Tokenizer, pipeline_config: PipelineConfig, max_seq_len: int
) -> Encode:
    """Return a function that encodes texts into embeddings.

    Args:
        pipeline_config: the pipeline settings with the prompts.
        max_seq_len: maximum length of a text in tokens, including special tokens.
    """

    def encode(texts: Sequence[str], kind: TextKind) -> np.ndarray:
        prompt = pipeline_config.get_prompt(kind)
        warn_about_repeated_prompt(prompt, texts)
        ids = tokenizer.encode_batch([prompt + text for text in texts])
        return encoder.encode(tokenizer.build_sentence_inputs(ids, max_seq_len))

    return encode
