"""The models of the supervised tasks: classifier, tagger and span classifier on the encoder.

Each model has `.ernie_m` and `.classifier`, as in PaddleNLP.
"""

from paddle import Tensor, nn

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.layers import Linear, dropout
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.preprocessing import MEAN_OF_TOKENS
from ernie_m.model.tasks import CLASSIFICATION, POOLED, TOKEN_CLASSIFICATION
from ernie_m.model.transformer_encoder import init_weights


class ModelWithHead(nn.Layer):
    """Base class of the three models: the encoder, and a linear layer with `num_labels` outputs."""

    def __init__(self, config: ErnieMConfig, num_labels: int):
        super().__init__()
        self.ernie_m = ErnieMModel(config)
        self.dropout_rate = config.hidden_dropout_prob
        self.classifier = Linear(config.hidden_size, num_labels, init_weights(config))

    def classify(self, x: Tensor) -> Tensor:
        """Apply dropout and the classifier: [..., H] -> [..., num_labels]."""
        return self.classifier(dropout(x, self.dropout_rate, self.training))


class SequenceClassifier(ModelWithHead):
    """Dropout and a linear layer on the embedding of a sequence.

    Args:
        pooling: `POOLED`, the pooled first token; or `MEAN_OF_TOKENS`, the mean over all tokens, which does
            not use the pooler.
    """

    def __init__(self, config: ErnieMConfig, num_labels: int, pooling: str = POOLED):
        super().__init__(config, num_labels)
        self.pooling = pooling

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute S sequences -> logits [S, num_labels]."""
        if self.pooling == MEAN_OF_TOKENS or self.ernie_m.pooler is None:
            is_real = (~batch.is_pad()).astype("float64")  # [S, T]
            weights = is_real / is_real.sum(axis=1, keepdim=True)
            vectors = batch.sums(self.ernie_m.encode(batch).sequence, weights)  # [S, H]
        else:
            first = self.ernie_m.encode(batch, positions=batch.first_tokens).sequence  # [S, H]
            vectors = self.ernie_m.pooler(first)
        return self.classify(vectors)


class TokenClassifier(ModelWithHead):
    """A linear layer on every token, without dropout, as in the official code."""

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute a batch from a padded array [B, T] -> logits [B, T, num_labels]."""
        sequence = batch.padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        return self.classifier(sequence)


class SpanClassifier(ModelWithHead):
    """Dropout and a linear layer with two outputs on every token."""

    def __init__(self, config: ErnieMConfig):
        super().__init__(config, num_labels=2)  # the start and the end of a span

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Compute a batch from a padded array [B, T] -> start and end logits, each [B, T]."""
        sequence = batch.padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        start, end = self.classify(sequence).unbind(-1)
        return start, end


def model_with_head(
    task: str, config: ErnieMConfig, num_labels: int, pooling: str | None = None
) -> ModelWithHead:
    """Make a new model for one of `ernie_m.model.tasks.SUPERVISED_TASKS`.

    Args:
        num_labels: number of labels, for tasks that predict labels.
        pooling: input of a classifier, as in `ernie_m.model.preprocessing.PreprocessingConfig`; None: the
            pooled first token, or the mean of all tokens if the model has no pooler.
    """
    if task == CLASSIFICATION:
        is_mean = pooling == MEAN_OF_TOKENS or config.is_static
        return SequenceClassifier(config, num_labels, MEAN_OF_TOKENS if is_mean else POOLED)
    return TokenClassifier(config, num_labels) if task == TOKEN_CLASSIFICATION else SpanClassifier(config)
