"""Products in bfloat16, against float64 products of the same rounded numbers.

oneDNN computes them in hardware with avx512_bf16 or AMX, and by much slower code with AVX-512.
"""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model import layers
from ernie_m.model.cpu import mkl, onednn, onednn_check
from tests.helpers.bfloat16 import distance, skip_module_without_onednn, widen
from tests.helpers.caches import nothing_cached

ROOT = Path(__file__).resolve().parents[3]

skip_module_without_onednn()


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product by oneDNN of two arrays of bfloat16 bits, in float32; the rows are tokens."""
    rows = onednn.to_bfloat16(x, pad_to_block=True)
    out = np.full([len(rows), y.shape[1]], np.nan, np.float32)
    onednn.multiply(rows, y, out)
    return out[: len(x)]


def exact_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same in float64."""
    return widen(x).astype(np.float64) @ widen(y).astype(np.float64)


def test_multiply_views_into_larger_arrays():
    """Factors and results may be parts of arrays; what lies next to a result stays as it was."""
    x = onednn.to_bfloat16(numbers(32, 64))
    table = onednn.to_bfloat16(numbers(300, 64))
    expected = exact_product(x, table.T)
    logits = np.full([32, 301], 7.0, np.float32)
    for words in (slice(0, 128), slice(128, 300)):
        onednn.multiply(x, table[words].T, logits[:, words])
    assert distance(logits[:, :300], expected) < 1e-6
    assert (logits[:, 300] == 7.0).all()
    onednn.multiply(x, table[:5].T, logits[:, :5], accumulate=True)
    assert distance(logits[:, :5], 2 * expected[:, :5]) < 1e-6
    columns = x[:, 8:40]
    onednn.multiply(columns, table[:, 8:40].T, logits[:, :300])
    assert distance(logits[:, :300], exact_product(columns, table[:, 8:40].T)) < 1e-6
    out = np.full([32, 64], np.nan, np.float32)
    onednn.multiply(columns.T, x, out, sums_tokens=True)
    assert distance(out, exact_product(columns.T, x)) < 1e-6


@pytest.mark.parametrize(("rows", "inner", "columns"), [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_products_of_empty_arrays_leave_the_output(rows, inner, columns):
    x = onednn.to_bfloat16(np.empty([rows, inner], np.float32))
    y = onednn.to_bfloat16(np.empty([inner, columns], np.float32))
    assert np.array_equal(product(x, y), np.zeros([rows, columns]))
    filled = onednn.to_bfloat16(x, pad_to_block=True)
    out = np.ones([len(filled), columns], np.float32)
    onednn.multiply(filled, y, out, accumulate=True)
    assert (out == 1).all()


def test_round_to_nearest_even():
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    random = random[np.isfinite(random) & (np.abs(random) > 1e-37)]  # a CPU may round what is smaller to 0
    special = np.array([0.0, 1.0, np.inf, -np.inf, 3.4e38], np.float32)
    # In the middle between two numbers of bfloat16: the lower 16 bits are 0x8000.
    ties = (np.arange(0x3F80_8000, 0x3F90_8000, 0x1_0000, np.uint32)).view(np.float32)
    x = np.concatenate([random, special, ties])[None]  # [1, N]
    bits = x.view(np.uint32)
    # 0x7FFF carries into the upper 16 bits if the lower ones are above 0x8000. With one more for odd upper
    # bits, a tie after these carries, which makes them even.
    assert np.array_equal(onednn.to_bfloat16(x), (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
    assert np.isnan(widen(onednn.to_bfloat16(np.array([[np.nan]], np.float32)))).all()


@pytest.mark.parametrize(
    ("compute", "shapes"),
    [
        (onednn.multiply, [(64, 200), (200, 77), (64, 77)]),
        (lambda *arrays: onednn.sum_tokens(*arrays, 1.0, of_keys=True), [(3, 37, 37), *[(3, 37, 32)] * 2]),
    ],
)
def test_equal_inputs_give_equal_bits(compute, shapes):
    """At every offset from an aligned address, with any number of threads, and another product in between."""
    x, y = (onednn.to_bfloat16(numbers(math.prod(shape), 1)).reshape(shape) for shape in shapes[:2])
    results = np.empty([8, *shapes[2]], np.float32)
    _, openmp = mkl._load_libraries()
    for offset, result in enumerate(results):
        elsewhere = np.concatenate([np.zeros(offset, np.uint16), x.ravel()])[offset:].reshape(x.shape)
        # oneDNN makes the code of a new thread for the number of threads that it has.
        with ThreadPoolExecutor(1, initializer=openmp.omp_set_num_threads, initargs=[1 + offset]) as thread:
            thread.submit(product, x.reshape([-1, x.shape[-1]]), x.reshape([-1, x.shape[-1]]).T).result()
            thread.submit(compute, elsewhere, y, result).result()
    assert (results == results[0]).all()


def test_products_that_are_added_on_several_threads():
    """With AMX and four threads, or more, oneDNN adds some rows twice, if the tokens are no whole blocks."""
    _, openmp = mkl._load_libraries()
    with ThreadPoolExecutor(1, initializer=openmp.omp_set_num_threads, initargs=[4]) as thread:
        kind = onednn_check._IN_BFLOAT16["linear layer"]
        assert thread.submit(onednn_check._measure_error, kind).result() < 0.02
        assert thread.submit(openmp.omp_get_max_threads).result() == 4


@pytest.mark.parametrize(
    ("x", "y", "out", "what"),
    [
        ((32, 8), (9, 3), (32, 3), "shapes"),
        ((32, 8), (8, 3), (64, 3), "shapes"),
        ((32, 8), (8, 3), (32, 4), "shapes"),
        ((2, 4, 8), (3, 8, 3), (2, 4, 3), "shapes"),
        ((37, 8), (8, 3), (37, 3), "37 tokens"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, y, out, what):
    """oneDNN does not compare the sizes that are open: it would write beyond the end."""
    arrays = (np.zeros(x, np.uint16), np.zeros(y, np.uint16), np.zeros(out, np.float32))
    with pytest.raises(ValueError, match=what):
        onednn.multiply(*arrays)


@pytest.mark.parametrize(
    ("name", "size", "dtype"), [("weight", 7, "float32"), ("bias", 8, "float64"), ("bias", 9, "float32")]
)
def test_reject_mismatched_layer_norm_weights(name, size, dtype):
    """oneDNN would read beyond their end, or their bits in another type."""
    norm = layers.LayerNorm(8, 1e-5)
    setattr(norm, name, paddle.create_parameter([size], dtype))
    with pytest.raises(ValueError, match="layer norm"):
        norm(paddle.ones([2, 8]))


@pytest.mark.parametrize("types", [("f", "H", "f"), ("H", "f", "f"), ("d", "d", "d")])
def test_other_types_are_refused(types):
    x, y, out = (np.zeros([32, 32], dtype) for dtype in types)
    with pytest.raises((KeyError, RuntimeError)):
        onednn.multiply(x, y, out)


def resident() -> int:
    """The bytes of memory in use."""
    _, pages, *_ = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_is_bounded_over_many_shapes():
    """The last 500 numbers of tokens take less than 4 MiB more than the first."""
    x = numbers(1001, 32)
    weight = onednn.to_bfloat16(numbers(32, 16))
    out = np.empty([1024, 16], np.float32)
    grad_weight = np.empty([32, 16], np.float32)
    used = []
    for count in np.random.default_rng(0).permutation(1000) + 1:
        rounded = onednn.to_bfloat16(x[:count], pad_to_block=True)
        onednn.multiply(rounded, weight, out[: len(rounded)])
        onednn.multiply(rounded.T, onednn.to_bfloat16(out[: len(rounded)]), grad_weight, sums_tokens=True)
        onednn.gelu(x[:count].ravel(), x[:count].ravel())
        used.append(resident())
    assert used[-1] - used[499] < 4 << 20


def test_attention_has_one_code_for_all_lengths():
    """Only a multiple of 64 tokens has its own."""
    compiled = []
    for length in (5, 64, 6, 130, 7):
        scores = np.empty([2, length, length], np.uint16)
        x = onednn.to_bfloat16(numbers(length, 16)).reshape([length, 2, 8]).swapaxes(0, 1)
        before = onednn._thread.code.cache_info().misses
        onednn.multiply_tokens(x, x, scores, 0.25)
        for of_keys in (True, False):
            onednn.sum_tokens(scores, x, np.empty_like(x), 0.25, of_keys)
        compiled.append(onednn._thread.code.cache_info().misses - before)
    assert compiled == [3, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("_find_library", "libdnnl"),  # another file
        ("get_version", "version (4, 0, 0) (expected 3)"),
        ("gelu_gradient", "GELU: error"),
        ("layer_norm", "layer norm: error"),
        ("multiply", "linear layer: error"),
        ("softmax_gradient", "attention: error"),
    ],
)
def test_a_library_that_lies_is_not_used(monkeypatch, caplog, tmp_path, error, reason):
    """One line in the log says why; Paddle's own kernels compute, and nothing is in bfloat16."""
    honest = getattr(onednn, error)

    def lie(*arguments: Any, **options: Any) -> Any:
        if error == "_find_library":
            return tmp_path / "libdnnl.so.3"
        if error == "get_version":
            return (4, 0, 0)
        honest(*arguments, **options)
        result = arguments[0][onednn.TO] if error == "layer_norm" else arguments[2]
        result.ravel()[-1] = 0x4080  # the bits of 4.0 in bfloat16
        return None

    caches = (onednn._load_functions, onednn_check.is_supported, onednn_check.find_missing_requirement)
    monkeypatch.setattr(onednn, error, lie)
    monkeypatch.setattr("ernie_m.model.cpu.bfloat16.multiply", onednn.multiply)
    with nothing_cached(*caches):
        assert onednn_check.find_missing_requirement() is not None
        assert onednn_check.is_supported() is (error in ("multiply", "softmax_gradient"))
        x = paddle.linspace(-2, 2, 8)
        assert np.abs(layers.gelu(x).numpy() - F.gelu(x).numpy()).max() < 1e-6
        (line,) = [record.message for record in caplog.records]
    assert "oneDNN is disabled" in line and reason in line


# Prints whether oneDNN agrees with Paddle, how many threads it has started, and what is missing.
OTHER_CPU = """
import os
from ernie_m.utils.paddle_settings import prepare
prepare()
import paddle
from ernie_m.model.cpu import onednn_check

def threads() -> int:
    return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0

square = paddle.ones([512, 512])
paddle.matmul(square, square)
before = threads()
print(onednn_check.is_supported(), threads() - before, onednn_check.find_missing_requirement())
"""


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_a_cpu_without_the_instructions(instructions):
    """float32 is right there as well, and oneDNN starts no threads besides Paddle's."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "2"}
    output = subprocess.check_output([sys.executable, "-c", OTHER_CPU], cwd=ROOT, env=environment, text=True)
    assert output == "True 0 a CPU with bfloat16 instructions (avx512_bf16 or AMX)\n"
