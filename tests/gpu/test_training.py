"""Training steps in half precision against those in full precision: objectives, tasks, options, overflows."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import pytest

from evaluation.encode import PaddleEncoder
from model import layers
from model.checkpoint.folder import WEIGHTS, ModelFiles
from model.checkpoint.formats import safetensors
from pretrain.config import OBJECTIVES
from pretrain.loss import masked_lm_loss, to_device
from tests.gpu import toys
from tests.gpu.bounds import REPORT, TRAINING_BOUND, Failed, compare
from training.checkpoint import read_state, write_checkpoint
from training.engine import Engine
from training.precision import LossScaling, Precision
from utils.errors import UserError

# A scale from which these gradients are finite after 3 to 12 divisions by 16.
OVERFLOWING = LossScaling(init_loss_scaling=2.0**40, decr_every_n_nan_or_inf=1, decr_ratio=2.0**-4)
FEWEST_SKIPS = 3
MOST_SKIPS = 12
# Of vectors in half precision: in a simulation that rounds each operation to bfloat16, the vectors of 3 of 30
# seeds are off by more than TRAINING_BOUND.
VECTORS_BOUND = 2e-2
LARGE_WEIGHTS_BOUND = 5e-2  # large weights make rounding errors large, too


def test_dropout(device, fact):
    """Dropout keeps the mean and repeats itself, and recompute drops the same."""
    advice = "train without dropout (0.0 in the configuration)"
    mean = float(layers.dropout(paddle.ones([100_000]), 0.1, training=True).mean())
    compare("the mean of ones after dropout", [mean], [1.0], bound=1e-2, advice=advice)
    model = toys.make_model("float32", dropout=0.1)
    model.train()
    first = _loss_and_gradients(model, recompute=False)
    again = _loss_and_gradients(model, recompute=False)
    recomputed = _loss_and_gradients(model, recompute=True)
    # A GPU adds the gradients of a repeated token in an order that changes.
    bound = 1e-5 if device.is_card else 0.0
    compare("a second pass with the same seed", again, first, bound=bound, advice=advice)
    compare("recompute", recomputed, first, bound=1e-5, advice="train without run.recompute")
    fact(f"mean {mean:.3f}, the same seed drops the same, recompute is equal")


def _loss_and_gradients(model: paddle.nn.Layer, recompute: bool) -> list[np.ndarray]:
    """The loss of a batch, and the gradients of all parameters as one array. The seed is always the same."""
    model.ernie_m.use_recompute(recompute)
    paddle.seed(7)
    (batch,) = to_device([toys.batch_of("mmlm", step=0)])
    loss = masked_lm_loss(model, batch).total
    loss.backward()
    gradients = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad.numpy().ravel())
            parameter.grad = None
    return [loss.numpy(), np.concatenate(gradients)]


def test_objectives(device, quick, fact):
    """Steps of each objective, and sentence vectors, in each mixed precision."""
    steps = toys.FEW_STEPS if quick else toys.STEPS

    def results_of(name: str, engine: Engine) -> Sequence:
        """Losses and gradient norms of an objective, or the vectors of a short and a longer sentence."""
        if name != "vectors":
            return toys.train(engine, name, last=steps)
        with engine.autocast():
            ids_of_sentences = [np.arange(4, 6), np.arange(4, 40)]
            return PaddleEncoder(engine.model.ernie_m).vectors(ids_of_sentences)

    names = [*OBJECTIVES, "vectors"]
    exact = {name: results_of(name, toys.engine_of(device.exact_dtype)) for name in names}
    fact(f"{steps} steps of each objective, and vectors")
    for amp in device.amps:
        advice = f"do not train with amp {amp}"
        differences = []
        for name in names:
            values = results_of(name, toys.engine_of("float32", Precision(amp)))
            case = f"{name} with amp {amp}"
            bound = VECTORS_BOUND if name == "vectors" else TRAINING_BOUND
            differences.append(compare(case, values, exact[name], bound=bound, advice=advice))
        fact(f"amp {amp} within {max(differences):.0e} of {device.exact_dtype}")


def test_tasks(device, fact):
    """Steps of each fine-tuning task and of retrieval, and of pre-training without masked tokens."""

    def results_of(dtype: str, amp: str) -> dict[str, list[float]]:
        """The name of each task -> its losses and gradient norms."""
        results = {name: toys.train_task(model, amp) for name, model in toys.task_models(dtype).items()}
        for loss in ("bce", "softmax"):
            results[f"retrieval by {loss}"] = toys.train_retrieval(dtype, amp, loss)
        return results

    exact = results_of(device.exact_dtype, "none")
    differences = []
    for amp in device.amps:
        advice = f"fine-tune without amp {amp}"
        for name, values in results_of("float32", amp).items():
            case = f"{name} with amp {amp}"
            bound = LARGE_WEIGHTS_BOUND if name == toys.LARGE_WEIGHTS else TRAINING_BOUND
            differences.append(compare(case, values, exact[name], bound=bound, advice=advice))
        check_nothing_masked(toys.engine_of("float32", Precision(amp)))
    precisions = " and ".join(f"amp {amp}" for amp in device.amps)
    fact(f"{', '.join(exact)}: {precisions} within {max(differences):.0e} of {device.exact_dtype}")
    fact("a batch without masked tokens has no loss")


def check_nothing_masked(engine: Engine) -> None:
    """Check that a micro-batch without masked tokens has a loss of 0 and changes nothing.

    Raises:
        Failed: it has a loss or a gradient.
    """
    no_tokens = np.zeros(0, np.int64)
    batch = dataclasses.replace(
        toys.batch_of("mmlm", step=0), targets=no_tokens, target_ids=no_tokens, target_objectives=no_tokens
    )
    with engine.autocast():
        micro_batches = to_device([batch])
    step = engine.step(micro_batches, lambda sent: (masked_lm_loss(engine.model, sent).total, {}))
    if step.loss != 0.0 or step.grad_norm != 0.0:
        raise Failed(f"a batch without masked tokens has loss {step.loss}, norm {step.grad_norm}; {REPORT}")


def test_options(device, quick, fact, tmp_path):
    """Recompute with dropout over three micro-batches, O2, and a resume through files."""
    steps = toys.FEW_STEPS if quick else toys.STEPS
    exact = toys.train(toys.engine_of("float32", dropout=0.1), "camlm", last=steps, micro_batches=3)
    engine = toys.engine_of("float32", dropout=0.1)
    engine.model.ernie_m.use_recompute(True)
    values = toys.train(engine, "camlm", last=steps, micro_batches=3)
    compare("recompute with dropout", values, exact, bound=1e-4, advice="train without run.recompute")
    fact("recompute with dropout equal")

    if device.is_card:
        exact = toys.train(toys.engine_of("float32"), "mmlm", last=steps, micro_batches=3)
        for amp in device.amps:
            engine = toys.engine_of("float32", Precision(amp, "O2"))
            engine.model.ernie_m.use_recompute(True)
            values = toys.train(engine, "mmlm", last=steps, micro_batches=3)
            advice = "train with run.amp_level O1"
            compare(f"{amp} O2", values, exact, bound=TRAINING_BOUND, advice=advice)
        fact("O2 within 1 %")

    values, exact = resumed(tmp_path / "step_1", steps)
    # A GPU adds some gradients in an order that changes.
    bound = 1e-4 if device.is_card else 0.0
    compare("a resumed run", values, exact, bound=bound, advice="do not stop a run")
    fact("resumed through files: equal")


def resumed(path: Path, steps: int) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of a run's second half: resumed from files, and without a stop.

    Args:
        path: of the step folder.
        steps: of both halves together.
    """
    straight = toys.engine_of("float32")
    restarted = toys.engine_of("float32")
    toys.train(straight, "mmlm", last=steps // 2)
    weights = {name: tensor.numpy() for name, tensor in straight.model.state_dict().items()}
    values = straight.state_dict()
    write_checkpoint(path, ModelFiles(weights, {}, "", {}), values.pop("optimizer"), values)
    arrays, values = read_state(path)
    restarted.model.set_state_dict(safetensors.read(path / WEIGHTS))
    restarted.load_state_dict({**values, "optimizer": arrays})
    without_stop = toys.train(straight, "mmlm", last=steps)
    return toys.train(restarted, "mmlm", last=steps), without_stop


def test_overflow(device, fact):
    """fp16 from a loss scale that overflows: the scale shrinks and the run recovers."""
    if "float16" not in device.half_types:
        pytest.skip("no GPU, so no float16")
    engine = toys.engine_of("float32", Precision("fp16", loss_scaling=OVERFLOWING))
    # The engine gives up after ten steps in a row.
    with contextlib.suppress(UserError):
        toys.train(engine, "mmlm")
    if not FEWEST_SKIPS <= engine.skipped <= MOST_SKIPS:
        raise Failed(
            f"fp16 from a loss scale of 2^40 skipped {engine.skipped} of {toys.STEPS} steps, expected are "
            f"{FEWEST_SKIPS} to {MOST_SKIPS}; train in bf16; {REPORT}"
        )
    fact(f"fp16 from a loss scale of 2^40: {engine.skipped} steps skipped, then it trains")
