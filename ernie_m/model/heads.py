"""The models of supervised tasks: the encoder and a head for classification, tagging or question answering.

Each model has the submodules `ernie_m` and `classifier`, as in PaddleNLP.
"""

from paddle import Tensor, nn

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.layers import Linear, dropout
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import CLASSIFICATION, POOLED, TOKEN_CLASSIFICATION
from ernie_m.model.transformer_encoder import make_weight_initializer


class ModelWithHead(nn.Layer):
    """Base class of models with a head: the encoder and a linear layer with `num_labels` outputs."""

    def __init__(self, config: ErnieMConfig, num_labels: int):
        super().__init__()
        self.ernie_m = ErnieMModel(config)
        self.dropout_rate = config.hidden_dropout_prob
        self.classifier = Linear(config.hidden_size, num_labels, make_weight_initializer(config))

    def classify(self, x: Tensor) -> Tensor:
        """Apply dropout and the classifier: [..., H] -> [..., num_labels]."""
        return self.classifier(dropout(x, self.dropout_rate, self.training))


class SequenceClassifier(ModelWithHead):
    """Sequence classifier: dropout and a linear layer on a pooled embedding of each sequence.

    Args:
        pooling: `POOLED`: the pooler output; `MEAN_OF_TOKENS`: the mean of the last hidden states.
    """

    def __init__(self, config: ErnieMConfig, num_labels: int, pooling: str = POOLED):
        super().__init__(config, num_labels)
        self.pooling = pooling

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute the logits of the S sequences of a batch: [S, num_labels]."""
        if self.pooling == MEAN_OF_TOKENS or self.ernie_m.pooler is None:
            is_real = (~batch.get_padding_mask()).astype("float64")  # [S, T]
            weights = is_real / is_real.sum(axis=1, keepdim=True)
            vectors = batch.sum_sequences(self.ernie_m.encode(batch).sequence, weights)  # [S, H]
        else:
            first = self.ernie_m.encode(batch, positions=batch.first_tokens).sequence  # [S, H]
            vectors = self.ernie_m.pooler(first)
        return self.classify(vectors)


class TokenClassifier(ModelWithHead):
    """Token classifier: a linear layer on every token, without dropout, as in the official code."""

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute the logits of a batch that was made from a padded array [B, T]: [B, T, num_labels]."""
        sequence = batch.to_padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        return self.classifier(sequence)


class SpanClassifier(ModelWithHead):
    """Span classifier for question answering: dropout and a linear layer with two outputs on every token."""

    def __init__(self, config: ErnieMConfig):
        super().__init__(config, num_labels=2)  # the start and the end of a span

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Compute start and end logits of a batch that was made from a padded array [B, T]: [B, T] each."""
        sequence = batch.to_padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        start, end = self.classify(sequence).unbind(-1)
        return start, end


def make_model_with_head(
    task: str, config: ErnieMConfig, num_labels: int, pooling: str | None = None
) -> ModelWithHead:
    """Make a randomly initialized model with the head of a task.

    Args:
        task: one of `ernie_m.model.tasks.SUPERVISED_TASKS`.
        num_labels: number of labels; ignored for question answering.
        pooling: pooling of a sequence classifier, as in `SequenceClassifier`; None: the pooler output, or
            the mean of all tokens if the encoder has no pooler.
    """
    if task == CLASSIFICATION:
        is_mean = pooling == MEAN_OF_TOKENS or config.is_static
        return SequenceClassifier(config, num_labels, MEAN_OF_TOKENS if is_mean else POOLED)
    return TokenClassifier(config, num_labels) if task == TOKEN_CLASSIFICATION else SpanClassifier(config)
