"""Build the Paddle model of a checkpoint, with its head, and run the part of it that a task needs."""

import numpy as np
import paddle
from paddle import Tensor, nn

from inference.loading import outputs_of
from model import heads
from model.batch import TokenBatch
from model.checkpoint.formats.tables import CHOICE
from model.checkpoint.load import load_from
from model.checkpoint.read import Checkpoint
from model.config import ErnieMConfig
from model.device import upload
from model.ernie_m import ErnieMModel
from model.task_names import CLASSIFICATION, ENCODING, MODEL_CLASSES, QUESTION_ANSWERING, task_named
from utils.errors import UserError

LM_HEAD, LANGUAGES, CLASSIFIER = "lm_head.dense.weight", "language_embeddings.weight", "classifier.weight"


class DygraphEngine:
    """What a task computes with a Paddle model, without dropout and gradients.

    Args:
        model: an encoder for encoding, else a task model.
        task: one of `model.task_names.OUTPUTS`.
        layer: the layer at which an encoder ends.
    """

    def __init__(self, model: nn.Layer, task: str, layer: int):
        self.model = model.eval()
        self.task = task
        self.layer = layer
        self.config = getattr(model, "ernie_m", model).config
        self.outputs = outputs_of(task, layer, self.config.num_hidden_layers)

    @paddle.no_grad()
    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Ids, int64 [B, T], padded on the right -> the name of each output and its values."""
        inputs = upload(TokenBatch.from_padded(ids, self.config.pad_token_id))
        results = self._encode(inputs) if self.task == ENCODING else self.model(inputs)
        if isinstance(results, Tensor):
            results = (results,)
        return dict(zip(self.outputs, [result.numpy() for result in results], strict=True))

    def _encode(self, inputs: TokenBatch) -> tuple[Tensor, ...]:
        states = self.model.encode(inputs, layers=self.layer).sequence  # [N, H]
        sequence = inputs.padded(states)  # [B, T, H]
        if len(self.outputs) == 1:
            return (sequence,)
        return sequence, self.model.pooler(paddle.gather(states, inputs.first_tokens))


def task_of_head(checkpoint: Checkpoint, requested_task: str | None) -> str | None:
    """The task of a checkpoint's head: one of `MODEL_CLASSES`, "fill" or None.

    Args:
        requested_task: that of a classifier whose files do not name it.

    Raises:
        UserError: nothing says what its classifier is for.
    """
    tensors = checkpoint.tensors
    if CLASSIFIER not in tensors:
        return "fill" if LM_HEAD in tensors else None
    task = checkpoint.task or task_named(requested_task or "")
    if task == CHOICE:  # its choices are scored by a classifier of one label
        return CLASSIFICATION
    if task not in MODEL_CLASSES:
        raise UserError(f"{tensors.source}: it has a classifier; say with --task what it is for")
    return task


def build(checkpoint: Checkpoint, config: ErnieMConfig, head: str | None) -> tuple[nn.Layer, list[str]]:
    """The model of a checkpoint with its weights, and the languages that its masks can be filled in.

    Raises:
        UserError: weights and config do not fit together.
    """
    weights, extra, languages = checkpoint.tensors, checkpoint.settings, []
    optional, ignore = ("pooler.",), ()
    if head == "fill":
        # Only with language_embedding "masks" does the table say in which language to predict.
        if LANGUAGES in weights and extra.get("reading", {}).get("language_embedding", "masks") == "masks":
            languages = list(extra.get("languages", []))
        ignore = () if languages else (LANGUAGES,)
        # a table has at least one row; without languages nothing reads it
        model: nn.Layer = heads.PreTrainingModel(config, languages or ["none"])
    elif head is None:
        model = ErnieMModel(config)
    else:
        sizes = () if head == QUESTION_ANSWERING else (weights.shape(CLASSIFIER)[1],)
        model = getattr(heads, MODEL_CLASSES[head])(config, *sizes)
        optional = () if head == CLASSIFICATION else optional
    load_from(model, checkpoint, optional, ignore)
    return model.eval(), languages
