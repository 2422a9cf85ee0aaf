"""Schedules, learning-rate ratios and three steps of AdamW against numbers worked by hand."""

import numpy as np
import paddle
import pytest

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.optimization import (
    build_optimizer,
    compute_learning_rate_ratios,
    is_decayed,
    linear_warmup_decay,
    noam_decay,
)
from tests.helpers.arrays import assert_equal_arrays

CONFIG = ErnieMConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
PEAK = 0.1
DECAY = 0.05
LLRD = 0.5
EPS = 1e-3
BETAS = (0.8, 0.99)
# Parameter -> (its share of the learning rate, whether it decays); one of each kind.
# With d = LLRD and L = 2: layer 1, the top one, has d, layer 0 d^2, the tables d^3, everything else 1.
OFFICIAL = {
    "ernie_m.embeddings.word_embeddings.weight": (0.125, True),
    "ernie_m.embeddings.position_embeddings.weight": (0.125, True),
    "ernie_m.embeddings.layer_norm.weight": (1.0, False),
    "ernie_m.embeddings.layer_norm.bias": (1.0, False),
    "ernie_m.encoder.layers.0.self_attn.q_proj.weight": (0.25, True),
    "ernie_m.encoder.layers.0.self_attn.q_proj.bias": (0.25, False),
    "ernie_m.encoder.layers.0.norm1.weight": (0.25, False),
    "ernie_m.encoder.layers.1.linear2.weight": (0.5, True),
    "ernie_m.encoder.layers.1.norm2.bias": (0.5, False),
    "ernie_m.pooler.dense.weight": (1.0, True),
    "classifier.weight": (1.0, True),
    "classifier.bias": (1.0, False),
}


@pytest.fixture
def model(float64):
    """In float64, and with the same weights in each test."""
    return SequenceClassifier(CONFIG, 3)


def set_gradients(model, step: int) -> dict[str, np.ndarray]:
    """Give all parameters random gradients, and return them by name."""
    rng = np.random.default_rng(step)
    gradients = {}
    for name, parameter in model.named_parameters():
        gradients[name] = rng.standard_normal(parameter.shape)
        parameter.grad = paddle.to_tensor(gradients[name])
    return gradients


def adamw_by_hand(value, gradients, learning_rates, ratio, decay):
    """The value after AdamW by its definition, one update for each of `gradients` and `learning_rates`.

    Args:
        ratio: the share of the learning rate, for the gradient's part of an update.
        decay: an update subtracts rate x `decay` x value.
    """
    moment1 = moment2 = 0.0
    for update, (gradient, lr) in enumerate(zip(gradients, learning_rates), start=1):
        moment1 = BETAS[0] * moment1 + (1 - BETAS[0]) * gradient
        moment2 = BETAS[1] * moment2 + (1 - BETAS[1]) * gradient**2
        mean = moment1 / (1 - BETAS[0] ** update)
        square = moment2 / (1 - BETAS[1] ** update)
        value = value - lr * ratio * mean / (np.sqrt(square) + EPS) - lr * decay * value
    return value


def test_three_steps_equal_a_hand_worked_adamw(model):
    """Each kind of parameter, with layer-wise rates, warm-up in 2 of 10 steps, and weight decay."""
    optimizer = build_optimizer(
        model,
        PEAK,
        linear_warmup_decay(2, 10),
        weight_decay=DECAY,
        layerwise_lr_decay=LLRD,
        betas=BETAS,
        eps=EPS,
    )
    before = {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}
    gradients = []
    for step in range(3):
        gradients.append(set_gradients(model, step))
        optimizer.step()
        optimizer.lr_scheduler.step()
    # After the warm-up 1 - 2/10 of the peak.
    learning_rates = [
        0.0,
        PEAK / 2,
        PEAK * 0.8,
    ]
    after = dict(model.named_parameters())
    for name, (ratio, decays) in OFFICIAL.items():
        expected = adamw_by_hand(
            before[name], [step[name] for step in gradients], learning_rates, ratio, DECAY * decays
        )
        assert np.abs(after[name].numpy() - expected).max() < 1e-8, name
        assert np.abs(expected - before[name]).max() > 1e-3, name


def test_embeddings_that_learn_slowly(model):
    """In the first update Adam moves every weight by its learning rate. Decay keeps the full one."""
    optimizer = build_optimizer(model, PEAK, weight_decay=DECAY, eps=1e-30, embedding_lr_ratio=0.1)
    before = {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}
    set_gradients(model, 0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        lr = 0.1 * PEAK if name.endswith("word_embeddings.weight") else PEAK
        decayed = before[name] * (1 - PEAK * DECAY) if is_decayed(name) else before[name]
        np.testing.assert_allclose(np.abs(parameter.numpy() - decayed), lr, rtol=1e-3)


def test_only_weights_decay(model):
    """Biases and layer norms have one dimension."""
    parameters = dict(model.named_parameters())
    assert [*filter(is_decayed, parameters)] == [name for name, x in parameters.items() if x.ndim == 2]


def test_half_weights_have_masters_in_the_state():
    """What is loaded is saved, by the names of the model."""
    model = paddle.nn.Linear(3, 2).to(dtype="bfloat16")
    optimizer = build_optimizer(model, PEAK)
    optimizer._multi_precision = True  # as `paddle.amp.decorate` sets it
    parameters = dict(model.named_parameters())
    numbers = {
        "moment1": 1.0,
        "moment2": 2.0,
        "beta1_pow_acc": 3.0,
        "beta2_pow_acc": 4.0,
        "master_weight": 5.0,
    }
    state = {
        f"{name}/{kind}": np.full([1] if "pow" in kind else parameter.shape, number, np.float32)
        for kind, number in numbers.items()
        for name, parameter in parameters.items()
    }
    optimizer.load_state(parameters, state)
    assert_equal_arrays({key: x.numpy() for key, x in optimizer.get_state(parameters).items()}, state)


def test_learning_rate_ratio_by_other_names():
    """Heads have the full learning rate, also their layer norm; layer 11 of 12 is the top one."""
    ratios = {
        "language_embeddings.weight": 1.0,
        "lm_head.layer_norm.weight": 1.0,
        "lm_head.bias": 1.0,
        "encoder.layers.11.norm1.bias": 0.8,
    }
    assert compute_learning_rate_ratios(ratios, 12, 0.8) == ratios


# expected: step -> share of the peak.
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear_warmup_decay(2, 10), {0: 0, 1: 0.5, 2: 0.8, 5: 0.5, 9: 0.1, 10: 0, 11: 0}),
        (linear_warmup_decay(2, 10, "paddlenlp"), {0: 0, 1: 0.5, 2: 1, 6: 0.5, 9: 0.125, 10: 0, 11: 0}),
        (linear_warmup_decay(0, 10), {0: 1, 5: 1, 10: 1}),
        (linear_warmup_decay(10, 10, "paddlenlp"), {9: 0.9, 10: 0}),
        (noam_decay(4), {0: 0.25, 1: 0.5, 3: 1, 15: 0.5, 399: 0.1}),
        (noam_decay(0), {0: 1, 100: 1}),
    ],
)
def test_schedules(schedule, expected):
    assert {step: schedule(step) for step in expected} == pytest.approx(expected)
