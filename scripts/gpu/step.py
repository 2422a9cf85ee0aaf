"""One fine-tuning step: its kernels, its copies, the host's time; fast kernels against plain ones."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model import device
from model.batch import TokenBatch
from model.heads import SequenceClassifier
from scripts.gpu import toys
from scripts.gpu.report import REPORT, TRAINING_BOUND, Failed, Skipped, compare
from scripts.gpu.training import amps
from training.engine import Engine
from training.precision import Precision

# The copies to the card that a step makes beside those of FlashMask, whose backward pass copies its seed in
# each layer (flash_attn_bwd in csrc/capi/flash_attn.cu of PaddlePaddle/flash-attention): the batch; in fp16
# whether the update is skipped; two arrays each time that gradients are divided, by the loss scale or to clip
# them (CheckFiniteAndUnscaleKernel in paddle/phi/kernels/gpu/amp_kernel.cu). The host waits for none of them.
# In all, base makes 13 to 15 on an A100 in bf16, 4 to 6 on a V100 in fp16.
OTHER_UPLOADS = 6
# amp -> the copies from the card that a step needs. The host waits for each.
MOST_READS = {"bf16": 1, "fp16": 2}  # the totals; in fp16 also whether the scaler found an overflow
XNLI_ROWS = 32
XNLI_LENGTH = 50  # rows of 25 to 50 tokens, 37 in the mean


def profiled(work: Callable[[], object]) -> list[tuple[str, str]]:
    """Call `work` under Paddle's profiler, and return (category, name) of each event.

    Kernels on the GPU are of the category "Kernel".
    """
    from paddle.profiler import Profiler, ProfilerTarget

    targets = [ProfilerTarget.CPU]
    if device.on_gpu():
        targets.append(ProfilerTarget.GPU)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with Profiler(targets=targets, on_trace_ready=lambda profiler: profiler.export(str(path))):
            work()
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return [(event["cat"], event["name"]) for event in events if "cat" in event]


def seconds_of(work: Callable[[], object], repeats: int = 5) -> float:
    """The least seconds of a call, until the device has finished."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.on_gpu():
            paddle.device.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def classifier_engine(quick: bool, amp: str) -> Engine:
    """An engine for XNLI."""
    paddle.seed(1)
    shape = toys.SHAPE if quick else toys.BASE_SHAPE
    model = SequenceClassifier(toys.config_of(shape, dropout=0.1), num_labels=3)
    return toys.engine_for(model, Precision(amp))


def send_xnli(engine: Engine) -> TokenBatch:
    """A batch as XNLI has it, on the device."""
    words = engine.model.ernie_m.config.vocab_size
    return toys.send_sentences(engine, rows=XNLI_ROWS, longest=XNLI_LENGTH, words=words)


def xnli_loss(engine: Engine, batch: TokenBatch) -> tuple[Tensor, dict]:
    """The loss of a batch with labels 0, 1, 2, 0, 1, ..., and no sums to log."""
    labels = paddle.arange(XNLI_ROWS) % 3
    return F.cross_entropy(engine.model(batch).astype("float32"), labels), {}


def xnli_step(engine: Engine) -> None:
    """A step of XNLI, with its upload."""
    engine.step([send_xnli(engine)], partial(xnli_loss, engine))


class Phase(NamedTuple):
    """What one phase of a step costs."""

    kernels: int  # started
    milliseconds: float  # of the host


def check_step(quick: bool) -> str:
    """Kernels and host time of a fine-tuning step by phase, and how often it copies from and to the card."""
    if not device.on_gpu():
        raise Skipped("no GPU, so no kernels and nothing to wait for")
    amp = amps()[0]
    engine = classifier_engine(quick, amp)
    query_dtypes: set[paddle.dtype] = set()  # of the queries with which FlashMask is called
    flashmask = F.flashmask_attention

    def recorded(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        query_dtypes.add(query.dtype)
        return flashmask(query, *arguments, **options)

    with mock.patch.object(F, "flashmask_attention", recorded):
        xnli_step(engine)  # the first step also makes the moments
        events = profiled(partial(xnli_step, engine))
    kernels = [name.lower() for category, name in events if category == "Kernel"]
    attention = "padded groups"
    if device.uses_flash_mask(half=True):
        attention = "FlashMask in bfloat16"
        check_flash_ran(query_dtypes, kernels)
    layers = engine.model.ernie_m.config.num_hidden_layers
    copies = check_copies([name for _, name in events], amp, layers)
    phases = phases_of(engine, step_kernels=len(kernels))
    costs = [f"{name} {phase.kernels} and {phase.milliseconds:.1f} ms" for name, phase in phases.items()]
    return f"{attention}; kernels and host time of an XNLI step: {', '.join(costs)}; {copies}"


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
    batch = send_xnli(engine)

    def forward() -> Tensor:
        with engine.autocast():
            loss, _sums = xnli_loss(engine, batch)
        return loss

    def forward_and_backward() -> None:
        forward().backward()
        for parameter in engine.model.parameters():
            parameter.grad = None

    forward_kernels = _count_kernels(forward)
    passes_kernels = _count_kernels(forward_and_backward)
    forward_ms = 1e3 * _host_seconds(forward)
    passes_ms = 1e3 * _host_seconds(forward_and_backward)
    step_ms = 1e3 * _host_seconds(partial(xnli_step, engine))
    return {
        "forward": Phase(forward_kernels, forward_ms),
        "backward": Phase(passes_kernels - forward_kernels, passes_ms - forward_ms),
        "update": Phase(step_kernels - passes_kernels, step_ms - passes_ms),
    }


def _count_kernels(work: Callable[[], object]) -> int:
    """The number of kernels that a call starts."""
    return sum(category == "Kernel" for category, _ in profiled(work))


def _host_seconds(work: Callable[[], object]) -> float:
    """The least time in which the host starts the work of a call, without waiting for it."""
    times = []
    for _ in range(5):
        paddle.device.synchronize()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def check_kernels(quick: bool) -> str:
    """The fast kernels against the plain ones: equal within rounding, and which to use."""
    amp = amps()[0]
    losses = {}
    seconds = {}
    try:
        for kind in (device.PLAIN, device.FAST):
            device.use_kernels(kind)
            pre_training = toys.train(toys.engine_of("float32", Precision(amp)), "camlm")
            classifier = toys.task_models("float32")["classifier of 3"]
            fine_tuning = toys.train_task(classifier, amp)
            losses[kind] = pre_training + fine_tuning
            engine = classifier_engine(quick, amp)
            xnli_step(engine)  # the first step also makes the moments
            seconds[kind] = seconds_of(partial(xnli_step, engine))
    finally:
        device.use_kernels(device.FAST)
    advice = "train with kernels plain"
    plain_losses = losses[device.PLAIN]
    case = "training with fast kernels"
    largest = compare(case, losses[device.FAST], plain_losses, bound=TRAINING_BOUND, advice=advice)
    speed_up = seconds[device.PLAIN] / seconds[device.FAST]
    # Tiny shapes say nothing about speed, and the times of equal code differ by some per cent.
    better = "plain" if speed_up < 0.95 and not quick else "fast"
    return f"fast within {largest:.0e} of plain, {speed_up:.1f} times as fast; use kernels {better}"
