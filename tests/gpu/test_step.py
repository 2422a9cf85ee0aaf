"""One fine-tuning step: its kernels, its copies, the host's time; fast kernels against plain ones."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from model.device import FAST, PLAIN, use_kernels
from pretrain.report import SUMS
from tests.gpu import toys
from tests.gpu.bounds import REPORT, TRAINING_BOUND, Failed, compare
from tests.helpers import profiling
from tests.helpers.profiling import seconds_of
from training.engine import Engine
from training.optimizer import build_optimizer
from training.precision import Precision

# The copies to the card that a step makes beside those of FlashMask, whose backward pass copies its seed in
# each layer (flash_attn_bwd in csrc/capi/flash_attn.cu of PaddlePaddle/flash-attention): the batch; which
# rows of the word table are updated; in fp16 whether the update is skipped; two arrays each time that
# gradients are divided, by the loss scale or to clip them (CheckFiniteAndUnscaleKernel in
# paddle/phi/kernels/gpu/amp_kernel.cu). The host waits for none of them. In all, base makes 14 to 16 on an
# A100 in bf16, 5 to 7 on a V100 in fp16.
OTHER_UPLOADS = 6
# amp -> the copies from the card that a step needs. The host waits for each.
MOST_READS = {"bf16": 1, "fp16": 2}  # the totals; in fp16 also whether the scaler found an overflow

RATE = 1e-2  # the learning rate of `test_parameters`
PARAMETERS_BOUND = 0.05  # of weights, in learning rates


class Phase(NamedTuple):
    """What one phase of a step costs."""

    kernels: int  # started
    milliseconds: float  # of the host


def test_step(card, quick, fact, monkeypatch):
    """Kernels and host time of a fine-tuning step by phase, and how often it copies from and to the card."""
    amp = card.amps[0]
    engine = toys.classifier_engine(quick, amp)
    query_dtypes: set[paddle.dtype] = set()  # of the queries with which FlashMask is called
    flashmask = F.flashmask_attention

    def recorded(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        query_dtypes.add(query.dtype)
        return flashmask(query, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(F, "flashmask_attention", recorded)
        toys.xnli_step(engine)  # the first step also makes the moments
        events = profiling.profiled(partial(toys.xnli_step, engine))
    kernels = [name.lower() for category, name in events if category == "Kernel"]
    if card.has_flash_mask:
        check_flash_ran(query_dtypes, kernels)
        fact("FlashMask in bfloat16")
    else:
        fact("padded groups")
    layers = engine.model.ernie_m.config.num_hidden_layers
    copies = check_copies([name for _, name in events], amp, layers)
    phases = phases_of(engine, step_kernels=len(kernels))
    costs = [f"{name} {phase.kernels} and {phase.milliseconds:.1f} ms" for name, phase in phases.items()]
    fact(f"kernels and host time of an XNLI step: {', '.join(costs)}")
    fact(copies)


def check_flash_ran(query_dtypes: set[paddle.dtype], kernels: list[str]) -> None:
    """Check that attention was FlashMask in bfloat16.

    Args:
        query_dtypes: the types of the queries that FlashMask was called with.
        kernels: the names of the kernels that ran.

    Raises:
        Failed: it was not.
    """
    if query_dtypes != {paddle.bfloat16}:
        names = [str(dtype) for dtype in query_dtypes]
        raise Failed(f"the queries of FlashMask are {names}, not bfloat16; {REPORT}")
    if not any("flash" in name for name in kernels):
        raise Failed(f"the profiler shows {len(kernels)} kernels, none of flash attention; {REPORT}")


def check_copies(names: Sequence[str], amp: str, layers: int) -> str:
    """The copies of a step, in words, from the names of its events.

    Args:
        layers: of the model.

    Raises:
        Failed: there are more than a step needs.
    """
    uploads = sum("HtoD" in name for name in names)
    reads = sum("DtoH" in name for name in names)
    most_uploads = layers + OTHER_UPLOADS
    if uploads > most_uploads or reads > MOST_READS[amp]:
        raise Failed(
            f"a step makes {uploads} uploads and {reads} reads, at most {most_uploads} and {MOST_READS[amp]} "
            f"are needed: the host loses time; {REPORT}"
        )
    return f"uploads {uploads}, reads {reads}"


def phases_of(engine: Engine, step_kernels: int) -> dict[str, Phase]:
    """The costs of the forward pass, the backward pass and the rest of a step.

    Each is measured with all that comes before it; the differences are the phases.

    Args:
        step_kernels: the number of kernels of a whole step.
    """
    batch = toys.send_xnli(engine)

    def forward() -> Tensor:
        with engine.autocast():
            loss, _sums = toys.xnli_loss(engine, batch)
        return loss

    def forward_and_backward() -> None:
        forward().backward()
        for parameter in engine.model.parameters():
            parameter.grad = None

    forward_kernels = _count_kernels(forward)
    passes_kernels = _count_kernels(forward_and_backward)
    forward_ms = 1e3 * _host_seconds(forward)
    passes_ms = 1e3 * _host_seconds(forward_and_backward)
    step_ms = 1e3 * _host_seconds(partial(toys.xnli_step, engine))
    return {
        "forward": Phase(forward_kernels, forward_ms),
        "backward": Phase(passes_kernels - forward_kernels, passes_ms - forward_ms),
        "update": Phase(step_kernels - passes_kernels, step_ms - passes_ms),
    }


def _count_kernels(work: Callable[[], object]) -> int:
    """The number of kernels that a call starts."""
    return sum(category == "Kernel" for category, _ in profiling.profiled(work))


def _host_seconds(work: Callable[[], object]) -> float:
    """The least time in which the host starts the work of a call, without waiting for it."""
    times = []
    for _ in range(5):
        paddle.device.synchronize()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def test_parameters(device, fact):
    """The weights after three steps in float32 of the fast kernels, against the plain ones.

    Losses hide much: AdamW divides a gradient by its size. The difference is in units of the learning rate,
    which is what a step changes a weight by. Each setting that an update has is on: clipping, weight decay,
    layer-wise rates, words that repeat.
    """
    differences = []
    for name, train in (("fine-tuning", _fine_tuned), ("pre-training", _pre_trained)):
        weights = {}
        try:
            for kind in (PLAIN, FAST):
                use_kernels(kind)
                weights[kind] = train()
        finally:
            use_kernels(FAST)
        case = f"the weights after three steps of {name}, in learning rates,"
        largest = 0.0
        for parameter, plain in weights[PLAIN].items():
            largest = max(largest, float(np.abs(weights[FAST][parameter] - plain).max()) / RATE)
        advice = "train with kernels plain"
        differences.append(compare(case, [[1.0 + largest]], [[1.0]], bound=PARAMETERS_BOUND, advice=advice))
    fact(f"after three steps fast weights are within {max(differences):.0e} learning rates of plain ones")


def _update_engine(model: nn.Layer) -> Engine:
    """An engine whose update has every setting."""
    # With a small epsilon a gradient that is rounding alone, such as that of a key's bias, would change its
    # weight by a whole learning rate.
    optimizer = build_optimizer(model, peak_lr=RATE, weight_decay=0.1, layerwise_lr_decay=0.8, eps=1e-3)
    return Engine(model, optimizer, seed=1, clip_norm=0.5, sums=SUMS)


def _weights(engine: Engine) -> dict[str, np.ndarray]:
    """The parameters by name."""
    return {name: parameter.numpy() for name, parameter in engine.parameters.items()}


def _fine_tuned() -> dict[str, np.ndarray]:
    """The weights after three steps of fine-tuning."""
    engine = _update_engine(toys.task_models("float32")[toys.LARGE_WEIGHTS])
    norms: list[float] = []

    def note_norm() -> None:
        """Compute the norm of the gradients before they are clipped, on the host."""
        gradients = [parameter.grad.numpy() for parameter in engine.parameters.values()]
        norms.append(float(np.sqrt(sum(np.square(x.astype(np.float64)).sum() for x in gradients))))

    for _ in range(3):
        batches = toys.send_shared_sentences(engine)
        loss_of = partial(toys.distance_from_ones, engine.model)
        step = engine.step(batches, loss_of, before_update=note_norm)
        advice = "do not train here"
        compare("the norm of the gradients", [step.grad_norm], [norms[-1]], bound=1e-4, advice=advice)
    return _weights(engine)


def _pre_trained() -> dict[str, np.ndarray]:
    """The weights after three steps of pre-training."""
    engine = _update_engine(toys.make_model("float32", initializer_range=toys.LARGE))
    toys.train(engine, "tlm", last=3)
    return _weights(engine)


def test_kernels(device, quick, fact):
    """The fast kernels against the plain ones: equal within rounding, and which to use."""
    amp = device.amps[0]
    losses = {}
    seconds = {}
    try:
        for kind in (PLAIN, FAST):
            use_kernels(kind)
            pre_training = toys.train(toys.engine_of("float32", Precision(amp)), "camlm")
            classifier = toys.task_models("float32")["classifier of 3"]
            fine_tuning = toys.train_task(classifier, amp)
            losses[kind] = pre_training + fine_tuning
            engine = toys.classifier_engine(quick, amp)
            toys.xnli_step(engine)  # the first step also makes the moments
            seconds[kind] = seconds_of(partial(toys.xnli_step, engine))
    finally:
        use_kernels(FAST)
    advice = "train with kernels plain"
    plain_losses = losses[PLAIN]
    case = "training with fast kernels"
    largest = compare(case, losses[FAST], plain_losses, bound=TRAINING_BOUND, advice=advice)
    speed_up = seconds[PLAIN] / seconds[FAST]
    # Tiny shapes say nothing about speed, and the times of equal code differ by some per cent.
    better = "plain" if speed_up < 0.95 and not quick else "fast"
    fact(f"fast within {largest:.0e} of plain, {speed_up:.1f} times as fast")
    fact(f"use kernels {better}")
