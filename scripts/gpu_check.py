"""Check that this device computes what a CPU computes in float64: `sh scripts/gpu_check.sh [--quick]`.

One line for each check: ok, skipped or failed. The first line is what a bug report needs. A failed line says
what to do. The last line is JSON. The exit code is 1 if a check failed. --quick uses tiny shapes.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import __version__
from utils.runtime import prepare, read_cpu

if __name__ == "__main__":
    prepare(quiet=True)

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from benchmarks import plan
from evaluation.encode import encode
from model import device, layers, masked_loss
from model.attention import FlashMask, mask_class
from model.config import ErnieMConfig
from model.heads import PreTrainingModel
from model.layout import Layout
from model.word_table import TableGradient
from pretrain.batch import Batch
from pretrain.btmlm import PseudoTokenGenerator
from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.loss import masked_lm_loss, to_device
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, SecondLanguage, Text
from pretrain.reader import StepBatches
from pretrain.report import SUMS
from pretrain.shares import MONOLINGUAL
from pretrain.task import objectives_loss, send_step
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer
from training.precision import LossScaling, Precision
from training.schedules import linear_warmup_decay

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES, STEPS = ["en", "de", "fr"], 20
VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
# The largest difference from float64, relative to the largest value.
BOUNDS = {"float64": 1e-9, "float32": 1e-5, "tf32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
HALF = ("float16", "bfloat16")
LOW_SHARE, LOW_MARGIN, MUCH_MEMORY = 0.2, 2.0, 1.3  # beyond which there is a warning
# The dense products of a card in half precision, in TFLOP/s (its data sheet).
TFLOPS = {"V100": 125, "A100": 312, "H100": 989, "H200": 989, "L4": 121, "4090": 165}
REPORT = "report it with the output of `sh scripts/gpu_check.sh`"


class Failed(Exception):
    """A check found wrong numbers. The message says which, and what to do."""


class Skipped(Exception):
    """A check cannot run here. The message says why."""


def check_environment(quick: bool) -> str:
    """What a bug report needs."""

    def output(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return "; ".join(done.stdout.splitlines()) or f"{command.split()[0]} says nothing"

    cpu = read_cpu()
    return "; ".join([
        f"ernie-m {__version__}, commit {output('git describe --always --dirty')}",
        f"{platform.platform()}, Python {platform.python_version()}",
        f"paddlepaddle {paddle.__version__} for CUDA {paddle.version.cuda()}, numpy {np.__version__}",
        f"{cpu.vendor or platform.machine()}, {cpu.cores} cores, {cpu.memory / 2**30:.1f} GiB",
        prepare(quiet=True).partition(";")[0],
        output("nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader"),
    ])  # fmt: skip


def check_device(quick: bool) -> str:
    if not device.on_gpu():
        raise Skipped("no GPU; a machine that has one needs `sh scripts/setup.sh gpu`")
    half = "allowed" if device.has_bf16() else "refused, below capability 8.0"
    versions = f"cuDNN {paddle.version.cudnn()}, NCCL {paddle.version.nccl()}"
    return f"{device.summary('float32', 1)}; {versions}; bf16 and FlashMask {half}"


def compare(what: str, found: Sequence, exact: Sequence, most: float, advice: str) -> float:
    """The largest difference of the arrays, relative to the largest exact value. Failed: above `most`."""
    worst = 0.0
    for ours, theirs in zip(map(np.asarray, found), map(np.asarray, exact), strict=True):
        off = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
        worst = max(worst, float(off) if np.isfinite(ours).all() else np.inf)
    if worst > most:
        raise Failed(f"{what} is off by {worst:.1e}, allowed are {most:.0e}; {advice}, and {REPORT}")
    return worst


def computed(
    function: Callable, arrays: Sequence[np.ndarray], dtype: str = "float64", place: str = "cpu"
) -> list[np.ndarray]:
    """function(*arrays) and its gradient by each array, for a fixed gradient from above; float64."""
    before = paddle.device.get_device()
    paddle.set_device(place)
    try:
        inputs = [paddle.to_tensor(array).astype(dtype) for array in arrays]
        for tensor in inputs:
            tensor.stop_gradient = False
        result = function(*inputs)
        above = paddle.to_tensor(np.random.default_rng(5).normal(size=result.shape))
        (result.astype("float64") * above).sum().backward()
        return [x.astype("float64").numpy() for x in (result, *(tensor.grad for tensor in inputs))]
    finally:
        paddle.set_device(before)


def largest_differences(cases: dict[str, tuple[Callable, Callable, Sequence]], advice: str) -> str:
    """Of each dtype of this device. `cases`: name -> (function, the same on a CPU, input arrays)."""
    here, gpu, said = paddle.device.get_device(), device.on_gpu(), []
    for dtype in ["float64", "float32", *["float16"] * gpu, *["bfloat16"] * (gpu and device.has_bf16())]:
        tf32, worst = dtype == "float32" and gpu and device.has_tf32(), 0.0
        for name, (function, exact, arrays) in cases.items():
            if dtype in HALF:  # the rounding of the inputs is not the operation's
                arrays = [paddle.to_tensor(x).astype(dtype).astype("float64").numpy() for x in arrays]
            found, expected = computed(function, arrays, dtype, here), computed(exact, arrays)
            most = BOUNDS["tf32" if tf32 else dtype]
            worst = max(worst, compare(f"{name} in {dtype}", found, expected, most, advice))
        said.append(f"{dtype} {worst:.0e}")
    return f"{', '.join(cases)} against float64: {', '.join(said)}"


def check_operations(quick: bool) -> str:
    """What a GPU computes a step with."""
    rng, h = np.random.default_rng(1), 32
    x, rows, labels = rng.normal(size=[48, h]), rng.integers(0, 48, 30), rng.integers(0, 90, 48)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        table = SimpleNamespace(weight=weight, gradient=TableGradient(weight), in_bfloat16=False)
        return masked_loss.cross_entropy(x, table, bias, paddle.to_tensor(labels)).total

    operations = {
        "linear": (F.linear, [x, rng.normal(size=[h, 40]), rng.normal(size=[40])]),
        "norm": (lambda x, *parameters: F.layer_norm(x, [h], *parameters), [x, *rng.normal(size=[2, h])]),
        "gelu": (F.gelu, [x]),
        "softmax": (F.softmax, [x]),
        "gather": (lambda x: paddle.gather(x, paddle.to_tensor(rows)), [x]),
        "loss": (loss, [x, 0.2 * rng.normal(size=[90, h]), rng.normal(size=[90])]),
    }
    cases = {name: (function, function, arrays) for name, (function, arrays) in operations.items()}
    return largest_differences(cases, "do not train here")


def check_attention(quick: bool) -> str:
    """Queries, keys and values in, against scores of all tokens by all tokens and `Layout.dense`."""
    heads, h, longest = 4, 64, 64 if quick else 512
    lengths = [n for n in (8, 33, 64, 200, 512, 9) if n <= longest]
    layouts = {
        "full": Layout([longest, longest]),
        "packed": Layout(lengths),
        "context": Layout(lengths, [max(1, 3 * n // 4) for n in lengths]),
    }

    def dense(x: Tensor, layout: Layout) -> Tensor:
        q, k, v = x.reshape([len(x), 3, heads, -1]).transpose([1, 2, 0, 3])  # [heads, N, D] each
        closed = paddle.to_tensor(np.where(layout.dense(), 0.0, -np.inf))
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True) * q.shape[-1] ** -0.5 + closed, -1)
        return paddle.matmul(weights, v).transpose([1, 0, 2]).reshape([len(x), h])

    def packed(x: Tensor, layout: Layout) -> Tensor:
        flash = device.flash_in(half=str(x.dtype).endswith(HALF))
        mask = device.upload((FlashMask if flash else mask_class()).of(layout))
        query, key, value = x.split(3, axis=-1)
        return mask.attend(query, key, value, heads, dropout_rate=0.0)

    cases = {}
    for name, layout in layouts.items():
        layout = layout.padded_to(FlashMask.multiple)
        x = np.random.default_rng(4).normal(size=[layout.tokens, 3 * h])
        cases[name] = partial(packed, layout=layout), partial(dense, layout=layout), [x]
    said = f"{largest_differences(cases, 'train in float32 only')}; lengths 8 to {longest}"
    return said + "; FlashMask in half precision" * device.flash_in(half=True)


def make_model(
    dtype: str, dropout: float = 0.0, vocab_size: int = 100, hidden: int = 32, depth: int = 2, heads: int = 4
) -> PreTrainingModel:
    """The same weights in every dtype."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    paddle.seed(1)
    return PreTrainingModel(ErnieMConfig(vocab_size, hidden, depth, heads, **drop), LANGUAGES).to(dtype=dtype)


def batch_of(objective: str, step: int, count: int = 8, longest: int = 20) -> Batch:
    """Random texts or pairs of a step, masked."""
    rng = np.random.default_rng([OBJECTIVES.index(objective), step])
    second = SecondLanguage(LANGUAGES, {(0, 1): 8, (0, 2): 1})
    maker = Objectives(ObjectiveConfig(), VOCABULARY, 512, "masks", second)

    def text(language: int) -> Text:
        return Text(rng.integers(4, VOCABULARY.mask_id, rng.integers(longest // 2, longest)), language)

    single = objective in MONOLINGUAL
    examples = [text(0) if single else Pair(text(0), text(1)) for _ in range(count)]
    return maker.batch(objective, examples, [generator(1, step, number) for number in range(count)])


def engine_of(dtype: str, precision: Precision | None = None, stage: int = 0) -> Engine:
    model = make_model(dtype)
    optimizer = build_optimizer(model, 1e-3, linear_warmup_decay(4, 2 * STEPS))
    return Engine(model, optimizer, seed=1, precision=precision, sharding_stage=stage, sums=SUMS)


def train(engine: Engine, objective: str, last: int = STEPS) -> list[float]:
    """Losses up to step `last`, then the norms of the gradients: AdamW hides a gradient of a wrong size.

    The processes share the two micro-batches of a step.
    """
    done, pseudo_tokens = [], PseudoTokenGenerator(None, VOCABULARY.special_ids)
    for step in range(engine.steps, last):
        parts = [batch_of(objective, 2 * step + half, 4) for half in range(2)]
        masked = sum(part.masked for part in parts).tolist()
        mine = parts[distributed.rank() :: distributed.world_size()]
        with engine.autocast():
            micro_batches = send_step(StepBatches(mine, {objective: 1.0}, masked, {}))
        done.append(engine.step(micro_batches, partial(objectives_loss, engine.model, pseudo_tokens)))
    return [step.loss for step in done] + [step.grad_norm for step in done]


def check_dropout(quick: bool) -> str:
    advice = "train without dropout (0.0 in the configuration)"
    mean = float(layers.dropout(paddle.ones([100_000]), 0.1, True).mean())
    compare("the mean of ones after dropout", [mean], [1.0], 1e-2, advice)
    batch, found, model = batch_of("mmlm", 0), [], make_model("float32", dropout=0.1)
    model.train()
    for recompute in (False, False, True):
        model.ernie_m.use_recompute(recompute)
        paddle.seed(7)
        loss = masked_lm_loss(model, *to_device([batch])).total
        loss.backward()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        found.append([loss.numpy(), np.concatenate([p.grad.numpy().ravel() for p in used])])
        for parameter in used:
            parameter.grad = None
    # A GPU adds the gradients of a repeated token in an order that changes.
    compare("a second pass with the same seed", found[1], found[0], 1e-5 if device.on_gpu() else 0.0, advice)
    compare("recompute", found[2], found[0], 1e-5, "train without run.recompute")
    return f"mean {mean:.3f}, the same seed gives the same bits, recompute is equal"


def check_training(quick: bool) -> str:
    gpu, said = device.on_gpu(), []
    base, amps = ("float32", ["bf16"] * device.has_bf16() + ["fp16"]) if gpu else ("float64", ["none"])

    def numbers(name: str, engine: Engine) -> Sequence:
        if name != "vectors":
            return train(engine, name)
        with engine.autocast():
            return encode(engine.model.ernie_m, [np.arange(4, 6), np.arange(4, 40)])

    exact = {name: numbers(name, engine_of(base)) for name in (*OBJECTIVES, "vectors")}
    for amp in amps:
        worst, most, advice = 0.0, 5e-2 if gpu else 1e-3, f"do not train with amp {amp}"
        for name, expected in exact.items():
            found = numbers(name, engine_of("float32", Precision(amp)))
            worst = max(worst, compare(f"{name} with amp {amp}", found, expected, most, advice))
        said.append(f"float32, amp {amp}, within {worst:.0e} of {base}")
    if gpu:
        engine = engine_of("float32", Precision("fp16", loss_scaling=LossScaling(init_loss_scaling=2.0**60)))
        train(engine, "mmlm", 40)
        if not 0 < engine.skipped < 40:
            raise Failed(f"fp16 that overflows skipped {engine.skipped} of 40 steps; train in bf16; {REPORT}")
        said.append(f"overflow: {engine.skipped} steps skipped")
    first, second = engine_of("float32"), engine_of("float32")
    train(first, "mmlm", STEPS // 2)
    second.model.set_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    whole = train(first, "mmlm")
    compare("a resumed run", train(second, "mmlm"), whole, 1e-4 if gpu else 0.0, "do not stop a run")
    return f"vectors, and {STEPS} steps of each objective: {'; '.join(said)}; resumed: equal"


def profiled(work: Callable[[], object]) -> list[tuple[str, str]]:
    """(category, name) of each event of Paddle's profiler; kernels on the GPU are of category "Kernel"."""
    from paddle.profiler import Profiler, ProfilerTarget

    targets = [ProfilerTarget.CPU] + [ProfilerTarget.GPU] * device.on_gpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with Profiler(targets=targets, on_trace_ready=lambda profiler: profiler.export(str(path))):
            work()
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return [(event["cat"], event["name"]) for event in events if "cat" in event]


def check_step(quick: bool) -> str:
    """Which kernels a step runs, and how often it copies from and to the card."""
    if not device.on_gpu():
        raise Skipped("no GPU, so no kernels and nothing to wait for")
    queries, flashmask, flash = set(), F.flashmask_attention, device.flash_in(half=True)

    def recorded(query, *others, **options):
        queries.add(query.dtype)
        return flashmask(query, *others, **options)

    engine = engine_of("float32", Precision("bf16" if flash else "fp16"))
    with mock.patch.object(F, "flashmask_attention", recorded):
        train(engine, "mmlm", 1)
        events = profiled(lambda: train(engine, "mmlm", 2))
    kernels = [name.lower() for kind, name in events if kind == "Kernel"]
    if flash and queries != {paddle.bfloat16}:
        raise Failed(f"the queries of FlashMask are {[*map(str, queries)]}, not bfloat16; {REPORT}")
    if flash and not any("flash" in name for name in kernels):
        raise Failed(f"the profiler shows {len(kernels)} kernels, none of flash attention; {REPORT}")
    copies = " and ".join(f"{sum(way in name for _, name in events)} {way}" for way in ("HtoD", "DtoH"))
    kernel = "flash attention on bfloat16" if flash else "attention in padded groups"
    return f"{kernel}, {len(kernels) // 2} kernels a micro-batch, copies in a step: {copies}"


def losses_of(stage: int) -> dict[str, list[float]]:
    return {name: train(engine_of("float64", stage=stage), name, 4) for name in OBJECTIVES}


def worker(folder: Path, stage: int) -> None:
    """One process of `check_processes`: process 0 writes the losses to `folder`, then process 1 dies."""
    distributed.init(sharding_stage=stage)
    losses, engine = losses_of(stage), engine_of("float64", stage=stage)
    if distributed.is_main():
        (folder / "losses.json").write_text(json.dumps(losses))
    train(engine, "mmlm", 1)
    if not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    train(engine, "mmlm", 2)


def check_processes(quick: bool, script: str = __file__) -> str:
    if device.on_gpu() and paddle.device.cuda.device_count() < 2:
        raise Skipped("one GPU; NCCL needs two")
    exact, advice = losses_of(0), "use one process, try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"
    for stage in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "launch.py", "--nproc_per_node", "2", "--split_log_path", folder]
            command += [script, "--worker", folder, "--stage", str(stage)]
            with subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as run:
                try:
                    errors = run.communicate(timeout=600)[1]
                except subprocess.TimeoutExpired:
                    run.terminate()  # launch.py hands it on to both
                    raise Failed(f"two processes of stage {stage} do not end; {advice}") from None
            path = Path(folder, "losses.json")
            if not path.is_file():
                raise Failed(f"two processes of stage {stage} ended with: {errors.strip()[-300:]}; {advice}")
            found = json.loads(path.read_text())
        if not run.returncode:
            raise Failed(f"a process of stage {stage} was killed, and the run ended without error; {REPORT}")
        for name, losses in exact.items():
            compare(f"{name} on two processes, stage {stage},", found[name], losses, 1e-9, advice)
    backend = "NCCL" if device.on_gpu() else "gloo"
    return f"{backend}, float64, stages 0 and 1: two processes equal one; one is killed: the other ends"


def peak_of_the_device() -> tuple[float, str]:
    """The FLOP/s of the device in use, and their source.

    This is the card's data sheet (dense products in half precision), or else the speed of a large product.
    """
    if device.on_gpu():
        card_in_use = paddle.device.cuda.get_device_name()
        for card, tflops in TFLOPS.items():
            if re.search(rf"\b{card}\b", card_in_use):  # L4 is not in "L40S"
                return tflops * 1e12, f"the {card}'s {tflops} TFLOP/s"
    size = 8192 if device.on_gpu() else 768
    x = paddle.ones([size, size], "float16" if device.on_gpu() else "float32")
    fastest = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float(paddle.matmul(x, x)[0, 0])
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest, "the speed of a large product"


def check_speed(quick: bool) -> str:
    """Masked-LM steps of base size: tokens per second, share of the card's peak, memory, and the reader."""
    gpu, (size, hidden, depth, heads) = device.on_gpu(), (100, 32, 2, 4) if quick else (250_002, 768, 12, 12)
    amp = ("bf16" if device.has_bf16() else "fp16") if gpu else "none"
    model = make_model("float32", 0.1, size, hidden, depth, heads)
    engine = Engine(model, build_optimizer(model, 1e-4), precision=Precision(amp))
    began = time.perf_counter()
    batch = batch_of("mmlm", 0, 128 if gpu and not quick else 8, 128)
    reading, seconds = time.perf_counter() - began, []
    for _ in range(5 if gpu else 3):
        began = time.perf_counter()
        with engine.autocast():
            sent = to_device([batch])
        engine.step(sent, lambda sent: (masked_lm_loss(model, sent).total / sent.targets.count, {}))
        seconds.append(time.perf_counter() - began)
    peak, source = peak_of_the_device()
    shape = plan.ModelShape(hidden, depth, heads, size, len(LANGUAGES))
    share = 6 * (shape.matrices * batch.tokens + shape.table * len(batch.targets)) / min(seconds) / peak
    margin, used, planned = min(seconds) / reading, 0.0, 0.0
    said = f"{'tiny' if quick else 'base'} size, amp {amp}: {batch.tokens / min(seconds):,.0f} tokens/s"
    said += f", {share:.0%} of {source}, the reader is {margin:.1f} times as fast"
    if gpu:
        run = plan.PlannedRun(1, batch.tokens, batch.tokens, 1, "O1", False, device.flash_in(half=True))
        planned = sum(plan.memory(shape, run, 0, 1).values()) / 1e9
        used = paddle.device.cuda.max_memory_allocated() / 1e9
        said += f", {used:.1f} GB, planned {planned:.1f}"
    warnings = {
        "low: look at nvidia-smi for another program, heat, or a power limit": share < LOW_SHARE,
        "the card will wait for its reader": margin < LOW_MARGIN,
        "more memory than benchmarks/plan.py computes": used > MUCH_MEMORY * planned,
    }
    shown = [f"warning: {one}" for one, holds in warnings.items() if holds and gpu and not quick]
    return "; ".join([said, *shown])


CHECKS = {
    "environment": check_environment, "device": check_device, "operations": check_operations,
    "attention": check_attention, "dropout": check_dropout, "training": check_training,
    "step": check_step, "processes": check_processes, "speed": check_speed,
}  # fmt: skip


def run_checks(quick: bool, checks: dict[str, Callable] = CHECKS) -> int:
    """Run the checks, print a line for each and the JSON. Returns the exit code."""
    results = []
    for number, (name, check) in enumerate(checks.items(), 1):
        began = time.perf_counter()
        try:
            result, said = "ok", check(quick)
        except Skipped as reason:
            result, said = "skipped", str(reason)
        except Exception as error:  # whatever a driver or Paddle raises is a failed check
            result, said = "failed", str(error) if isinstance(error, Failed) else f"{error!r:.300}; {REPORT}"
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
