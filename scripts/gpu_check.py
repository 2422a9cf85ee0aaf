"""Check that this device computes what a CPU computes in float64: `sh scripts/gpu_check.sh [--quick]`.

Eight checks, one line each: ok, warning, skipped or failed. A failed line says what to do. The last line is
JSON. The exit code is 1 if a check failed. --quick uses tiny shapes.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runtime import prepare

if __name__ == "__main__":
    prepare(quiet=True)

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from model import attention, device, layers, word_table
from model.attention import Layout
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from pretrain.batch import Batch, pack
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from pretrain.pseudo import SecondLanguage
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay
from training.precision import LossScaling, Precision

VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
LANGUAGES = ["en", "de", "fr"]
STEPS = 20
# The largest difference from float64, relative to the largest value.
BOUNDS = {"float64": 1e-9, "float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
PEAKS = {  # dense half precision, TFLOP/s
    "V100": 125, "A100": 312, "H100": 989, "H200": 989, "L4": 121, "4090": 165,
}  # fmt: skip
LOW_SHARE = 0.2  # of the peak, below which there is a warning


class Failed(Exception):
    """A check found wrong numbers. The message says which, and what to do."""


class Skipped(Exception):
    """A check cannot run here. The message says why."""


def dtypes() -> list[str]:
    """What this device computes in."""
    if not device.on_gpu():
        return ["float64", "float32"]
    return ["float64", "float32", "float16"] + ["bfloat16"] * device.has_bf16()


def bound(dtype: str) -> float:
    tf32 = dtype == "float32" and device.on_gpu() and device.has_tf32()
    return BOUNDS["tf32" if tf32 else dtype]


def off(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference, relative to the largest exact value; infinite where a value is not a number."""
    if found.shape != exact.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-30))


def compare(what: str, found: list[np.ndarray], exact: list[np.ndarray], most: float, advice: str) -> float:
    """The largest difference of the arrays. Failed: it is above `most`."""
    worst = max(off(*both) for both in zip(found, exact, strict=True))
    if not worst <= most:
        raise Failed(f"{what} is off by {worst:.1e}, allowed are {most:.0e}; {advice}")
    return worst


@contextlib.contextmanager
def default(dtype: str):
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


@contextlib.contextmanager
def on(place: str):
    before = paddle.device.get_device()
    paddle.set_device(place)
    try:
        yield
    finally:
        paddle.set_device(before)


def values_and_gradients(
    function: Callable[..., Tensor], arrays: Sequence[np.ndarray], dtype: str, seed: int = 5
) -> list[np.ndarray]:
    """function(*arrays) and its gradient by each array, for a fixed gradient from above; float64."""
    inputs = [paddle.to_tensor(array, stop_gradient=False).astype(dtype).detach() for array in arrays]
    for tensor in inputs:
        tensor.stop_gradient = False
    result = function(*inputs)
    above = np.random.default_rng(seed).normal(size=result.shape)
    (result.astype("float64") * paddle.to_tensor(above)).sum().backward()
    return [x.astype("float64").numpy() for x in (result, *(tensor.grad for tensor in inputs))]


def with_parameters(layer: paddle.nn.Layer) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The project's layer as a function of x, weight, bias."""

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        vars(layer).update(weight=weight, bias=bias)  # they hide the parameters
        return layer(x)

    return function


def ours_and_plain(dtype: str) -> dict[str, tuple[Callable, Callable, list[np.ndarray]]]:
    """The project's function, plain Paddle's, and the inputs."""
    draw = np.random.default_rng(1).normal
    x, h = draw(size=[48, 32]), 32
    rows = np.random.default_rng(2).integers(0, 48, 30)
    labels = np.random.default_rng(3).integers(0, 90, 48)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        table = SimpleNamespace(weight=weight, gradient=word_table.TableGradient(weight))
        return word_table.cross_entropy(x, table, bias, paddle.to_tensor(labels)).total

    def plain_loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        logits = F.linear(x, weight.t(), bias)
        return F.cross_entropy(logits, paddle.to_tensor(labels), reduction="sum")

    with default("float64" if dtype == "float64" else "float32"):
        linear, norm = layers.Linear(h, 40), layers.LayerNorm(h, 1e-5)
    return {
        "linear": (with_parameters(linear), F.linear, [x, draw(size=[h, 40]), draw(size=[40])]),
        "norm": (
            with_parameters(norm),
            lambda x, weight, bias: F.layer_norm(x, [h], weight, bias, float(np.float32(1e-5))),
            [x, draw(size=[h]), draw(size=[h])],
        ),
        "gelu": (layers.gelu, F.gelu, [x]),
        "softmax": (F.softmax, lambda x: x.exp() / x.exp().sum(-1, keepdim=True), [x]),
        "gather": (lambda x: layers.at_positions(x, paddle.to_tensor(rows)), lambda x: x[rows.tolist()], [x]),
        "loss": (loss, plain_loss, [x, 0.2 * draw(size=[90, h]), draw(size=[90])]),
    }


def check_device(quick: bool) -> str:
    if not device.on_gpu():
        raise Skipped("no GPU; a machine that has one needs `sh scripts/setup.sh gpu`")
    cuda, cudnn, nccl = paddle.version.cuda(), paddle.version.cudnn(), paddle.version.nccl()
    half = "allowed" if device.has_bf16() else "refused, below capability 8.0"
    return (
        f"{device.summary('float32', 1)}; CUDA {cuda}, cuDNN {cudnn}, NCCL {nccl}; bf16 and FlashMask {half}"
    )


def check_operations(quick: bool) -> str:
    said = []
    for dtype in dtypes():
        worst = 0.0
        for name, (ours, plain, arrays) in ours_and_plain(dtype).items():
            if dtype in ("float16", "bfloat16"):  # the rounding of the inputs is not the operation's
                arrays = [paddle.to_tensor(x).astype(dtype).astype("float64").numpy() for x in arrays]
            with on("cpu"):
                exact = values_and_gradients(plain, arrays, "float64")
            found = values_and_gradients(ours, arrays, dtype)
            advice = "do not train on this device; report it with the output of `sh scripts/doctor.sh`"
            worst = max(worst, compare(f"{name} in {dtype}", found, exact, bound(dtype), advice))
        said.append(f"{dtype} {worst:.0e}")
    return "linear, norm, gelu, softmax, gather, loss against float64: " + ", ".join(said)


def layouts(quick: bool) -> dict[str, Layout]:
    longest = 64 if quick else 512
    lengths = [n for n in (8, 33, 64, 200, 512, 9) if n <= longest]
    return {
        "full": Layout([longest, longest]),
        "packed": Layout(lengths),
        "context": Layout(lengths, [max(1, 3 * n // 4) for n in lengths]),
    }


def dense_attention(layout: Layout, heads: int) -> Callable[..., Tensor]:
    """The definition: scores of all tokens by all tokens, and `Layout.dense`."""
    closed = paddle.to_tensor(np.where(layout.dense(), 0.0, -np.inf))

    def function(x: Tensor, *projections: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, weight).reshape([len(x), heads, -1]).transpose([1, 0, 2]) for weight in projections
        )
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True) * q.shape[-1] ** -0.5 + closed, -1)
        return paddle.matmul(weights, v).transpose([1, 0, 2]).reshape(x.shape)

    return function


def check_attention(quick: bool) -> str:
    heads, h, said = 4, 64, set()
    draw = np.random.default_rng(4).normal
    for name, layout in layouts(quick).items():
        layout = layout.rounded_up
        arrays = [draw(size=[layout.tokens, h]), *(draw(size=[h, h]) * h**-0.5 for _ in range(3))]
        with on("cpu"):
            exact = values_and_gradients(dense_attention(layout, heads), arrays, "float64")
        for dtype in dtypes():
            kernels: list[str] = []

            def ours(x, *projections, layout=layout, kernels=kernels, dtype=dtype):
                with default("float64" if dtype == "float64" else "float32"):
                    layer = attention.SelfAttention(h, heads, 0.0)
                for part, weight in zip((layer.q_proj, layer.k_proj, layer.v_proj), projections):
                    vars(part).update(weight=weight, bias=paddle.zeros([h], dtype))
                vars(layer).update(out_proj=paddle.nn.Identity())
                kernels.append(kernel_of(layer, x))
                return layer(x, layout)

            found = values_and_gradients(ours, arrays, dtype)
            said.add(f"{kernels[0]} ({dtype})")
            advice = "train in float32 only, and report it with the output of `sh scripts/doctor.sh`"
            compare(f"{name} in {dtype} with {kernels[0]}", found, exact, bound(dtype), advice)
    lengths = f"lengths 8 to {64 if quick else 512}"
    return f"full, packed and context layouts, {lengths}: {', '.join(sorted(said))}"


def kernel_of(layer: attention.SelfAttention, x: Tensor) -> str:
    """The kernel that `layer` will use for x."""
    return "FlashMask" if attention.has_flash(x) else "plain"


def tiny_model(dtype: str, dropout: float = 0.0, seed: int = 1, **shape: int) -> PreTrainingModel:
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | shape
    config = ErnieMConfig(**sizes, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    with default(dtype):
        paddle.seed(seed)
        return PreTrainingModel(config, LANGUAGES)


def batch_of(objective: str, step: int, count: int = 8, longest: int = 20, vocabulary=VOCABULARY) -> Batch:
    """Random texts or pairs of a step, masked."""
    draw = np.random.default_rng([OBJECTIVES.index(objective), step])
    second = SecondLanguage(LANGUAGES, {(0, 1): 8, (0, 2): 1})
    maker = Objectives(ObjectiveConfig(), vocabulary, 512, "masks", second)

    def text(language: int) -> Text:
        ids = draw.integers(4, vocabulary.size - 1, draw.integers(longest // 2, longest))
        return Text(ids, language)

    examples = []
    for number in range(count):
        example = text(0) if objective in ("mmlm", "btmlm") else Pair(text(0), text(1))
        examples.append(maker.mask(objective, example, generator(1, step, number)))
    return pack(examples)


def loss_of(engine: Engine, count: int) -> Callable[[Batch], tuple[Tensor, dict]]:
    """The loss of a micro-batch; `count` is the number of masked tokens of the whole step."""
    pseudo = PseudoTokenGenerator(None, VOCABULARY.special_ids, 0.0)

    def loss(batch: Batch) -> tuple[Tensor, dict]:
        if batch.stage1 is not None:
            batch, _ = pseudo.fill(engine.model, batch)
        return masked_lm_loss(engine.model, batch, [1.0 / count] * len(OBJECTIVES)).total, {}

    return loss


def engine_of(dtype: str, precision: Precision | None = None, stage: int = 0) -> Engine:
    model = tiny_model("float64")  # the same weights in every dtype
    start = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    model = tiny_model(dtype)
    for name, parameter in model.named_parameters():
        parameter.set_value(start[name].astype(dtype))
    optimizer = build_optimizer(model, 1e-3, linear_warmup_decay(4, 2 * STEPS))
    return Engine(model, optimizer, seed=1, precision=precision, sharding_stage=stage)


def train(engine: Engine, objective: str, last: int = STEPS) -> list[float]:
    """Train up to step `last`; the processes share the two micro-batches of a step.

    Returns:
        Losses, then the norms of the gradients: AdamW hides a gradient of a wrong size.
    """
    done, rank, world = [], distributed.rank(), distributed.world_size()
    for step in range(engine.steps, last):
        parts = [batch_of(objective, 2 * step + half, 4) for half in range(2)]
        count = sum(int(part.masked.sum()) for part in parts)
        done.append(engine.step(parts[rank::world], loss_of(engine, count)))
    return [step.loss for step in done] + [step.grad_norm for step in done]


def check_dropout(quick: bool) -> str:
    advice = "do not use dropout on this device (0.0 in the configuration), and report it"
    mean = float(layers.dropout(paddle.ones([100_000]), 0.1, True).mean())
    if abs(mean - 1) > 0.01:
        raise Failed(f"the mean of ones after dropout is {mean:.3f}; {advice}")
    batch, found = batch_of("mmlm", 0), []
    model = tiny_model("float32", dropout=0.1)
    model.train()
    for recompute in (False, False, True):
        model.ernie_m.use_recompute(recompute)
        paddle.seed(7)
        loss = masked_lm_loss(model, batch).total
        loss.backward()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradients = np.concatenate([parameter.grad.numpy().ravel() for parameter in used])
        found.append([loss.numpy(), gradients])
        for parameter in used:
            parameter.grad = None
    compare("a second pass with the same seed", found[1], found[0], 0.0, advice)
    compare("recompute", found[2], found[0], 1e-5, "train without run.recompute, and report it")
    return f"mean {mean:.3f}, the same seed gives the same bits, recompute is equal"


def check_training(quick: bool) -> str:
    advice = "do not train in this precision, and report it with the output of `sh scripts/doctor.sh`"
    base, modes = ("float64", {"float32": None}), {}
    if device.on_gpu():
        base = ("float32", {})
        modes = {"bf16 O1": "bf16"} if device.has_bf16() else {}
        modes["fp16 O1"] = "fp16"
    exact = {name: train(engine_of(base[0]), name) for name in OBJECTIVES}
    said = []
    for mode in {**base[1], **modes}:
        amp, most = modes.get(mode), (5e-2 if mode in modes else 1e-3)
        worst = 0.0
        for name, losses in exact.items():
            precision = None if amp is None else Precision(amp)
            found = train(engine_of("float32", precision), name)
            worst = max(
                worst, compare(f"{name} in {mode}", [np.array(found)], [np.array(losses)], most, advice)
            )
        said.append(f"{mode} within {worst:.0e} of {base[0]}")
    if device.on_gpu():
        engine = engine_of("float32", Precision("fp16", loss_scaling=LossScaling(init_loss_scaling=2.0**60)))
        train(engine, "mmlm", 40)
        if not 0 < engine.skipped < 40:
            raise Failed(f"a forced overflow of fp16 skipped {engine.skipped} of 40 steps; {advice}")
        said.append(f"overflow: {engine.skipped} steps skipped")
    first, second = engine_of("float32"), engine_of("float32")
    train(first, "mmlm", STEPS // 2)
    state, weights = saved(first.state_dict()), [p.numpy().copy() for p in first.parameters.values()]
    whole = train(first, "mmlm")
    for parameter, weight in zip(second.parameters.values(), weights):
        parameter.set_value(weight)
    second.load_state_dict(state)
    most = 1e-4 if device.on_gpu() else 0.0
    compare("a resumed run", [np.array(train(second, "mmlm"))], [np.array(whole)], most, "report it")
    return f"{STEPS} steps of each objective: {'; '.join(said)}; resumed: equal"


def saved(state: dict) -> dict:
    """A copy that later steps do not change."""
    arrays = {name: tensor.numpy().copy() for name, tensor in state["optimizer"].items()}
    return {**state, "optimizer": arrays}


def check_waits(quick: bool) -> str:
    if not device.on_gpu():
        raise Skipped("a CPU has nothing to wait for")
    calls = {"uploads": 0, "reads": 0}
    engine = engine_of("float32")
    train(engine, "mmlm", 1)

    def counted(name: str, function: Callable) -> Callable:
        def call(*args, **options):
            calls[name] += 1
            return function(*args, **options)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in ((paddle, "to_tensor"), (paddle.Tensor, "numpy"), (paddle.Tensor, "item")):
            kind = "uploads" if owner is paddle else "reads"
            stack.enter_context(mock.patch.object(owner, name, counted(kind, getattr(owner, name))))
        train(engine, "mmlm", 2)
    return f"a step of two micro-batches: {calls['uploads']} uploads, {calls['reads']} reads"


def worker(folder: Path, stage: int) -> None:
    """One process of check 7: process 0 writes the losses to `folder`."""
    gpu = os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo"
    distributed.init(use_gpu=gpu, sharding_stage=stage)
    losses = {name: train(engine_of("float64", stage=stage), name, 4) for name in OBJECTIVES}
    if distributed.is_main():
        (folder / "losses.json").write_text(json.dumps(losses))


def two_processes(folder: Path, stage: int, command: Sequence[str]) -> dict[str, list[float]]:
    """The losses of `worker` on two processes."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    running = []
    for rank, address in enumerate(addresses):
        place = {
            "PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": "2", "PADDLE_CURRENT_ENDPOINT": address,
            "PADDLE_TRAINER_ENDPOINTS": ",".join(addresses), "FLAGS_selected_gpus": str(rank),
        }  # fmt: skip
        place |= {} if device.on_gpu() else {"PADDLE_DISTRI_BACKEND": "gloo", "CUDA_VISIBLE_DEVICES": ""}
        line = [*command, "--worker", str(folder), "--stage", str(stage)]
        running.append(
            subprocess.Popen(
                line, env=os.environ | place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            if process.returncode:
                last = errors.strip().splitlines()[-1:] or ["no message"]
                raise Failed(f"a process of stage {stage} ended with {process.returncode}: {last[0][:200]}")
    except subprocess.TimeoutExpired:
        raise Failed(
            f"two processes of stage {stage} did not end; try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"
        ) from None
    finally:
        for process in running:
            process.kill()
            process.wait()
    return json.loads((folder / "losses.json").read_text())


def check_processes(quick: bool, command: Sequence[str] = (sys.executable, __file__)) -> str:
    if device.on_gpu() and paddle.device.cuda.device_count() < 2:
        raise Skipped("one GPU; NCCL needs two")
    exact = {name: train(engine_of("float64"), name, 4) for name in OBJECTIVES}
    advice = "use one process, and report it; NCCL_DEBUG=INFO says more"
    for stage in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            found = two_processes(Path(folder), stage, command)
        for name, losses in exact.items():
            what = f"{name} on two processes, stage {stage},"
            compare(what, [np.array(found[name])], [np.array(losses)], 1e-9, advice)
    backend = "NCCL" if device.on_gpu() else "gloo"
    return f"{backend}, float64, stages 0 and 1: two processes equal one"


def peak() -> tuple[float, str]:
    """FLOP/s of this device: by the card's name, or else measured by a product."""
    if device.on_gpu():
        name = paddle.device.cuda.get_device_name()
        for card, tflops in PEAKS.items():
            if card in name:
                return tflops * 1e12, f"{card}'s {tflops} TFLOP/s"
    half = "float16" if device.on_gpu() else "float32"
    size = 8192 if device.on_gpu() else 768
    x, best = paddle.ones([size, size], half), np.inf
    for _ in range(4):
        began = time.perf_counter()
        float(paddle.matmul(x, x)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best, "the speed of a large product"


def check_speed(quick: bool) -> tuple[str, str]:
    """("ok" or "warning", line): masked-LM steps of base size."""
    shape = {} if quick else {
        "vocab_size": 250_002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072,
    }  # fmt: skip
    amp = "none"
    if device.on_gpu():
        amp = "bf16" if device.has_bf16() else "fp16"
    model = tiny_model("float32", 0.1, **shape)
    engine = Engine(model, build_optimizer(model, 1e-4), precision=Precision(amp))
    count = 8 if quick else (128 if device.on_gpu() else 8)
    size = shape.get("vocab_size", 100)
    vocabulary = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=size - 1, size=size)
    batch = batch_of("mmlm", 0, count, 128, vocabulary)
    masked, best = int(batch.masked.sum()), np.inf
    for _ in range(5 if device.on_gpu() else 3):
        began = time.perf_counter()
        engine.step([batch], loss_of(engine, masked))
        best = min(best, time.perf_counter() - began)
    layer = sum(p.size for p in model.ernie_m.encoder.parameters() if p.ndim == 2)
    table = model.ernie_m.embeddings.word_embeddings.weight.size
    most, of = peak()
    share = 6 * (layer * batch.tokens + table * masked) / best / most
    line = (
        f"{'tiny' if quick else 'base'} size, {amp}: {batch.tokens / best:,.0f} tokens/s, {share:.0%} of {of}"
    )
    if device.on_gpu():
        line += f", {paddle.device.cuda.max_memory_allocated() / 1e9:.1f} GB"
        if share < LOW_SHARE and not quick:
            return "warning", f"{line}; low: look at nvidia-smi for another program, heat, or a power limit"
    return "ok", line


CHECKS = {
    "device": check_device, "operations": check_operations, "attention": check_attention,
    "dropout": check_dropout, "training": check_training, "host waits": check_waits,
    "processes": check_processes, "speed": check_speed,
}  # fmt: skip


def run_checks(quick: bool, checks: dict[str, Callable] = CHECKS) -> int:
    """Run the checks, print a line for each and the JSON. Returns the exit code."""
    results = []
    for number, (name, check) in enumerate(checks.items(), 1):
        began = time.perf_counter()
        try:
            said = check(quick)
            result, said = said if isinstance(said, tuple) else ("ok", said)
        except Skipped as reason:
            result, said = "skipped", str(reason)
        except Exception as error:  # whatever a driver or Paddle raises is a failed check
            result, said = "failed", str(error) if isinstance(error, Failed) else f"{error!r:.300}"
            said += "" if isinstance(error, Failed) else "; see docs/scale.md and `sh scripts/doctor.sh`"
        seconds = round(time.perf_counter() - began, 1)
        print(f"{number} {name}: {result}: {said} ({seconds} s)", flush=True)
        results.append({"check": name, "result": result, "said": said, "seconds": seconds})
    failed = any(one["result"] == "failed" for one in results)
    print(json.dumps({"ok": not failed, "device": paddle.device.get_device(), "checks": results}))
    return int(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        worker(args.worker, args.stage)
        return
    distributed.init()
    sys.exit(run_checks(args.quick))


if __name__ == "__main__":
    main()
