"""The choice of kernels: FlashMask is tried before it is used, and `plain` is Paddle's own."""

import os
import shutil

import paddle
import pytest
from paddle.autograd import PyLayer

from ernie_m.model import device_capabilities, kernel_selection
from ernie_m.model.ernie import ErnieMModel
from ernie_m.training import device_summary
from ernie_m.training.precision import Precision, prepare_for_prediction
from tests.gpu import toys
from tests.helpers.caches import nothing_cached
from tests.helpers.flash import flashmask
from tests.launching import ROOT, error_of, run_script
from tests.toys import small_config

CONFIG = small_config(initializer_range=0.02)


@pytest.fixture
def warnings(caplog):
    """warnings(): the warnings in the log. Nothing has been tried yet in this process."""
    caplog.set_level("WARNING")
    with nothing_cached(device_capabilities.is_flash_supported):
        yield lambda: [record.message for record in caplog.records]


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
    return flashmask(query, key, value, bounds, dropout).astype(half), None, None, None


def test_version_2_of_flashmask_is_used(monkeypatch, warnings, flags):
    """Paddle's own function chooses the kernel; version 3 refuses dropout and evaluation."""
    monkeypatch.setattr(paddle._C_ops, "flashmask_attention", operation)
    query = paddle.ones([1, 128, 1, 8])
    bounds = paddle.zeros([1, 1, 128, 2], "int32")
    attention = paddle.nn.functional.flashmask_attention
    for options in ({"dropout": 0.1}, {"training": False}):
        with pytest.raises(AssertionError, match="flashmask_attention_v2 does not support"):
            attention(query, query, query, bounds, **options)
    assert device_capabilities.is_flash_supported(8) and warnings() == []
    for options in ({"dropout": 0.1}, {"training": False}):
        attention(query, query, query, bounds, **options)


def missing(*args):
    """A stand-in for a kernel that is not there."""
    raise RuntimeError("C++ traceback\n(NotFound) the kernel `flashmask_attention` is not registered.")


def off_by_one_row(query, key, value, bounds, *options):
    """A stand-in for a kernel that takes the mask's bounds one row too low."""
    return operation(query, key, value, bounds + 1, *options)


def whole_blocks(query, key, value, bounds, *options):
    """A stand-in for a kernel that takes a sequence to end where its block ends."""
    return operation(query, key, value, (bounds + 63) // 64 * 64, *options)


def unscaled_dropout(query, key, value, bounds, seed, dropout, *options):
    """A stand-in for a kernel that does not scale the weights that are left."""
    output, *others = operation(query, key, value, bounds, seed, dropout, *options)
    return output * (1.0 - dropout), *others


def no_dropout(query, key, value, bounds, seed, dropout, *options):
    """A stand-in for a kernel that drops nothing."""
    return operation(query, key, value, bounds, seed, 0.0, *options)


class OtherDropoutBehind(PyLayer):
    """A stand-in for a kernel whose backward pass draws another mask."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.arguments = arguments
        return operation(*arguments)[0]

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, *others = ctx.arguments
        value = value.detach()
        value.stop_gradient = False
        with paddle.enable_grad():
            operation(query, key, value, *others)[0].backward(gradient)
        return None, None, value.grad, None


def other_dropout_behind(*arguments):
    return OtherDropoutBehind.apply(*arguments), None, None, None


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (missing, "is not registered"),
        (off_by_one_row, "result: error"),
        (whole_blocks, "result: error"),
        (unscaled_dropout, ": dropout: error"),
        (no_dropout, "dropout without effect: error"),
        (other_dropout_behind, "gradient of dropout: error"),
    ],
)
def test_a_kernel_that_does_not_work_is_not_used(monkeypatch, warnings, flags, kernel, reason):
    monkeypatch.setattr(paddle._C_ops, "flashmask_attention", kernel)
    with paddle.no_grad():  # as in an evaluation
        results = [device_capabilities.is_flash_supported(8) for _ in range(2)]
    assert results == [False, False]
    (line,) = warnings()
    assert "attention uses slower padded groups" in line and reason in line


def test_the_head_size_of_the_model_is_tried(monkeypatch, warnings, flags):
    """A kernel that has sizes 8 and 64 alone; the random numbers of the process stay as they were."""

    def kernel(query, *arguments):
        return missing() if query.shape[-1] not in (8, 64) else operation(query, *arguments)

    monkeypatch.setattr(paddle._C_ops, "flashmask_attention", kernel)
    monkeypatch.setattr(kernel_selection, "is_on_gpu", lambda: True)
    monkeypatch.setattr(device_capabilities, "get_compute_capability", lambda: (8, 0))
    monkeypatch.setattr(device_capabilities, "head_sizes", {64})
    results = []
    for heads in (2, 4):
        ErnieMModel(small_config(hidden_size=16, num_attention_heads=heads))  # head sizes 8 and 4
        paddle.seed(1)
        results.append((device_capabilities.uses_flash(True), paddle.rand([1]).item()))
    paddle.seed(1)
    random_number = paddle.rand([1]).item()
    assert results == [(True, random_number), (False, random_number)]
    (line,) = warnings()
    assert "head size 4;" in line


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
