"""How many kernels an XNLI step starts on a GPU with FlashMask, counted on a CPU by Paddle's profiler.

Autocast, which a CPU does not have, starts further kernels: its lists name them.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.autograd import PyLayer
from paddle.profiler import Profiler, ProfilerTarget

from model import device
from model.attention import FlashMask
from model.config import ErnieMConfig
from model.heads import SequenceClassifier
from tests.helpers.batches import compute_as_on_a_gpu, padded_batch
from training.engine import Engine
from training.optimizer import build_optimizer

CONFIG = ErnieMConfig(vocab_size=60, hidden_size=8, num_hidden_layers=12, num_attention_heads=2)
VIEWS = {"reshape", "unsqueeze", "squeeze"}  # of memory; no kernel runs
PHASES = ("forward", "backward", "norm, clipping and update")


class OneKernel(PyLayer):
    """A stand-in for FlashMask that starts one kernel in each direction."""

    @staticmethod
    def forward(ctx, query, key, value):
        return paddle.assign(value)

    @staticmethod
    def backward(ctx, gradient):
        gradient = paddle.assign(gradient)
        return gradient, gradient, gradient


def flashmask(query, key, value, startend_row_indices, dropout=0.0):
    return OneKernel.apply(query, key, value)


class Phases:
    """Profiles one phase at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls: dict[str, Counter[str]] = {}

    def profile(self, name: str, work: Callable[[], object]):
        path = self.folder / f"{len(self.calls)}.json"
        with Profiler(
            targets=[ProfilerTarget.CPU], on_trace_ready=lambda profiler: profiler.export(str(path))
        ):
            result = work()
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
        kernels = [
            event["name"].split(" kernel launch")[0]
            for event in events
            if event.get("cat") == "DygraphKernelLaunch"
        ]
        self.calls[name] = Counter(kernel for kernel in kernels if kernel.removesuffix("_grad") not in VIEWS)
        return result


@pytest.fixture
def calls(monkeypatch, tmp_path) -> dict[str, Counter[str]]:
    """The kernels of each phase of the second step, by name."""
    compute_as_on_a_gpu(monkeypatch, FlashMask)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: True)
    monkeypatch.setattr(F, "flashmask_attention", flashmask)
    model = SequenceClassifier(CONFIG, 3)
    engine = Engine(model, build_optimizer(model, 1e-3, layerwise_lr_decay=0.8), clip_norm=1e-6)
    batch = padded_batch(np.random.default_rng(0).integers(4, 60, [32, 12]))
    labels = paddle.zeros([32], "int64")
    engine.step([batch], lambda batch: (F.cross_entropy(model(batch), labels), {}))

    phases = Phases(tmp_path)
    loss = phases.profile(PHASES[0], lambda: F.cross_entropy(model(batch), labels))
    phases.profile(PHASES[1], loss.backward)
    # A step whose loss is there already: what is profiled of it begins after its backward pass.
    monkeypatch.setattr(engine, "_backward", lambda micro_batch, loss_of, totals: totals.add("loss", loss))
    phases.profile(PHASES[2], lambda: engine.step([batch], None))
    return phases.calls


def test_a_step_of_xnli(calls):
    counts = {name: sum(of_phase.values()) for name, of_phase in calls.items()}
    limits = dict(zip(PHASES, (325, 270, 240)))
    assert all(0.5 * limits[name] < counts[name] <= limits[name] for name in PHASES), (counts, calls)
    assert calls[PHASES[1]]["assign"] == 12  # FlashMask's gradients: the backward pass is the whole
