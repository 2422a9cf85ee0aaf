"""Plain kernels train and evaluate every task and objective as the fast ones do, in float64.

`tests/gpu/test_step.py` has them in half precision.
"""

import numpy as np
import pytest

from ernie_m.model import kernel_selection
from ernie_m.training.precision import Precision
from tests.gpu import toys
from tests.helpers.dtypes import default_dtype

LARGE = 0.3  # the standard deviation of weights, instead of 0.02, so that attention and losses matter
FAST = (
    "ernie_m.model.cpu.kernels.CpuGelu",
    "ernie_m.model.cpu.kernels.CpuLinear",
    "ernie_m.model.cpu.kernels.EmbeddingLookup",
    "ernie_m.model.cpu.kernels.LazyAdamW",
)


@pytest.mark.parametrize("name", toys.NAMES)
def test_plain_float64_equals_fast_kernels(monkeypatch, name):
    with default_dtype("float64"):
        fast = toys.train_and_evaluate(name, "float64", Precision(), LARGE)
        monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
        for kernel in FAST:  # whoever takes one now fails
            monkeypatch.setattr(kernel, None)
        plain = toys.train_and_evaluate(name, "float64", Precision(), LARGE)
    np.testing.assert_allclose(plain, fast, rtol=1e-12, atol=1e-12)
