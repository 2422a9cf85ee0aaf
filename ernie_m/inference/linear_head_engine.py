"""The engine of a linear head on the outputs of an encoder engine."""

import numpy as np

from ernie_m.inference.engines import GraphRunner
from ernie_m.model.checkpoint.weights import Weights, check_finite
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import POOLED, TASKS
from ernie_m.vectors.pooling import pool_hidden_states


class LinearHeadEngine:
    """Engine that applies the linear head of a task to the outputs of an encoder engine.

    This way, the head and the embeddings of a model share one encoder. `np.einsum` computes each row
    independently, unlike `@`, so results do not depend on the batch.

    Args:
        encode: the engine of the encoder up to the last layer.
        pooling: the input of a classifier, see `ernie_m.model.heads.SequenceClassifier`.
    """

    def __init__(
        self,
        encode: GraphRunner,
        weights: Weights,
        config: ErnieMConfig,
        task: str,
        pooling: str | None,
    ):
        self.encode = encode
        self.pad_id = config.pad_token_id
        self.task = TASKS[task]
        self.reads_mean = pooling == MEAN_OF_TOKENS or config.is_static
        weight, bias = (
            check_finite(name, weights[name], weights.source)
            for name in ("classifier.weight", "classifier.bias")
        )
        self.weight = np.ascontiguousarray(weight.T, np.float32)  # [labels, H]
        self.bias = np.asarray(bias, np.float32)  # [labels]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the outputs of the head from ids, int64 [B, T]: output name -> float32 array."""
        states = self.encode(ids)
        if self.task.head_reads != POOLED:
            x = states["sequence"]  # [B, T, H]
        elif self.reads_mean:
            x = pool_hidden_states(ids, self.pad_id, MEAN_OF_TOKENS, states["sequence"])  # [B, H]
        else:
            x = states["pooled"]  # [B, H]
        logits = np.einsum("...h,lh->...l", x, self.weight) + self.bias
        parts = [logits] if self.task.has_labels else np.moveaxis(logits, -1, 0)
        return dict(zip(self.task.outputs, parts, strict=True))
