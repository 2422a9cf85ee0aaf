"""Inference engine that runs the model of a checkpoint in Paddle."""

from contextlib import nullcontext

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.model.checkpoint.check_weights import HEADS, list_unused_parts
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.device_transfer import to_array, upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.heads import make_model_with_head
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.tasks import (
    EMBEDDING,
    FILL_MASK,
    POOLED,
    list_graph_outputs,
)
from ernie_m.training.precision import Autocast

LANGUAGE_TABLE = "language_embeddings.weight"


class PaddleEagerEngine:
    """Engine that runs the forward pass of a Paddle model, without dropout or gradients.

    Args:
        model: an encoder for embedding, otherwise a task model.
        task: one of `ernie_m.model.tasks.EXPORTED_TASKS`.
        layer: the layer at which an encoder ends.
        autocast: returns the context manager of a forward pass, see `prepare_for_prediction`.
        has_pooler: whether the encoder has a pooler, and therefore the output "pooled".
    """

    def __init__(
        self,
        model: nn.Layer,
        task: str,
        layer: int,
        autocast: Autocast = nullcontext,
        has_pooler: bool = True,
    ):
        self.model = model.eval()
        self.task = task
        self.layer = layer
        self.autocast = autocast
        self.config = getattr(model, "ernie_m", model).config
        self.outputs = list_graph_outputs(task, has_pooler and layer == self.config.num_hidden_layers)

    @paddle.no_grad()
    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Run the model on ids, int64 [B, T], padded on the right: output name -> float32 array."""
        with self.autocast():
            inputs = upload(PackedBatch.from_padded(ids, self.config.pad_token_id))
            results = self._encode(inputs) if self.task == EMBEDDING else self.model(inputs)
        if isinstance(results, Tensor):
            results = (results,)
        return dict(zip(self.outputs, [to_array(result) for result in results], strict=True))

    def _encode(self, inputs: PackedBatch) -> tuple[Tensor, ...]:
        """Compute the hidden states at `layer`, [B, T, H], and, if available, the pooler output, [B, H]."""
        states = self.model.encode(inputs, layers=self.layer).sequence  # [N, H]
        sequence = inputs.to_padded(states)  # [B, T, H]
        if len(self.outputs) == 1:
            return (sequence,)
        return sequence, self.model.pooler(paddle.gather(states, inputs.first_tokens))


def build_model(checkpoint: Checkpoint, config: ErnieMConfig, task: str | None) -> tuple[nn.Layer, list[str]]:
    """Build the model of a checkpoint with its weights, and return the languages of its masked-LM head.

    Args:
        task: the task of the head, from `find_head_task`.

    Raises:
        UserError: the weights do not match the config.
    """
    if task == FILL_MASK:
        return _build_masked_lm(checkpoint, config)
    if task is None:
        model: nn.Layer = ErnieMModel(config)
    else:
        num_labels = checkpoint.tensors.shape("classifier.weight")[1]  # [H, labels]
        model = make_model_with_head(task, config, num_labels, checkpoint.pipeline_config.pooling)
    ignored = HEADS if task is None else ()
    # A head on the pooler requires its weights: a random pooler would give random classes.
    without = list_unused_parts(checkpoint, reads_pooler=getattr(model, "pooling", None) == POOLED)
    load_weights(model, checkpoint, optional=(), ignore=(*ignored, *without))
    return model.eval(), []


def _build_masked_lm(checkpoint: Checkpoint, config: ErnieMConfig) -> tuple[nn.Layer, list[str]]:
    """Build the model of a checkpoint with a masked-LM head; see `build_model`."""
    settings = checkpoint.settings
    languages: list[str] = []
    # Language embeddings select the language to predict only with language_embedding "masks". None: not
    # specified, and "masks" is the default.
    gives_language_to_masks = checkpoint.pipeline_config.language_embedding in (None, "masks")
    if gives_language_to_masks and LANGUAGE_TABLE in checkpoint.tensors:
        languages = list(settings.get("languages") or [])
    ignored = () if languages else (LANGUAGE_TABLE,)
    # A table has at least one row; without languages it is unused.
    model = PreTrainingModel(config, languages or ["none"])
    load_weights(model, checkpoint, optional=("pooler.",), ignore=ignored)
    return model.eval(), languages
