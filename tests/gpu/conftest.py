"""The device of the tests in this folder, which `sh scripts/gpu_check.sh` runs."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import paddle
import pytest

from ernie_m.model import device_capabilities, kernel_selection
from ernie_m.training import device_summary
from ernie_m.training.precision import Precision
from tests.gpu import toys
from tests.helpers.dtypes import default_dtype
from tests.helpers.half_types import gpu_types

# How far results may be from those in float64, relative to the largest. TF32 has 10 bits of the mantissa;
# bfloat16 has 8, and a gradient may be a sum that is much smaller than its parts.
BOUNDS = {"float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 2.5e-2}


def has_card() -> bool:
    """Whether there is a GPU, so that no other device is checked."""
    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count())


@pytest.fixture(scope="session")
def exact() -> dict[str, list[float]]:
    """What `toys.train_and_evaluate` returns for each of its names, by plain kernels in float64 on a CPU."""
    device_before = paddle.device.get_device()
    paddle.set_device("cpu")
    kernel_selection.select_kernels(kernel_selection.PLAIN)
    with default_dtype("float64"):
        results = {name: toys.train_and_evaluate(name, "float64", Precision()) for name in toys.NAMES}
    kernel_selection.select_kernels(kernel_selection.FAST)
    paddle.set_device(device_before)
    return results


@pytest.fixture
def location(request: pytest.FixtureRequest) -> Iterator[str]:
    """What is checked: "gpu", "cpu", or "stand_in": stand_in.cc with the type rules of a GPU."""
    (location,) = paddle.device.get_all_custom_device_type() or ["gpu" if has_card() else "cpu"]
    device_before = paddle.device.get_device()
    paddle.set_device(location)
    if location == "stand_in":
        request.getfixturevalue("gpu_types")
    yield location
    paddle.set_device(device_before)


@pytest.fixture
def bound(location: str) -> Callable[[str], float]:
    """bound(dtype): how far results in this type may be from exact ones. Skips a type that is not there."""

    def bound(dtype: str) -> float:
        is_half = dtype in ("float16", "bfloat16")
        if is_half and location == "cpu":
            pytest.skip(f"no {dtype} on a CPU")
        if dtype == "bfloat16" and not device_capabilities.has_bf16():
            pytest.skip("no bfloat16 on this GPU")
        is_tf32 = dtype == "float32" and location == "gpu" and device_summary.has_tf32()
        return BOUNDS["tf32" if is_tf32 else dtype]

    return bound


@pytest.fixture
def check(record_property: Callable[[str, object], None]) -> Callable[[float, float], None]:
    """check(figure, bound): the test fails if the figure is larger, or not a number. Both are in its line."""

    def check(figure: float, bound: float) -> None:
        record_property("figure", f"{figure:.1e}, at most {bound:.1e}")
        assert figure <= bound

    return check


def difference(values: Sequence, exact: Sequence) -> float:
    """The largest difference of the arrays from the exact ones, each relative to its largest exact value."""
    differences = []
    for array, exact_array in zip(values, exact, strict=True):
        scale = np.abs(exact_array).max() or 1.0
        differences.append(np.abs(np.asarray(array, np.float64) - exact_array).max() / scale)
    return float(max(differences, key=lambda x: (np.isnan(x), x)))
