"""The heads of the tasks, and the masked-LM head with its loss."""

from dataclasses import replace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.batches import packed_batch, padded_batch
from tests.helpers.gradients import compute_gradients
from tests.toys import small_config

CONFIG = small_config(max_position_embeddings=12)
# A pair of sentences, and one sentence with pads: [CLS] is 0, [SEP] 2, [PAD] 1.
IDS = np.array([[0, 7, 8, 9, 2, 2, 11, 2], [0, 30, 2, 1, 1, 1, 1, 1]])
# The same without pads, one sequence after the other.
TOKENS = np.concatenate([IDS[0], IDS[1, :3]])
LAYOUT = PackedLayout([8, 3])


pytestmark = pytest.mark.usefixtures("float64")


def compute_logits(model) -> np.ndarray:
    """The logits for IDS; of a span, those of its start and those of its end."""
    outputs = model(padded_batch(IDS))
    if isinstance(outputs, tuple):
        return np.stack([logits.numpy() for logits in outputs])
    return outputs.numpy()


@pytest.mark.parametrize("classifier", [SequenceClassifier, TokenClassifier, SpanClassifier])
def test_dropout_before_the_classifier(classifier):
    """There is dropout in training, except in the official tagger. The encoder has none here."""
    config = replace(CONFIG, hidden_dropout_prob=0.5)
    model = classifier(config) if classifier is SpanClassifier else classifier(config, 3)
    model.ernie_m.eval()
    are_equal = np.array_equal(compute_logits(model), compute_logits(model))
    assert are_equal == (classifier is TokenClassifier)
    model.eval()
    assert np.array_equal(compute_logits(model), compute_logits(model))


def test_static_model_pools_by_mean():
    """Also where nobody says so."""
    model = SequenceClassifier(small_config(num_hidden_layers=0), 3)
    table = model.ernie_m.embeddings.word_embeddings.weight.numpy()
    means = np.stack([table[row[row != 1]].mean(0) for row in IDS])
    expected = means @ model.classifier.weight.numpy() + model.classifier.bias.numpy()
    assert np.abs(compute_logits(model) - expected).max() < 1e-9


@pytest.fixture
def pretraining():
    """A pre-training model whose masked-LM head has random biases."""
    model = PreTrainingModel(CONFIG, ["en", "de", "zh"])
    model.lm_head.bias.set_value(paddle.randn([40]))
    return model


def test_lm_head_is_tied_and_named_once(pretraining):
    shapes = {name: parameter.shape for name, parameter in pretraining.state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if not name.startswith("ernie_m.")} == {
        "lm_head.dense.weight": [12, 12],
        "lm_head.dense.bias": [12],
        "lm_head.layer_norm.weight": [12],
        "lm_head.layer_norm.bias": [12],
        "lm_head.bias": [40],
        "language_embeddings.weight": [3, 12],
    }
    table = pretraining.ernie_m.embeddings.word_embeddings.weight
    head = pretraining.lm_head
    hidden = paddle.randn([5, 12])
    x = F.layer_norm(F.gelu(F.linear(hidden, head.dense.weight, head.dense.bias)), [12])
    expected = paddle.matmul(x, table, transpose_y=True) + head.bias
    assert np.abs((head(hidden) - expected).numpy()).max() < 1e-9
    # With twice the embedding matrix, the products are twice as large.
    pretraining.ernie_m.embeddings.word_embeddings.weight.set_value(table * 2)
    assert np.abs((head(hidden) + head.bias - 2 * expected).numpy()).max() < 1e-9


def test_loss_without_positions_is_empty_and_has_a_gradient(pretraining):
    hidden = pretraining.encode(packed_batch(TOKENS, LAYOUT))[:0]
    result = pretraining.lm_head.loss(hidden, paddle.zeros([0], "int64"))
    assert result.losses.shape == result.correct.shape == [0] and float(result.total) == 0
    assert compute_gradients(pretraining, result.total)
