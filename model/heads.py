"""The models on top of the encoder: classifier, tagger, span finder, and the tied masked-LM head.

Each task model has `.ernie_m` and `.classifier`, PaddleNLP's names for all three tasks.
"""

from paddle import Tensor, nn

from model import masked_loss
from model.batch import TokenBatch
from model.config import NO_LANGUAGE, ErnieMConfig
from model.ernie_m import ErnieMModel, initial_weights
from model.layers import LayerNorm, Linear, gelu
from model.masked_loss import MaskedLoss
from model.tasks import CLASSIFICATION, MEAN_OF_TOKENS, POOLED, TASKS
from model.word_table import WordEmbeddings


class TaskModel(nn.Layer):
    """The base of the three task models: the encoder, and a linear layer with `num_labels` outputs."""

    def __init__(self, config: ErnieMConfig, num_labels: int):
        super().__init__()
        self.ernie_m = ErnieMModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = Linear(config.hidden_size, num_labels, initial_weights(config))


class SequenceClassifier(TaskModel):
    """Dropout and a linear layer on the vector of a sequence.

    Args:
        pooling: what the vector is: `POOLED`, the pooled first token; or `MEAN_OF_TOKENS`, the mean over all
            tokens, for which the pooler is not used.
    """

    def __init__(self, config: ErnieMConfig, num_labels: int, pooling: str = POOLED):
        super().__init__(config, num_labels)
        self.pooling = pooling

    def forward(self, batch: TokenBatch) -> Tensor:
        """S sequences -> logits [S, num_labels]."""
        if self.pooling == MEAN_OF_TOKENS:
            states = batch.padded(self.ernie_m.encode(batch).sequence)  # [S, T, H], 0 at pads
            lengths = (~batch.is_pad()).sum(axis=1, keepdim=True)  # [S, 1]
            return self.classifier(self.dropout(states.sum(axis=1) / lengths.astype(states.dtype)))
        first = self.ernie_m.encode(batch, positions=batch.first_tokens).sequence  # [S, H]
        return self.classifier(self.dropout(self.ernie_m.pooler(first)))


class TokenClassifier(TaskModel):
    """A linear layer on every token. No dropout here, as in the official code."""

    def forward(self, batch: TokenBatch) -> Tensor:
        """A batch that was an array [B, T] -> logits [B, T, num_labels]."""
        sequence = batch.padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        return self.classifier(sequence)


class SpanClassifier(TaskModel):
    """Dropout and a linear layer with two outputs on every token."""

    def __init__(self, config: ErnieMConfig):
        super().__init__(config, num_labels=2)  # the start and the end of a span

    def forward(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """A batch that was an array [B, T] -> start and end logits, each [B, T]."""
        sequence = batch.padded(self.ernie_m.encode(batch).sequence)  # [B, T, H]
        start, end = self.classifier(self.dropout(sequence)).unbind(-1)
        return start, end


MODEL_CLASSES = {cls.__name__: cls for cls in (SequenceClassifier, TokenClassifier, SpanClassifier)}


def task_model(task: str, config: ErnieMConfig, num_labels: int, pooling: str | None = None) -> TaskModel:
    """A new model for one of `model.tasks.SUPERVISED_TASKS`.

    Args:
        num_labels: of a task whose outputs have labels.
        pooling: what a classifier reads, as in `model.reading.Reading`; None: the pooled first token.
    """
    if task == CLASSIFICATION and pooling == MEAN_OF_TOKENS:
        return SequenceClassifier(config, num_labels, MEAN_OF_TOKENS)
    model_class = MODEL_CLASSES[TASKS[task].model_class]
    return model_class(config, num_labels) if TASKS[task].has_labels else model_class(config)


class LMHead(nn.Layer):
    """The masked-LM head of XLM-R: layer_norm(gelu(dense(h))) times the word embeddings, plus a bias.

    Only the M masked positions are projected. The logits of all positions of a batch of 32 x 512 tokens would
    take 16 GB.
    """

    def __init__(self, config: ErnieMConfig, word_embeddings: WordEmbeddings):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, initial_weights(config))
        self.layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = self.create_parameter([config.vocab_size], is_bias=True)
        # The table belongs to the encoder. `self.word_embeddings = ...` would make it a sublayer of the head,
        # too, and its weight would have a second name.
        object.__setattr__(self, "word_embeddings", word_embeddings)

    def transform(self, hidden: Tensor) -> Tensor:
        """[M, H] -> [M, H]: all but the last product."""
        return self.layer_norm(gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states of the masked positions [M, H] -> logits [M, V]."""
        return masked_loss.logits(self.transform(hidden), self.word_embeddings.weight, self.bias)

    def loss(self, hidden: Tensor, labels: Tensor, loss_weights: Tensor | None = None) -> MaskedLoss:
        """Cross-entropy of masked positions [M, H], in bounded memory whatever M is; M may be 0.

        Args:
            labels: int64 [M].
            loss_weights: float [M], the factor of each loss in the sum; None: 1.
        """
        if hidden.shape[0] == 0:
            empty = hidden.sum(-1)  # [0]; made of `hidden`, so that backward() works on the total, 0
            return MaskedLoss(total=empty.sum(), losses=empty.detach(), correct=empty.detach().astype("bool"))
        x = self.transform(hidden)
        return masked_loss.cross_entropy(x, self.word_embeddings, self.bias, labels, loss_weights)


class PreTrainingModel(nn.Layer):
    """Encoder, masked-LM head and language embeddings, for all four objectives.

    The language embeddings, one row per name in `languages` and zero at the start, tell a [MASK] or a
    placeholder which language to produce (paper, section 3, BTMLM). They are added to the embeddings of the
    tokens that carry a language id, so the exported encoder, which has no such table, is unchanged for
    every other token.
    """

    def __init__(self, config: ErnieMConfig, languages: list[str]):
        super().__init__()
        self.languages = list(languages)
        self.ernie_m = ErnieMModel(config)
        self.lm_head = LMHead(config, self.ernie_m.embeddings.word_embeddings)
        self.language_embeddings = nn.Embedding(
            len(self.languages), config.hidden_size, weight_attr=nn.initializer.Constant(0.0)
        )

    def encode(self, batch: TokenBatch, positions: Tensor | None = None) -> Tensor:
        """The last layer: [N, H], or [M, H] at `positions`, int64 [M]."""
        input_bias = None  # [N, H]
        if batch.language_ids is not None:
            # A token without a language looks up the first one, and its row is multiplied by 0.
            rows = self.language_embeddings(batch.language_ids.clip(min=0))  # [N, H]
            has_language = (batch.language_ids != NO_LANGUAGE).astype(rows.dtype)
            input_bias = rows * has_language.unsqueeze(-1)
        return self.ernie_m.encode(batch, positions, input_bias=input_bias).sequence
