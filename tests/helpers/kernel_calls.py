"""The kernels that an XNLI step of 12 layers starts on a GPU with FlashMask and autocast, counted on a CPU.

Paddle's profiler lists them. FlashMask is one kernel in each direction. A CPU has no products in half
precision, so float64 stands for it. The weights are float32, and the operations on autocast's lists cast what
they are given.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from model import device
from model.attention import FlashMask
from model.config import ErnieMConfig
from model.heads import SequenceClassifier
from model.layers import LayerNorm
from tests.helpers.batches import compute_as_on_a_gpu, padded_batch
from tests.helpers.profiling import profiled
from training.engine import Engine
from training.optimizer import build_optimizer

CONFIG = ErnieMConfig(vocab_size=60, hidden_size=8, num_hidden_layers=12, num_attention_heads=2)
HALF = "float64"
ROWS = 32


class OneKernel(PyLayer):
    """A stand-in for FlashMask that starts one kernel in each direction. Its numbers mean nothing."""

    @staticmethod
    def forward(ctx, query, key, value):
        return paddle.assign(value)

    @staticmethod
    def backward(ctx, gradient):
        gradient = paddle.assign(gradient)
        return gradient, gradient, gradient


def flashmask(query, key, value, startend_row_indices, dropout=0.0):
    """Takes the place of `paddle.nn.functional.flashmask_attention`."""
    return OneKernel.apply(query, key, value)


def linear(x, weight, bias, name=None):
    """Takes the place of `F.linear`, which is on the white list: its weights are cast.

    On a GPU product and sum are one kernel, as `linear_v2` is here.
    """
    return paddle._C_ops.linear_v2(x, weight.astype(x.dtype), bias.astype(x.dtype), False)


class NormInHalf:
    """Layer norm, which is on our white list. On a GPU its weights stay in float32.

    A CPU needs weights in the type of the input, so each layer gets a second scale and bias of that type.
    """

    def __init__(self):
        self.weights_of_layer: dict[LayerNorm, list[paddle.Tensor]] = {}

    def prepare(self, model: nn.Layer) -> None:
        """Make a scale and a bias in half precision for each layer norm of the model."""
        for layer in model.sublayers():
            if isinstance(layer, LayerNorm):
                scale_and_bias = [paddle.ones(layer.weight.shape, HALF) for _ in range(2)]
                for weight in scale_and_bias:
                    weight.stop_gradient = False  # the backward pass computes their gradients, as on a GPU
                self.weights_of_layer[layer] = scale_and_bias

    def forward(self, layer: LayerNorm, x: paddle.Tensor) -> paddle.Tensor:
        scale, bias = self.weights_of_layer[layer]
        return F.layer_norm(x.astype(HALF), layer.weight.shape, scale, bias, layer.epsilon)

    def set_gradients(self) -> None:
        """Give each layer norm's own scale and bias a gradient of ones, which the update then counts.

        The backward pass does not reach them, because `forward` uses others.
        """
        for layer in self.weights_of_layer:
            layer.weight.grad = paddle.ones_like(layer.weight)
            layer.bias.grad = paddle.ones_like(layer.bias)


def xnli_calls(monkeypatch) -> dict[str, Counter[str]]:
    """How often a step starts each kernel, by phase; norm and clipping belong to the phase "update"."""
    compute_as_on_a_gpu(monkeypatch, FlashMask)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    monkeypatch.setattr(F, "flashmask_attention", flashmask)
    model = SequenceClassifier(CONFIG, 3)
    optimizer = build_optimizer(model, 1e-3, layerwise_lr_decay=0.8)
    engine = Engine(model, optimizer, clip_norm=1e-6)  # so small that gradients are always clipped
    batch = padded_batch(np.random.default_rng(0).integers(4, 60, [ROWS, 12]))
    labels = paddle.zeros([ROWS], "int64")

    def loss() -> paddle.Tensor:
        return F.cross_entropy(model(batch).astype("float32"), labels)  # on the black list

    # The first step also makes what later ones use again: the arrays of the mask, the moments.
    engine.step([batch], lambda batch: (loss(), {}))

    norms = NormInHalf()
    norms.prepare(model)
    monkeypatch.setattr(LayerNorm, "forward", lambda layer, x: norms.forward(layer, x))
    monkeypatch.setattr(F, "linear", linear)
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float64)  # HALF, as within autocast
    losses = []  # `calls_of` returns no results: the loss of the counted step is noted here
    calls = {
        "forward": calls_of(lambda: losses.append(loss())),
        "backward": calls_of(lambda: losses[0].backward()),
    }
    norms.set_gradients()
    # The rest of the step: its forward and backward passes are done, and only the loss is noted in their
    # place.
    monkeypatch.setattr(engine, "_backward", lambda batch, loss_of, totals: totals.add("loss", losses[0]))
    calls["update"] = calls_of(lambda: engine.step([batch], None))
    return calls


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """How often some work starts each kernel, views of memory included."""
    names = [name for category, name in profiled(work) if category == "DygraphKernelLaunch"]
    return Counter(name.split(" kernel launch")[0] for name in names)
