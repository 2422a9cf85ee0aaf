"""Faults of a card, planted in a CPU that stands in for one: each makes a check fail, which says so.

docs/gpu.md lists them with figures.
"""

import contextlib
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from paddle.autograd import PyLayer

from model import half_weights
from model.heads import SequenceClassifier
from model.loss_on_gpu import LossOnGpu
from tests.gpu import stand_in as stand_ins
from tests.gpu import test_kernels, test_machine, test_step, test_training, toys
from tests.gpu.bounds import Failed, compare
from tests.gpu.device import A100
from tests.helpers import flash
from tests.launching import ROOT
from training.engine import Engine

RECOMPUTE = importlib.import_module("paddle.distributed.fleet.recompute.recompute")  # as a name, a function
SEEDS = itertools.count(1)
# Bounds up to this are for sums that a card adds in an order that changes, which a CPU does not.
ORDER_BOUND = 1e-4


class Fault(NamedTuple):
    """A fault, and what sees it.

    Attributes:
        plant: puts the fault into a stand-in, until the patch is undone.
        check: the name in CHECKS of the check that fails.
        message: a pattern of what it says.
    """

    plant: Callable[[pytest.MonkeyPatch, stand_ins.StandIn], None]
    check: str
    message: str


def run_check(name: str, fact: Callable[[str], None], patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run a check of a card, with tiny shapes."""
    checks: dict[str, Callable[[], None]] = {
        "device": lambda: test_machine.test_device(A100, fact),
        "operations": lambda: test_kernels.test_operations(A100, fact),
        "attention": lambda: test_kernels.test_attention(A100, True, fact),
        "flash mask": lambda: test_kernels.test_flash_mask(A100, True, fact),
        "loss": lambda: test_kernels.test_loss(A100, True, fact, patch),
        "held out loss": lambda: test_kernels.test_held_out_loss(A100, True, fact, patch),
        "dropout": lambda: test_training.test_dropout(A100, fact),
        "objectives": lambda: test_training.test_objectives(A100, True, fact),
        "tasks": lambda: test_training.test_tasks(A100, fact),
        "options": lambda: test_training.test_options(A100, True, fact, folder),
        "step": lambda: test_step.test_step(A100, True, fact, patch),
        "parameters": lambda: test_step.test_parameters(A100, fact),
        "kernels": lambda: test_step.test_kernels(A100, True, fact),
    }
    checks[name]()


def changed(name: str, change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch, stand_ins.StandIn], None]:
    """A fault of one operation: change(operation, *arguments) does it on the card."""

    def plant(patch: pytest.MonkeyPatch, stand_in: stand_ins.StandIn) -> None:
        right = getattr(paddle._C_ops, name)

        def faulty(*args: Any, **options: Any) -> Any:
            return change(right, *args, **options) if stand_in.is_on else right(*args, **options)

        patch.setattr(paddle._C_ops, name, faulty)

    return plant


def replaced(owner: Any, name: str, change: Callable[..., Any]) -> Callable:
    """A fault of a function: change(function, *arguments) is called in its place."""

    def plant(patch: pytest.MonkeyPatch, stand_in: stand_ins.StandIn) -> None:
        patch.setattr(owner, name, functools.partial(change, getattr(owner, name)))

    return plant


def method(owner: type, name: str, change: Callable[..., Any]) -> Callable:
    """A fault of a method: change(method, self, *arguments) is called in its place."""

    def plant(patch: pytest.MonkeyPatch, stand_in: stand_ins.StandIn) -> None:
        right = getattr(owner, name)
        patch.setattr(owner, name, lambda self, *args, **options: change(right, self, *args, **options))

    return plant


def leaks(right, startend_row_indices):
    """The row behind a placeholder sees its column. (`flash_works` sees leaks of context itself.)"""
    start, end = np.moveaxis(startend_row_indices, -1, 0)
    column = np.arange(start.shape[-1])
    is_placeholder = (start == column + 1) & (end == column)
    return right(np.stack([start + is_placeholder, end], axis=-1))


def keeps(share: float) -> Callable:
    """Dropout that keeps this share of the weights, and scales as if it kept what it should."""

    def factors(right, shape, rate):
        if rate == 0.0:
            return right(shape, rate)
        return (right(shape, 1.0 - share) > 0).astype("float32") / (1.0 - rate)

    return factors


def drops_nothing(right, shape, rate):
    return paddle.ones(shape)


def draws_by_itself(right, shape, rate):
    """Each call has a seed of its own."""
    paddle.seed(next(SEEDS))
    return right(shape, rate)


def drops_anew(right, ctx, gradient):
    """The backward pass has a dropout of its own."""
    *arrays, factors = ctx.saved
    ctx.saved = (*arrays, factors.flip(-1))
    return right(ctx, gradient)


def detached(right, tensors, dtype):
    return [copy.detach() for copy in right(tensors, dtype)]


def loses_last_of_7(right, x, weight, bias):
    """The last of seven outputs in half precision is 0."""
    if weight.shape[1] == 7 and x.dtype in stand_ins.HALF:
        weight = weight * paddle.to_tensor([1.0] * 6 + [0.0]).astype(weight.dtype)
    return right(x, weight, bias)


class GatherOnce(PyLayer):
    """paddle.gather; of the gradients of a repeated row the last one remains."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.shape = x.shape
        ctx.rows = rows
        return x.astype("float64")[rows].astype(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        zeros = paddle.zeros(ctx.shape, gradient.dtype)
        values = gradient.astype("float64")
        return paddle.scatter(zeros.astype("float64"), ctx.rows, values).astype(gradient.dtype), None


def gathers_once(right, x, rows, *rest):
    return GatherOnce.apply(x, rows) if x.dtype in stand_ins.HALF else right(x, rows, *rest)


def has_large_epsilon(right, x, scale, bias, epsilon, *rest):
    return right(x, scale, bias, 10.0 * epsilon if x.dtype in stand_ins.HALF else epsilon, *rest)


def has_no_bf16(right, logits, *rest):
    if logits.dtype == paddle.bfloat16:
        raise RuntimeError("The kernel with key (GPU, bfloat16) of kernel `cross_entropy` is not registered")
    return right(logits, *rest)


def takes_high_rate(right, weights, gradients, rate, *rest):
    return right(weights, gradients, 1.1 * rate, *rest)


def first_only(right, *args):
    """fused_adam_ that updates the first parameter of the list."""
    return right(*(arg[:1] if isinstance(arg, list) else arg for arg in args))


def without_decay(right, *args):
    """fused_adam_ without weight decay, which is its 15th argument."""
    return right(*args[:14], 0.0, *args[15:])


def leaves_vectors(right, gradients, divisor):
    """check_finite_and_unscale_ that leaves gradients of biases and norms alone."""
    return right([gradient for gradient in gradients if gradient.ndim != 1], divisor)


def adds_once(right, x, index, axis, value):
    """index_add_ that adds the last of the values for a repeated index."""
    _, last = np.unique(index.numpy()[::-1], return_index=True)
    last_of_each = paddle.to_tensor(len(index) - 1 - last)
    return right(x, index[last_of_each], axis, value[last_of_each])


def swaps_two(right, tensors, dtype):
    """The copies of the first two tensors of one shape are swapped."""
    copies = right(tensors, dtype)
    for first, second in itertools.combinations(range(len(copies)), 2):
        if copies[first].shape == copies[second].shape:
            copies[first], copies[second] = copies[second], copies[first]
            break
    return copies


def off_by(share: float) -> Callable:
    """Held-out losses in half precision that are too large by this share."""

    def losses_of(right, self, x, labels):
        losses, correct = right(self, x, labels)
        return losses * (1.0 + share if x.dtype in stand_ins.HALF else 1.0), correct

    return losses_of


def overwrites_second_chunk(right, self, x):
    """The logits of the second chunk in half precision are those of other states."""
    states, logits = right(self, x)
    is_second = self._product is not None
    return states, logits.flip(0) if is_second and logits.dtype in stand_ins.HALF else logits


def reads(right, self, batch):
    """A classifier that reads its logits."""
    logits = right(self, batch)
    logits.astype("float32").numpy()
    return logits


def without_moments(right, self, state):
    right(self, {**state, "optimizer": {}})


@contextlib.contextmanager
def keeps_no_state(right, *args, **options) -> Iterator[None]:
    """Recompute that draws its dropout anew, instead of from the state of the forward pass."""
    yield


def no_code(patch: pytest.MonkeyPatch, stand_in: stand_ins.StandIn) -> None:
    patch.setattr(paddle.version, "cuda_archs", lambda: [61, 70, 75, 90])


PLANTED = {
    "FlashMask leaks a masked key": Fault(
        replaced(flash, "visible", leaks), "flash mask", "FlashMask with 2 heads and 256 tokens is off by"
    ),
    "FlashMask without dropout": Fault(
        replaced(flash, "dropout_factors", drops_nothing), "flash mask", "FlashMask drops nothing"
    ),
    "FlashMask keeps 0.85 of the weights": Fault(
        replaced(flash, "dropout_factors", keeps(0.85)),
        "flash mask",
        "the mean of ones after FlashMask's dropout is off by",
    ),
    "FlashMask's dropout ignores the seed": Fault(
        replaced(flash, "dropout_factors", draws_by_itself),
        "flash mask",
        "drops other weights with the same seed",
    ),
    "FlashMask's backward pass drops other weights": Fault(
        replaced(stand_ins.Attention, "backward", drops_anew),
        "flash mask",
        "the gradient of FlashMask's dropout is off by",
    ),
    "linear is wrong for 7 outputs": Fault(
        changed("linear", loses_last_of_7), "operations", "head of 7 in bfloat16 is off by"
    ),
    "layer_norm has ten times the epsilon": Fault(
        changed("layer_norm", has_large_epsilon), "operations", "norm of small numbers in bfloat16 is off by"
    ),
    "gather loses gradients of repeated rows": Fault(
        changed("gather", gathers_once), "operations", "gather in bfloat16 is off by"
    ),
    "cross-entropy has no kernel for bf16": Fault(
        changed("cross_entropy_with_softmax_", has_no_bf16), "loss", "is not registered"
    ),
    "fused_adam takes 1.1 times the rate": Fault(
        changed("fused_adam_", takes_high_rate), "parameters", "the weights after three steps of fine-tuning"
    ),
    "fused_adam updates the first tensor only": Fault(
        changed("fused_adam_", first_only), "parameters", "the weights after three steps of fine-tuning"
    ),
    "recompute draws another dropout": Fault(
        replaced(RECOMPUTE, "switch_rng_state_tracker", keeps_no_state),
        "options",
        "recompute with dropout is off by",
    ),
    "the norm of gradients is 2 % too large": Fault(
        changed("squared_l2_norm", lambda right, x: 1.04 * right(x)),
        "parameters",
        "the norm of the gradients is off by",
    ),
    "a needless copy to the host": Fault(
        method(SequenceClassifier, "forward", reads), "step", "uploads and 2 reads"
    ),
    "a resume loses moments": Fault(
        method(Engine, "load_state_dict", without_moments), "options", "a resumed run is off by"
    ),
    "the wheel has no code for the card": Fault(no_code, "device", r"A100.* has compute capability 8\.0"),
    "AdamW without weight decay": Fault(
        changed("fused_adam_", without_decay), "parameters", "the weights after three steps of fine-tuning"
    ),
    "clipping divides by the wrong number": Fault(
        changed(
            "check_finite_and_unscale_", lambda right, gradients, divisor: right(gradients, 1.5 * divisor)
        ),
        "parameters",
        "the weights after three steps of fine-tuning",
    ),
    "biases and norms are not clipped": Fault(
        changed("check_finite_and_unscale_", leaves_vectors),
        "parameters",
        "the weights after three steps of fine-tuning",
    ),
    "index_add loses repeated words": Fault(
        replaced(paddle, "index_add_", adds_once), "parameters", "the norm of the gradients|the weights after"
    ),
    "half copies of two layers are swapped": Fault(
        replaced(half_weights, "cast_together", swaps_two),
        "tasks",
        f"{toys.LARGE_WEIGHTS} with amp bf16 is off",
    ),
    "half copies have no gradients": Fault(
        replaced(half_weights, "cast_together", detached), "kernels", "training with fast kernels is off by"
    ),
    "held-out losses in half are 5 % off": Fault(
        method(LossOnGpu, "losses", off_by(0.05)),
        "held out loss",
        "^held-out losses of .* in bfloat16 is off by",
    ),
    "held-out losses in half are 0.5 % off": Fault(
        method(LossOnGpu, "losses", off_by(0.005)),
        "held out loss",
        "^the mean of held-out losses of .* in bfloat16 is off by",
    ),
    "the second chunk of half logits is overwritten": Fault(
        method(LossOnGpu, "_logits", overwrites_second_chunk), "loss", "loss of .* in bfloat16 is off by"
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_of_a_card_is_seen(stand_in, monkeypatch, tmp_path, name):
    plant, check, message = PLANTED[name]
    plant(monkeypatch, stand_in)
    with pytest.raises((Failed, RuntimeError), match=message):
        run_check(check, print, monkeypatch, tmp_path)


def test_the_page_lists_the_faults():
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| fault | check | healthy |")
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")]
    listed = {(name.removeprefix("| "), check) for name, check in rows}
    assert listed == {(name, fault.check) for name, fault in PLANTED.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    # "device" and "step" compare no figures.
    sorted(
        {"attention", "dropout", "objectives"}
        | {fault.check for fault in PLANTED.values()} - {"device", "step"}
    ),
)
def test_bounds_fit_healthy_figures(stand_in, monkeypatch, tmp_path, check):
    """The largest figure of ten seeds for weights and data is below half of its bound: no false alarm. It is
    above a twentieth, or a fault could hide below the bound.
    """
    shares: dict[float, float] = {}  # bound -> the largest figure, as a share of it

    def noted(*args: Any, bound: float, **options: Any) -> float:
        largest = compare(*args, bound=bound, **options)
        shares[bound] = max(shares.get(bound, 0.0), largest / bound)
        return largest

    for module in (test_kernels, test_step, test_training):
        monkeypatch.setattr(module, "compare", noted)
    for seed in range(1, 11):
        monkeypatch.setattr(toys, "SEED", seed)
        with monkeypatch.context() as patch:
            run_check(check, print, patch, tmp_path / str(seed))
    assert shares
    for bound, share in shares.items():
        assert share < 0.5, bound
        assert share > 0.05 or bound <= ORDER_BOUND, bound
