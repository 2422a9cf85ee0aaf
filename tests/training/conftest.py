"""A CPU that says it is a GPU, as far as mixed precision asks."""

import contextlib
from types import SimpleNamespace

import paddle
import pytest
from paddle.amp import grad_scaler
from paddle.amp.auto_cast import amp_global_state

from training import precision


@pytest.fixture
def fp16(monkeypatch):
    """`Precision("fp16")` with Paddle's own scaler; forward passes stay in the precision of the weights.

    Returns:
        the options of each `paddle.amp.auto_cast` and `paddle.amp.decorate`, in turn.
    """
    calls: list[dict] = []
    device = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    monkeypatch.setattr(precision, "on_gpu", lambda: True)
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: device)
    monkeypatch.setattr(amp_global_state(), "amp_dtype", "float16")  # as auto_cast leaves it

    def auto_cast(**options):
        calls.append(options)
        return contextlib.nullcontext()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    return calls
