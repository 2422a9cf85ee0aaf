"""The checks of `scripts/gpu_check.py` that compare numbers with those of a CPU in float64."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model import attention, cpu, device, word_table
from model.attention import Layout
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain.batch import Batch, pack
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, SecondLanguage, Text
from pretrain.reader import StepBatches
from pretrain.trainer import SUMS, train_step
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay
from training.precision import LossScaling, Precision

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
LANGUAGES = ["en", "de", "fr"]
STEPS = 20
# The largest difference from float64, relative to the largest value.
BOUNDS = {"float64": 1e-9, "float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
HALF = ("float16", "bfloat16")
REPORT = "report it with the output of `sh scripts/gpu_check.sh`"


class Failed(Exception):
    """A check found wrong numbers. The message says which, and what to do."""


class Skipped(Exception):
    """A check cannot run here. The message says why."""


def dtypes() -> list[str]:
    """What this device computes in."""
    if not device.on_gpu():
        return ["float64", "float32"]
    return ["float64", "float32", "float16"] + ["bfloat16"] * device.has_bf16()


def compare(what: str, found: Sequence, exact: Sequence, dtype: str | float, advice: str) -> float:
    """The largest difference of the arrays, relative to the largest exact value.

    Args:
        dtype: what `found` was computed in, or the largest difference allowed.

    Raises:
        Failed: a difference is too large, or a value is not a number.
    """
    tf32 = dtype == "float32" and device.on_gpu() and device.has_tf32()
    most, worst = BOUNDS["tf32" if tf32 else dtype] if isinstance(dtype, str) else dtype, 0.0
    for ours, theirs in zip(map(np.asarray, found), map(np.asarray, exact), strict=True):
        off = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
        worst = max(worst, float(off) if np.isfinite(ours).all() else np.inf)
    if worst > most:
        raise Failed(f"{what} is off by {worst:.1e}, allowed are {most:.0e}; {advice}, and {REPORT}")
    return worst


@contextlib.contextmanager
def default(dtype: str) -> Iterator[None]:
    """Layers are made in this type."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    yield
    paddle.set_default_dtype(before)


def values_and_gradients(function: Callable, arrays: Sequence[np.ndarray], dtype: str) -> list[np.ndarray]:
    """function(*arrays) and its gradient by each array, for a fixed gradient from above; float64."""
    inputs = [paddle.to_tensor(array).astype(dtype) for array in arrays]
    for tensor in inputs:
        tensor.stop_gradient = False
    result = function(*inputs)
    above = paddle.to_tensor(np.random.default_rng(5).normal(size=result.shape))
    (result.astype("float64") * above).sum().backward()
    return [x.astype("float64").numpy() for x in (result, *(tensor.grad for tensor in inputs))]


def exactly(function: Callable, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`values_and_gradients` on the CPU in float64."""
    before = paddle.device.get_device()
    paddle.set_device("cpu")
    try:
        return values_and_gradients(function, arrays, "float64")
    finally:
        paddle.set_device(before)


def operations() -> dict[str, tuple[Callable, list[np.ndarray]]]:
    """What a GPU computes a step with, and the inputs."""
    rng, h = np.random.default_rng(1), 32
    x, rows, labels = rng.normal(size=[48, h]), rng.integers(0, 48, 30), rng.integers(0, 90, 48)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        table = SimpleNamespace(weight=weight, gradient=word_table.TableGradient(weight))
        return word_table.cross_entropy(x, table, bias, paddle.to_tensor(labels)).total

    return {
        "linear": (F.linear, [x, rng.normal(size=[h, 40]), rng.normal(size=[40])]),
        "norm": (lambda x, *parameters: F.layer_norm(x, [h], *parameters), [x, *rng.normal(size=[2, h])]),
        "gelu": (F.gelu, [x]),
        "softmax": (F.softmax, [x]),
        "gather": (lambda x: paddle.gather(x, paddle.to_tensor(rows)), [x]),
        "loss": (loss, [x, 0.2 * rng.normal(size=[90, h]), rng.normal(size=[90])]),
    }


def check_operations(quick: bool) -> str:
    said = []
    for dtype in dtypes():
        worst = 0.0
        for name, (function, arrays) in operations().items():
            if dtype in HALF:  # the rounding of the inputs is not the operation's
                arrays = [paddle.to_tensor(x).astype(dtype).astype("float64").numpy() for x in arrays]
            found, exact = values_and_gradients(function, arrays, dtype), exactly(function, arrays)
            worst = max(worst, compare(f"{name} in {dtype}", found, exact, dtype, "do not train here"))
        said.append(f"{dtype} {worst:.0e}")
    return f"{', '.join(operations())} against float64: {', '.join(said)}"


def check_attention(quick: bool) -> str:
    """Queries, keys and values in, against scores of all tokens by all tokens and `Layout.dense`."""
    heads, h, longest, said = 4, 64, 64 if quick else 512, set()
    lengths = [n for n in (8, 33, 64, 200, 512, 9) if n <= longest]
    layouts = {
        "full": Layout([longest, longest]),
        "packed": Layout(lengths),
        "context": Layout(lengths, [max(1, 3 * n // 4) for n in lengths]),
    }
    layer = attention.SelfAttention(h, heads, 0.0)
    parts = {f"{name}_proj": lambda x, i=i: x[:, i * h : (i + 1) * h] for i, name in enumerate("qkv")}
    vars(layer).update(out_proj=paddle.nn.Identity(), **parts)

    def dense(x: Tensor) -> Tensor:
        q, k, v = x.reshape([len(x), 3, heads, -1]).transpose([1, 2, 0, 3])  # [heads, N, D] each
        closed = paddle.to_tensor(np.where(layout.dense(), 0.0, -np.inf))
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True) * q.shape[-1] ** -0.5 + closed, -1)
        return paddle.matmul(weights, v).transpose([1, 0, 2]).reshape([len(x), h])

    for name, layout in layouts.items():
        layout = layout.rounded_up
        x = [np.random.default_rng(4).normal(size=[layout.tokens, 3 * h])]
        exact = exactly(dense, x)
        for dtype in dtypes():
            kernel = "FlashMask" if device.flash_in(dtype in HALF) else "plain"
            said.add(f"{kernel} ({dtype})")
            found = values_and_gradients(lambda x: layer(x, layout), x, dtype)  # noqa: B023 - called here
            compare(f"{name} in {dtype} with {kernel}", found, exact, dtype, "train in float32 only")
    return f"full, packed and context layouts, lengths 8 to {longest}: {', '.join(sorted(said))}"


def make_model(dtype: str, dropout: float = 0.0, **shape: int) -> PreTrainingModel:
    """A tiny model, or one of another shape."""
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | shape
    config = ErnieMConfig(**sizes, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    with default(dtype):
        paddle.seed(1)
        return PreTrainingModel(config, LANGUAGES)


def batch_of(
    objective: str, step: int, count: int = 8, longest: int = 20, vocabulary: Vocabulary = VOCABULARY
) -> Batch:
    """Random texts or pairs of a step, masked."""
    rng = np.random.default_rng([OBJECTIVES.index(objective), step])
    second = SecondLanguage(LANGUAGES, {(0, 1): 8, (0, 2): 1})
    maker = Objectives(ObjectiveConfig(), vocabulary, 512, "masks", second)

    def text(language: int) -> Text:
        return Text(rng.integers(4, vocabulary.size - 1, rng.integers(longest // 2, longest)), language)

    examples = []
    for number in range(count):
        example = text(0) if objective in ("mmlm", "btmlm") else Pair(text(0), text(1))
        examples.append(maker.mask(objective, example, generator(1, step, number)))
    return pack(examples)


def engine_of(dtype: str, precision: Precision | None = None, stage: int = 0) -> Engine:
    """The same weights in every dtype."""
    start = {name: parameter.numpy() for name, parameter in make_model("float64").named_parameters()}
    model = make_model(dtype)
    for name, parameter in model.named_parameters():
        parameter.set_value(start[name].astype(dtype))
    optimizer = build_optimizer(model, 1e-3, linear_warmup_decay(4, 2 * STEPS))
    return Engine(model, optimizer, seed=1, precision=precision, sharding_stage=stage, sums=SUMS)


def train(engine: Engine, objective: str, last: int = STEPS) -> list[float]:
    """Train up to step `last`; the processes share the two micro-batches of a step.

    Returns:
        Losses, then the norms of the gradients: AdamW hides a gradient of a wrong size.
    """
    done, rank, world = [], distributed.rank(), distributed.world_size()
    pseudo_tokens = PseudoTokenGenerator(None, VOCABULARY.special_ids)
    for step in range(engine.steps, last):
        parts = [batch_of(objective, 2 * step + half, 4) for half in range(2)]
        masked = sum(part.masked for part in parts).tolist()
        work = StepBatches(parts[rank::world], {objective: 1.0}, masked, {})
        done.append(train_step(engine, pseudo_tokens, work))
    return [step.loss for step in done] + [step.grad_norm for step in done]


def check_dropout(quick: bool) -> str:
    advice = "train without dropout (0.0 in the configuration)"
    mean = float(cpu.dropout(paddle.ones([100_000]), 0.1, True).mean())
    compare("the mean of ones after dropout", [mean], [1.0], 1e-2, advice)
    batch, found, model = batch_of("mmlm", 0), [], make_model("float32", dropout=0.1)
    model.train()
    for recompute in (False, False, True):
        model.ernie_m.use_recompute(recompute)
        paddle.seed(7)
        loss = masked_lm_loss(model, batch).total
        loss.backward()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        found.append([loss.numpy(), np.concatenate([p.grad.numpy().ravel() for p in used])])
        for parameter in used:
            parameter.grad = None
    compare("a second pass with the same seed", found[1], found[0], 0.0, advice)
    compare("recompute", found[2], found[0], 1e-5, "train without run.recompute")
    return f"mean {mean:.3f}, the same seed gives the same bits, recompute is equal"


def check_training(quick: bool) -> str:
    gpu, base, modes, said = device.on_gpu(), "float64", {"float32": None}, []
    if gpu:
        base, modes = "float32", {**({"bf16 O1": "bf16"} if device.has_bf16() else {}), "fp16 O1": "fp16"}
    exact = {name: train(engine_of(base), name) for name in OBJECTIVES}
    for mode, amp in modes.items():
        worst, most, advice = 0.0, 5e-2 if amp else 1e-3, f"do not train in {mode}"
        for name, losses in exact.items():
            found = train(engine_of("float32", amp and Precision(amp)), name)
            worst = max(worst, compare(f"{name} in {mode}", found, losses, most, advice))
        said.append(f"{mode} within {worst:.0e} of {base}")
    if gpu:
        engine = engine_of("float32", Precision("fp16", loss_scaling=LossScaling(init_loss_scaling=2.0**60)))
        train(engine, "mmlm", 40)
        if not 0 < engine.skipped < 40:
            raise Failed(f"fp16 that overflows skipped {engine.skipped} of 40 steps; train in bf16; {REPORT}")
        said.append(f"overflow: {engine.skipped} steps skipped")
    first, second = engine_of("float32"), engine_of("float32")
    train(first, "mmlm", STEPS // 2)
    state = first.state_dict()
    moments = {name: tensor.numpy().copy() for name, tensor in state["optimizer"].items()}
    for name, parameter in second.parameters.items():
        parameter.set_value(first.parameters[name].numpy())
    second.load_state_dict({**state, "optimizer": moments})
    whole = train(first, "mmlm")
    compare("a resumed run", train(second, "mmlm"), whole, 1e-4 if gpu else 0.0, "do not stop a run")
    return f"{STEPS} steps of each objective: {'; '.join(said)}; resumed: equal"
