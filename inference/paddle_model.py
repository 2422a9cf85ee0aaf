"""Build the Paddle model of a checkpoint, with its head, and run the part of it that a task needs."""

import numpy as np
import paddle
from paddle import Tensor, nn

from inference.loading import outputs_of
from model import heads
from model.checkpoint.formats.tables import CHOICE
from model.checkpoint.load import load_from
from model.checkpoint.read import Checkpoint
from model.ernie_m import ErnieMConfig, ErnieMModel
from model.task_names import CLASSIFICATION, ENCODING, MODEL_CLASSES, QUESTION_ANSWERING, task_named
from utils.errors import UserError

LM_HEAD, LANGUAGES, CLASSIFIER = "lm_head.dense.weight", "language_embeddings.weight", "classifier.weight"


class Traced(nn.Layer):
    """The part of a model that a task runs and exports: ids [B, T] -> a tuple of outputs.

    Args:
        model: an encoder for encoding, else a task model.
        layer: the layer at which an encoder ends.

    Attributes:
        outputs: the names of the outputs.
    """

    def __init__(self, model: nn.Layer, task: str, layer: int):
        super().__init__()
        config = getattr(model, "ernie_m", model).config
        self.model, self.task, self.layer = model, task, layer
        self.outputs = outputs_of(task, layer, config.num_hidden_layers)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        if self.task == ENCODING:
            pool = len(self.outputs) > 1
            found = self.model(input_ids, pool=pool, layers=self.layer)
            return (found.sequence, found.pooled) if pool else (found.sequence,)
        found = self.model(input_ids)
        return found if isinstance(found, tuple) else (found,)


class DygraphEngine:
    """A part of a model, run without dropout and gradients."""

    def __init__(self, part: Traced):
        self.part = part.eval()

    @paddle.no_grad()
    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.part.outputs, (x.numpy() for x in self.part(ids))))


def head_of(checkpoint: Checkpoint, asked: str | None) -> str | None:
    """The head of a checkpoint. `asked`: the task of a classifier whose files do not name it.

    Raises:
        UserError: the task of a classifier is not known.
    """
    tensors = checkpoint.tensors
    if CLASSIFIER not in tensors:
        return "fill" if LM_HEAD in tensors else None
    task = checkpoint.task or task_named(asked or "")
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
