"""The choice of kernels: FlashMask is tried before it is used, and `plain` is Paddle's own."""

import os
import shutil

import paddle
import pytest

from ernie_m.model import device_capabilities, kernel_selection
from ernie_m.model.ernie import ErnieMModel
from ernie_m.training import device_summary
from ernie_m.training.precision import Precision, prepare_for_prediction
from ernie_m.utils.logging import logger
from tests.gpu import toys
from tests.helpers.flash import flashmask
from tests.launching import ROOT, error_of, run_script
from tests.toys import small_config

CONFIG = small_config(initializer_range=0.02)


@pytest.fixture
def warnings(monkeypatch, caplog):
    """warnings(): the warnings in the log. Nothing has been tried yet in this process."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("WARNING")
    device_capabilities.is_flash_supported.cache_clear()
    yield lambda: [record.message for record in caplog.records]
    device_capabilities.is_flash_supported.cache_clear()


@pytest.fixture
def flags(monkeypatch) -> dict[str, int]:
    """Paddle's flags as on a GPU, where the user has set version 3."""
    flags = {"FLAGS_flash_attn_version": 3, "FLAGS_cudnn_deterministic": False}
    for owner in (paddle, paddle.base.framework):
        monkeypatch.setattr(owner, "get_flags", lambda names: {name: flags[name] for name in names})
        monkeypatch.setattr(owner, "set_flags", flags.update)
    return flags


def operation(query, key, value, bounds, seed, dropout, causal, return_softmax, is_test, rng_name):
    """A stand-in for version 2 of the kernel, with the arguments of `flashmask_attention` in api.h.

    Of its four results only the first is used.
    """
    half = query.dtype  # which a CPU does not multiply
    query, key, value = (x.astype("float32") for x in (query, key, value))
    return flashmask(query, key, value, bounds).astype(half), None, None, None


def test_version_2_of_flashmask_is_used(monkeypatch, warnings, flags):
    """Paddle's own function chooses the kernel; version 3 refuses dropout and evaluation."""
    monkeypatch.setattr(paddle._C_ops, "flashmask_attention", operation)
    query = paddle.ones([1, 128, 1, 8])
    bounds = paddle.zeros([1, 1, 128, 2], "int32")
    attention = paddle.nn.functional.flashmask_attention
    for options in ({"dropout": 0.1}, {"training": False}):
        with pytest.raises(AssertionError, match="flashmask_attention_v2 does not support"):
            attention(query, query, query, bounds, **options)
    assert device_capabilities.is_flash_supported() and warnings() == []
    for options in ({"dropout": 0.1}, {"training": False}):
        attention(query, query, query, bounds, **options)


def missing(*args):
    """A stand-in for a kernel that is not there."""
    raise RuntimeError("C++ traceback\n(NotFound) the kernel `flashmask_attention` is not registered.")


def off_by_one_row(query, key, value, bounds, *options):
    """A stand-in for a kernel that takes the mask's bounds one row too low."""
    return operation(query, key, value, bounds + 1, *options)


@pytest.mark.parametrize(
    ("kernel", "reason"), [(missing, "is not registered"), (off_by_one_row, "result: error")]
)
def test_a_kernel_that_does_not_work_is_not_used(monkeypatch, warnings, flags, kernel, reason):
    monkeypatch.setattr(paddle._C_ops, "flashmask_attention", kernel)
    with paddle.no_grad():  # as in an evaluation
        assert not device_capabilities.is_flash_supported() and not device_capabilities.is_flash_supported()
    (line,) = warnings()
    assert "FlashMask is unavailable; attention uses padded groups" in line and reason in line


@pytest.mark.parametrize(
    ("error", "is_equal"), [(0.5, True), (1.0, False), (float("nan"), False), (float("inf"), False)]
)
def test_an_error_below_the_tolerance_is_none(error, is_equal):
    assert kernel_selection.check_agreement({"1": 0.0, "2": error}.items, 1.0, "not used") is is_equal


@pytest.mark.parametrize(
    "error", [OSError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError]
)
def test_a_kernel_that_raises_is_not_used(warnings, error):
    def measure_errors():
        raise error("first line\nsecond line")

    assert not kernel_selection.check_agreement(measure_errors, 1.0, "not used")
    assert warnings() == ["not used: second line"]


# Losses, gradients and weights of two trainings, in a process of its own.
TRAINING = """
from ernie_m.training.precision import Precision
from tests.gpu import toys

print([toys.train_and_evaluate(name, "float32", Precision()) for name in ("camlm", "classification")])
"""


def test_without_their_folder_a_cpu_has_plain_kernels(monkeypatch, tmp_path):
    """A copy of the package without it trains with the same numbers, after a warning."""
    shutil.copytree(
        ROOT / "ernie_m", tmp_path / "ernie_m", ignore=shutil.ignore_patterns("cpu", "__pycache__")
    )
    run = run_script(["-c", TRAINING], tmp_path, OMP_NUM_THREADS=os.environ["OMP_NUM_THREADS"])
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    results = [toys.train_and_evaluate(name, "float32", Precision()) for name in ("camlm", "classification")]
    assert run.stdout == f"{results}\n", run.stderr
    assert run.stderr.count("ernie_m/model/cpu is missing") == 1


def test_plain_kernels_have_neither_bfloat16_nor_workers_on_a_cpu(monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert kernel_selection.get_services().make_workers().count == 1
    assert not Precision("bf16").cpu_bf16
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "own")
    assert device_summary.format_device_summary("float32", 2) == (
        "device: cpu; precision float32; attention padded groups; collectives own, 2 processes; plain kernels"
    )
    assert "amp bf16 requires optimized kernels" in error_of(
        prepare_for_prediction, ErnieMModel(CONFIG), "bf16"
    )
