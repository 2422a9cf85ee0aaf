"""Build the Paddle model of a checkpoint, with its head, and the parts of it that tasks run."""

import paddle
from paddle import Tensor, nn

from inference.requests import outputs_of, reading_of
from model import heads
from model.checkpoint.folder import Checkpoint, load_into
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


def head_of(checkpoint: Checkpoint, asked: str | None) -> str | None:
    """The head of a checkpoint. `asked` is the task of a classifier whose files do not name it.

    Raises:
        UserError: there is a classifier, and its task is not known.
    """
    weights, extra = checkpoint.weights, checkpoint.extra
    if CLASSIFIER not in weights:
        return "fill" if LM_HEAD in weights else None
    for word in (extra.get("task"), checkpoint.head, extra.get("architecture"), asked):
        if isinstance(word, str) and task_named(word) in MODEL_CLASSES:
            return task_named(word)
    raise UserError(f"{weights.source}: it has a classifier; say what for: --task classify, tag or answer")


def build(checkpoint: Checkpoint, config: ErnieMConfig, head: str | None) -> tuple[nn.Layer, list[str]]:
    """The model of a checkpoint with its weights, and the languages of its language table.

    Raises:
        UserError: weights and config do not fit together.
    """
    weights, languages = checkpoint.weights, []
    optional, ignore = ("pooler.",), ()
    if head == "fill":
        languages = list(checkpoint.extra.get("languages") or [])
        untrained = reading_of(checkpoint.extra, weights.source).get("language_embedding") == "none"
        if untrained or LANGUAGES not in weights or weights.shape(LANGUAGES)[0] != len(languages):
            languages, optional, ignore = [], ("pooler.", LANGUAGES), (LANGUAGES,)
        # a table has at least one row; without languages nothing reads it
        model: nn.Layer = heads.PreTrainingModel(config, languages or ["none"])
    elif head is None:
        model = ErnieMModel(config)
    else:
        sizes = () if head == QUESTION_ANSWERING else (weights.shape(CLASSIFIER)[1],)
        model = getattr(heads, MODEL_CLASSES[head])(config, *sizes)
        optional = () if head == CLASSIFICATION else optional
    load_into(model, weights, optional, ignore)
    return model.eval(), languages


def set_device(use_cuda: bool) -> None:
    """Use the GPU if there is one and it is wanted, else the CPU."""
    gpu = use_cuda and paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    paddle.set_device("gpu" if gpu else "cpu")
