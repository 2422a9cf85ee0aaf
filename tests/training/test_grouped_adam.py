"""The optimizer step of a GPU, computed by a CPU: against Paddle's AdamW, and how many kernels it starts."""

from collections import Counter
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from model import device
from model.config import ErnieMConfig
from model.heads import SequenceClassifier
from model.layout import Layout
from tests.helpers.batches import packed_batch
from tests.helpers.operations import recorded_operations
from tests.training.toy_training import state_of
from training.engine import Engine
from training.optimizer import FULL_RATE, LAYER_RATE, build_optimizer, linear_warmup_decay

STEPS = 20
CONFIG = ErnieMConfig(
    vocab_size=60,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def use_gpu_kernels(monkeypatch) -> None:
    """Take the paths of a GPU.

    `fused_adam_` then also checks what it demands on a GPU only: the parameters of a call have equal powers
    of the betas, which are on the host, and gradients of their own dtype.
    """
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    fused_adam = paddle._C_ops.fused_adam_

    def update(parameters, grads, rate, moments1, moments2, largest_moments2, powers1, powers2, *options):
        for powers in (powers1, powers2):
            assert len({power.item() for power in powers}) == 1
            assert all(power.place.is_cpu_place() for power in powers)
        assert {grad.dtype for grad in grads} == {parameter.dtype for parameter in parameters}
        return fused_adam(
            parameters, grads, rate, moments1, moments2, largest_moments2, powers1, powers2, *options
        )

    monkeypatch.setattr(paddle._C_ops, "fused_adam_", update)


def use_plain_kernels(monkeypatch) -> None:
    """Take Paddle's own AdamW, parameter by parameter."""
    monkeypatch.setattr(device, "_kernels", device.PLAIN)


class ToyRun:
    """A fine-tuning with layer-wise rates. Steps 0 to 4 do not train the classifier.

    So its parameters have the same rate as the pooler's, but were updated less often.
    """

    def __init__(self, style: str = FULL_RATE, config: ErnieMConfig = CONFIG, clip_norm: float = 0.05):
        paddle.seed(0)
        self.model = SequenceClassifier(config, 3)
        schedule = linear_warmup_decay(4, STEPS)
        optimizer = build_optimizer(
            self.model, 1e-2, schedule, weight_decay=0.1, layerwise_lr_decay=0.5, decay_style=style
        )
        self.engine = Engine(self.model, optimizer, clip_norm=clip_norm)

    def train(self, first: int, last: int) -> None:
        for number in range(first, last):
            for parameter in self.model.classifier.parameters():
                parameter.stop_gradient = number < 5
            rng = np.random.default_rng(number)
            batch = packed_batch(rng.integers(4, 60, 9), Layout([6, 3]))
            step = self.engine.step([(batch, rng.integers(0, 3, 2))], self.loss)
            assert step.grad_norm > self.engine.clip_norm

    def loss(self, micro_batch):
        batch, labels = micro_batch
        return F.cross_entropy(self.model(batch), paddle.to_tensor(labels)), {}

    def state(self) -> dict[str, np.ndarray]:
        tensors = self.model.state_dict() | self.engine.state_dict()["optimizer"]
        return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("style", [FULL_RATE, LAYER_RATE])
def test_it_equals_paddles_adamw(monkeypatch, style):
    states = []
    for use_kernels in (use_plain_kernels, use_gpu_kernels):
        with monkeypatch.context() as patch:
            use_kernels(patch)
            run = ToyRun(style)
            run.train(0, STEPS)
            states.append(run.state())
    plain, grouped = states
    assert plain.keys() == grouped.keys()
    for name, value in plain.items():
        assert np.abs(value - grouped[name]).max() < 1e-12, name


def test_a_step_without_gradients_after_the_state_is_replaced(monkeypatch):
    use_gpu_kernels(monkeypatch)
    run = ToyRun()
    run.train(0, 2)
    state = run.engine.state_dict()
    state["optimizer"] = {name: tensor.numpy() for name, tensor in state["optimizer"].items()}
    run.engine.load_state_dict(state)
    before = run.state()
    run.engine.step([], run.loss)
    for name, value in run.state().items():
        assert np.array_equal(value, before[name]), name


def test_a_resumed_run_has_the_same_bits(monkeypatch):
    """The classifier, not trained at first, keeps its own number of updates, and so its own group."""
    use_gpu_kernels(monkeypatch)
    straight = ToyRun()
    straight.train(0, 12)
    first = ToyRun()
    first.train(0, 8)
    resumed = ToyRun()
    resumed.model.set_state_dict(first.model.state_dict())
    resumed.engine.load_state_dict(state_of(first.engine))
    resumed.train(8, 12)
    resumed_state = resumed.state()
    for name, value in straight.state().items():
        assert value.tobytes() == resumed_state[name].tobytes(), name


def test_gradients_of_another_type_are_left_to_paddle(monkeypatch):
    """In O2 they are float32, and the weights are half."""
    use_gpu_kernels(monkeypatch)
    run = ToyRun()
    calls = []
    monkeypatch.setattr(
        paddle.optimizer.AdamW, "_append_optimize_op", lambda self, block, pair: calls.append(pair)
    )
    parameter = run.model.classifier.weight
    pair = (parameter, paddle.ones(parameter.shape, "float64"))  # of another type than the float32 weight
    run.engine.optimizer._append_optimize_op(None, pair)
    assert calls == [pair] and run.engine.optimizer._delayed == {}


def test_the_kernels_of_norm_clipping_and_update(monkeypatch):
    """Twelve layers with layer-wise rates, as XNLI."""
    config = ErnieMConfig(vocab_size=60, hidden_size=4, num_hidden_layers=12, num_attention_heads=2)
    use_gpu_kernels(monkeypatch)
    run = ToyRun(config=config, clip_norm=1e-9)
    run.train(5, 7)  # the classifier is no longer frozen
    operations = recorded_operations(monkeypatch)
    sum_gradients = run.engine._sum_gradients

    def record_from_here():
        operations.begin()
        sum_gradients()

    monkeypatch.setattr(run.engine, "_sum_gradients", record_from_here)
    run.train(7, 8)
    calls = Counter(call.name for call in operations)
    assert len(run.model.parameters()) == 200
    assert calls["check_finite_and_unscale_"] == 1
    assert calls["adamw_"] == 1  # of the word table's rows that have moments
    # 14 rates: of 12 layers, of the tables below them, and the full one. A multiplication makes each but the
    # full one. With weights and biases apart a rate has two groups; the tables are without biases.
    assert calls["fused_adam_"] == 2 * 14 - 1
    assert calls["multiply"] == 14 - 1
    assert sum(calls.values()) <= 240, calls


def test_the_declarations_of_paddle():
    """The order of the arguments, and that they exist in the installed version."""
    header = Path(paddle.__file__).parent / "include/paddle/phi/api/include/api.h"
    lines = header.read_text().splitlines()
    (adam,) = (line for line in lines if " fused_adam_(" in line)
    arguments = adam.split(" fused_adam_(")[1].split(" = ")[0].split(", ")
    assert " ".join(argument.split()[-1].strip("&") for argument in arguments) == (
        "params grads learning_rate moments1 moments2 moments2_max beta1_pows beta2_pows master_params "
        "skip_update beta1 beta2 epsilon chunk_size weight_decay use_adamw multi_precision "
        "use_global_beta_pow amsgrad"
    )
    (unscale,) = (line for line in lines if " check_finite_and_unscale_(" in line)
    assert "(std::vector<Tensor>& x, const Tensor& scale)" in unscale
    (norm,) = (line for line in lines if " squared_l2_norm(" in line)
    assert "(const Tensor& x" in norm
