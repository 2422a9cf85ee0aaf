"""Each check of this folder fails on a fault, and says what to do. Faults of a card are in test_faults.py."""

import contextlib
import re
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional

from evaluation.encode import PaddleEncoder
from model import attention, device, layers, layout, loss_on_gpu, masked_loss
from model.heads import SpanClassifier
from tests.gpu import (
    test_export,
    test_kernels,
    test_machine,
    test_processes,
    test_speed,
    test_step,
    test_training,
    toys,
    worker,
)
from tests.gpu.bounds import BOUNDS, Failed, compare, difference
from tests.gpu.device import A100, CPU, V100, Device
from tests.helpers import profiling
from training.precision import LossScaling, Precision


def fails(message: str) -> contextlib.AbstractContextManager:
    """Within it a check fails, and says so. `message`: a pattern."""
    return pytest.raises(Failed, match=message)


def test_the_largest_difference_counts():
    """Relative to the largest exact value of its array: 0.5 of 2, and not 10 of 110."""
    assert difference([[1.0, 2.5], [100.0]], [[1.0, 2.0], [110.0]]) == 0.25


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_values_that_are_not_finite_differ_from_all(number):
    finite = [1.0, 2.0]
    not_finite = [number, 2.0]
    for values, exact in ((not_finite, finite), (finite, not_finite), (not_finite, not_finite)):
        with fails("the loss is off by inf"):
            compare("the loss", [values], [exact], bound=1.0, advice="stop")


# The machine


@pytest.fixture
def healthy(stand_in, monkeypatch) -> Device:
    """A machine on which all goes together."""
    monkeypatch.setattr(test_machine, "output_of", lambda *command: "560.35.05")
    return A100


def test_a_healthy_machine(healthy):
    facts = []
    test_machine.test_device(healthy, facts.append)
    assert facts[-2:] == ["driver 560.35.05", "bf16 and FlashMask allowed"]


@pytest.mark.parametrize(
    ("place", "fault", "message"),
    [
        ("paddle.version.cuda_archs", lambda: [61, 90], r"A100.* has compute capability 8\.0.*stable/cu126/"),
        ("paddle.get_flags", lambda names: {names[0]: 3}, "is 3, which refuses dropout: unset it"),
        ("model.device.uses_flash_mask", lambda half: False, "FlashMask does not work here"),
    ],
)
def test_a_machine_whose_parts_do_not_go_together(healthy, monkeypatch, place, fault, message):
    monkeypatch.setattr(place, fault)
    with fails(message):
        test_machine.test_device(healthy, print)


def test_an_old_driver(healthy, monkeypatch):
    monkeypatch.setattr(test_machine, "output_of", lambda *command: "470.82.01")
    with fails(r"driver 470\.82\.01: CUDA 12 needs 525 or newer"):
        test_machine.test_device(healthy, print)


def test_the_output_of_a_program():
    assert test_machine.output_of("nvidia-smi-that-is-not-there", "-q") == "no nvidia-smi-that-is-not-there"
    assert test_machine.output_of("false") == "false fails"
    assert test_machine.output_of("printf", "a\\nb\\n") == "a; b"


# Operations, attention and the loss


def test_a_wrong_scale(monkeypatch):
    """Queries that are 1 % too large."""
    apply = attention.AttentionOnCpu.apply
    monkeypatch.setattr(attention.AttentionOnCpu, "apply", lambda query, *rest: apply(query * 1.01, *rest))
    with fails("full in float64 is off by .*; train in float32"):
        test_kernels.test_attention(CPU, True, print)


def test_a_mask_that_leaks(monkeypatch):
    """A group without a mask: its sequences see their pads, too."""
    monkeypatch.setattr(layout.Group, "masked", None)
    with fails("packed in float64 is off by"):
        test_kernels.test_attention(CPU, True, print)


def test_a_loss_over_padded_words(monkeypatch):
    """1002 words are padded to 1024, and the logits of the pads are 0 instead of far below the others."""
    cross_entropy = masked_loss.cross_entropy

    def with_pads(x, table, bias, labels, loss_weights):
        weight = functional.pad(table.weight, [0, 22, 0, 0])
        padded = SimpleNamespace(weight=weight, gradient=table.gradient, in_bfloat16=False)
        return cross_entropy(x, padded, functional.pad(bias, [0, 22]), labels, loss_weights)

    monkeypatch.setattr(device, "on_cpu", lambda x: False)  # a GPU's code: gradients through autograd
    test_kernels.test_loss(CPU, True, print, monkeypatch)
    monkeypatch.setattr(masked_loss, "cross_entropy", with_pads)
    with fails("loss of 48 x 1002 in float64 is off by"):
        test_kernels.test_loss(CPU, True, print, monkeypatch)
    monkeypatch.setattr(Device, "bound", lambda device, dtype: BOUNDS["bfloat16"])
    with fails("loss of 48 x 1002"):  # it is seen in half precision, too
        test_kernels.test_loss(CPU, True, print, monkeypatch)


# Training


def test_dropout_without_its_scale(monkeypatch):
    dropout = layers.dropout

    def unscaled(x, probability, training, residual=None):
        return dropout(x, probability, training, residual) * (1.0 - probability)

    monkeypatch.setattr(layers, "dropout", unscaled)
    with fails("the mean of ones after dropout is off by"):
        test_training.test_dropout(CPU, print)


def test_dropout_that_does_not_repeat_itself(monkeypatch):
    """The seed has no effect."""
    monkeypatch.setattr(paddle, "seed", lambda number: None)
    with fails("a second pass with the same seed is off by"):
        test_training.test_dropout(CPU, print)


def test_an_objective_in_wrong_precision(monkeypatch):
    """Gradients that are 5 % too large, in float32 only; Adam alone would hide them."""
    backward = paddle.Tensor.backward

    def too_large(loss, *arguments):
        if loss.dtype == paddle.float32:
            loss = loss * 1.05
        return backward(loss, *arguments)

    monkeypatch.setattr(toys, "FEW_STEPS", 4)
    monkeypatch.setattr(paddle.Tensor, "backward", too_large)
    with fails("mmlm with amp none is off by"):
        test_training.test_objectives(CPU, True, print)


@pytest.mark.parametrize(("off", "result"), [(0.015, contextlib.nullcontext()), (0.025, fails("vectors"))])
def test_vectors_may_be_off_by_the_rounding_of_bfloat16(monkeypatch, off, result):
    vectors = iter([[1.0], [1.0 + off]])  # the exact ones come first
    monkeypatch.setattr(PaddleEncoder, "vectors", lambda *_: next(vectors))
    monkeypatch.setattr(toys, "train", lambda *_, **options: [1.0])
    with result:
        test_training.test_objectives(CPU, True, print)


def test_a_task_that_mixes_up_its_outputs(monkeypatch):
    """In float32 the logits of the end are those of the start."""
    forward = SpanClassifier.forward

    def swapped(model, batch):
        start, end = forward(model, batch)
        if start.dtype == paddle.float32:
            return start, start
        return start, end

    monkeypatch.setattr(SpanClassifier, "forward", swapped)
    with fails("spans with amp none is off by"):
        test_training.test_tasks(CPU, print)


@pytest.mark.parametrize(
    ("loss_of_zeros", "found"),
    [
        (lambda zeros: zeros.sum() * 0.0 + 1.0, "loss 1.0, norm 0.0"),
        (lambda zeros: zeros.sum(), "loss 0.0, norm 10.0"),  # of a gradient of 1 for each of 100 words
        (lambda zeros: zeros.sqrt().sum(), "loss 0.0, norm inf"),
        (lambda zeros: (zeros.sqrt() * 0.0).sum(), "loss 0.0, norm nan"),
    ],
)
def test_a_batch_without_masked_tokens_that_has_a_loss_or_a_gradient(monkeypatch, loss_of_zeros, found):
    """The bias of the output layer has zeros."""

    def loss(model, batch):
        return SimpleNamespace(total=loss_of_zeros(model.lm_head.bias))

    monkeypatch.setattr(test_training, "masked_lm_loss", loss)
    with fails(f"without masked tokens has {found}"):
        test_training.check_nothing_masked(toys.engine_of("float32", Precision()))


def test_o2_whose_gradients_are_multiplied(stand_in, monkeypatch, tmp_path):
    decorate = paddle.amp.decorate

    def with_hooks(model, optimizer, **options):
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient * 1.05)
        return decorate(model, optimizer, **options)

    monkeypatch.setattr(paddle.amp, "decorate", with_hooks)
    with fails("bf16 O2 .*; train with run.amp_level O1"):
        test_training.test_options(A100, True, print, tmp_path)


def test_the_official_loss_scale_overflows_in_the_toys(stand_in, monkeypatch):
    """In float16, as on a card: the scale of the check of tasks is smaller."""
    monkeypatch.setattr(toys, "LossScaling", lambda init_loss_scaling: LossScaling())
    with fails("with amp fp16 is off by inf"):
        test_training.test_tasks(V100, print)


def test_an_overflow_that_never_recovers(stand_in, monkeypatch):
    """Gradients are infinite whatever the scale is."""
    unscale = paddle.amp.GradScaler.unscale_

    def overflowing(scaler, optimizer):
        for parameter in optimizer._parameter_list:
            if parameter.grad is not None:
                parameter.grad.fill_(float("inf"))
        unscale(scaler, optimizer)

    monkeypatch.setattr(paddle.amp.GradScaler, "unscale_", overflowing)
    # The scale reaches its minimum in nine steps, and the engine gives up after ten more.
    with fails("skipped 19 of 20 steps"):
        test_training.test_overflow(V100, print)


def test_a_scale_that_never_overflows(stand_in, monkeypatch):
    """The loss is not scaled."""
    monkeypatch.setattr(paddle.amp.GradScaler, "scale", lambda scaler, loss: loss)
    with fails("skipped 0 of 20 steps"):
        test_training.test_overflow(V100, print)


# Two processes


ADDS_TWICE = """
once = distributed.sum_gradients
def twice(parameters):
    once(parameters)
    for parameter in parameters:
        parameter.grad.scale_(2.0)
distributed.sum_gradients = twice
"""
# Process 0 reads 1 where the sum over the processes is not finite, so it does not skip the step.
SKIPS_ALONE = """
import math
import paddle
read = distributed.sum_and_read
def finite(tensors, numbers):
    return [value if math.isfinite(value) else 1.0 for value in read(tensors, numbers)]
if distributed.is_main():
    distributed.sum_and_read = finite
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (ADDS_TWICE, "mmlm on two processes, stage 0, is off by"),
        (SKIPS_ALONE, "an overflow on process 1 alone, stage 0: process 0 skipped"),
    ],
)
def test_processes_with_a_fault(tmp_path, fault, message):
    script = tmp_path / "faulty.py"
    lines = ["from tests.gpu import worker", "from training import distributed", fault, "worker.main()"]
    script.write_text("\n".join(lines))
    with fails(message):
        test_processes.check_two(script, tmp_path, CPU)


def test_a_sum_over_two_cards(monkeypatch):
    """A ring of two cards sends as many bytes as the gradient has, 1 MiB.

    By a false clock five sums take 5 s.
    """
    monkeypatch.setattr(worker, "SUM_BYTES", 1 << 20)
    monkeypatch.setattr(paddle.distributed, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)
    monkeypatch.setattr(worker.distributed, "world_size", lambda: 2)
    assert worker.SUMS == 5
    clock = iter([0.0, 5.0])  # before and after the sums
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(clock))
    assert worker.sum_speed() == pytest.approx((1 << 20) / 1e9)  # GB/s


# A step, and fast kernels against plain ones


@pytest.mark.parametrize(("amp", "uploads", "reads"), [("bf16", 14, 1), ("bf16", 16, 1), ("fp16", 7, 2)])
def test_the_copies_of_base(amp, uploads, reads):
    """Without and with clipping on an A100 in bf16; on a V100 in fp16, which has no FlashMask."""
    copies = ["MEMCPY_HtoD"] * uploads + ["MEMCPY_DtoH"] * reads
    assert test_step.check_copies(copies, amp, layers=12) == f"uploads {uploads}, reads {reads}"
    with fails(f"{uploads} uploads and {reads + 1} reads"):
        test_step.check_copies([*copies, "MEMCPY_DtoH"], amp, layers=12)
    with fails(f"19 uploads and {reads} reads"):
        test_step.check_copies([*copies, *["MEMCPY_HtoD"] * (19 - uploads)], amp, layers=12)


@pytest.mark.parametrize(
    ("dtypes", "kernels", "message"),
    [
        ({paddle.float32}, ["flash_fwd_kernel"], r"are \['paddle.float32'\], not bfloat16"),
        ({paddle.bfloat16}, ["gemm"], "1 kernels, none of flash attention"),
    ],
)
def test_a_step_without_flash_mask(dtypes, kernels, message):
    with fails(message):
        test_step.check_flash_ran(dtypes, kernels)


def test_the_phases_of_a_step(monkeypatch):
    """Kernels of the forward pass, of the backward pass, and of the rest of a step that has 100."""
    kernels = {"forward": 30, "forward_and_backward": 80}

    def count_kernels(work):
        work()
        return kernels[work.__name__]

    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)
    monkeypatch.setattr(test_step, "_count_kernels", count_kernels)
    phases = test_step.phases_of(toys.classifier_engine(True, "none"), step_kernels=100)
    counts = {name: phase.kernels for name, phase in phases.items()}
    assert counts == {"forward": 30, "backward": 50, "update": 20}


def test_fast_kernels_that_add_three_times_the_residual(monkeypatch):
    add_to = layers.add_to

    def faulty(x, y):
        return add_to(x, y if device.has_plain_kernels() else 3.0 * y)

    monkeypatch.setattr(layers, "add_to", faulty)
    with fails("training with fast kernels is off by .*; train with kernels plain"):
        test_step.test_kernels(CPU, True, print)
    assert not device.has_plain_kernels()


def test_what_the_profiler_shows():
    x = paddle.ones([3, 3])
    assert any("matmul" in name for _, name in profiling.profiled(lambda: paddle.matmul(x, x)))


# Export and speed


def test_an_export_that_differs(monkeypatch, tmp_path):
    """Its outputs are 1 % too large."""
    run = test_export.PaddleEngine.__call__

    def faulty(engine, ids):
        return {name: values * 1.01 for name, values in run(engine, ids).items()}

    monkeypatch.setattr(test_export.PaddleEngine, "__call__", faulty)
    with fails(re.escape("an exported graph is off by 1.0e-02")):
        test_export.test_export(CPU, print, tmp_path)


@pytest.mark.parametrize(
    ("name", "tflops"), [("NVIDIA H200", 989), ("NVIDIA L4", 121), ("NVIDIA L40S", None)]
)
def test_the_card_of_the_estimate(monkeypatch, name, tflops):
    """Its data sheet, if that is in the list."""
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: name)
    card = test_speed.listed_card()
    assert (card and card.tflops) == tflops


def test_warnings():
    assert test_speed.warnings_of(speed=0.9, margin=9.0, memory=1.0, aligned=1.0) == []
    (slow,) = test_speed.warnings_of(speed=0.1, margin=9.0, memory=1.0, aligned=1.0)
    assert slow.startswith("warning: slow:")
    assert len(test_speed.warnings_of(speed=0.1, margin=1.0, memory=1.4, aligned=0.4)) == 4


@pytest.fixture
def measured(stand_in, monkeypatch):
    """measured(): the line of the check. A CPU takes the way of a GPU, in full precision and at tiny size."""
    monkeypatch.setattr(device, "uses_flash_mask", lambda half: False)
    monkeypatch.setattr(test_speed, "rows_of_a_micro_batch", lambda device, quick: (2, 32))
    monkeypatch.setattr(toys, "BASE_SHAPE", toys.SHAPE)
    monkeypatch.setattr(paddle.device.cuda, "reset_max_memory_allocated", lambda: None)
    monkeypatch.setattr(paddle.device.cuda, "max_memory_allocated", lambda: 10e9)  # bytes

    def line() -> str:
        facts = []
        test_speed.test_speed(Device(is_card=True), False, facts.append)
        return "; ".join(facts)

    return line


def test_the_line_of_a_gpu(measured):
    line = measured()
    assert "; 10.0 GB, estimated 0.0; " in line and "tokens/s, XNLI 14 ms" in line
    assert "warning: slow:" in line
    assert "warning: more memory than benchmarks/estimate.py computes" in line


def test_a_loss_with_a_table_that_is_not_padded(measured, monkeypatch):
    """A product takes three times as long if its rows are no multiple of 8 numbers."""
    matmul = paddle.matmul
    times = []

    def timed_matmul(x, y, **options):
        product = matmul(x, y, **options)
        is_aligned = all(tensor.shape[-1] % 8 == 0 for tensor in (x, y, product))
        times.append(1.0 if is_aligned else 3.0)
        return product

    def seconds_of(work, repeats=5):
        """The seconds of the products, and one for everything else."""
        times.clear()
        work()
        return sum(times) + 1.0

    monkeypatch.setattr(paddle, "matmul", timed_matmul)
    monkeypatch.setattr(test_speed, "seconds_of", seconds_of)
    # With a multiple of 64 words the loss is no faster, because it pads its table to such a multiple.
    line = measured()
    assert "words takes 100% of its time" in line and "the loss is slow" not in line

    monkeypatch.setattr(loss_on_gpu, "ROW_MULTIPLE", 1)
    assert "warning: the loss is slow although its word table is padded" in measured()


def test_rows_are_full_and_their_ids_are_those_of_text():
    batch = test_speed.full_rows(3, 32, 1000, seed=1)
    assert batch.lengths.tolist() == [32] * 3
    counts = np.bincount(batch.input_ids, minlength=1000)
    counts_of_words = counts[4:999]  # without the special tokens
    assert counts_of_words.max() > 5  # some words are frequent, as in text
    assert batch.input_ids.max() < 1000


def test_equal_weights_in_all_types():
    """A model in float64, rounded to float32, has the weights of the same model in float32."""
    single = toys.make_model("float32").parameters()
    double = toys.make_model("float64").parameters()
    for parameter, exact in zip(single, double, strict=True):
        assert (parameter.numpy() == exact.astype("float32").numpy()).all()
