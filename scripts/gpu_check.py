"""Check that this device computes what a CPU computes in float64: `sh scripts/gpu_check.sh [--quick]`.

One line for each check: ok, warning, skipped or failed. The first line is what a bug report needs. A failed
line says what to do. The last line is JSON. The exit code is 1 if a check failed. --quick uses tiny shapes.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import __version__
from utils.runtime import prepare, read_cpu

if __name__ == "__main__":
    prepare(quiet=True)

import numpy as np
import paddle
import paddle.nn.functional as F

from benchmarks import plan
from model import device
from pretrain.batch import Batch
from pretrain.config import OBJECTIVES
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary
from scripts import device_checks as checks
from scripts.device_checks import REPORT, Failed, Skipped, engine_of, train
from training import distributed
from training.engine import Engine
from training.guard import StallWatch
from training.optimizer import build_optimizer
from training.precision import Precision

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "sentencepiece", "safetensors", "jsonargparse")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "GLIBC_TUNABLES", "PADDLE_TRAINERS_NUM")
LOW_SHARE, LOW_MARGIN, MUCH_MEMORY = 0.2, 2.0, 1.3  # beyond which there is a warning
ENDS = 20.0  # seconds after which a process whose partner has died must end


def output(*command: str) -> str:
    """What a command prints, in one line."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return f"no {command[0]}"
    return "; ".join((done.stdout or done.stderr).strip().splitlines())


def check_environment(quick: bool) -> str:
    """What a bug report needs."""
    cpu, installed = read_cpu(), {one.metadata["Name"]: one.version for one in metadata.distributions()}
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if kind in cpu.flags]
    chosen = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return "; ".join([
        f"ernie-m {__version__}, commit {output('git', 'describe', '--always', '--dirty')}",
        f"{platform.platform()}, Python {platform.python_version()}",
        ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed),
        f"{cpu.vendor or platform.machine()}, {cpu.cores} cores, {cpu.memory / 2**30:.1f} GiB",
        " ".join(kinds),
        ", ".join([prepare(quiet=True).partition(";")[0], *chosen]),
        output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
    ])  # fmt: skip


def check_device(quick: bool) -> str:
    if not device.on_gpu():
        raise Skipped("no GPU; a machine that has one needs `sh scripts/setup.sh gpu`")
    cuda, cudnn, nccl = paddle.version.cuda(), paddle.version.cudnn(), paddle.version.nccl()
    half = "allowed" if device.has_bf16() else "refused, below capability 8.0"
    return (
        f"{device.summary('float32', 1)}; CUDA {cuda}, cuDNN {cudnn}, NCCL {nccl}; bf16 and FlashMask {half}"
    )


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
    uploads, reads = (sum(way in name for _, name in events) for way in ("HtoD", "DtoH"))
    kernel = "flash attention on bfloat16" if flash else "attention in rectangles"
    copies = f"in a step {uploads} copies to the card and {reads} from it"
    return f"{kernel}, {len(kernels) // 2} kernels a micro-batch; {copies}"


def worker(folder: Path, stage: int, dies: bool) -> None:
    """One process of `check_processes`: process 0 writes the losses to `folder`, or process 1 dies."""
    distributed.init(use_gpu=os.environ.get("PADDLE_DISTRI_BACKEND") != "gloo", sharding_stage=stage)
    if dies:
        engine = engine_of("float64")
        train(engine, "mmlm", 2)
        if not distributed.is_main():
            os.kill(os.getpid(), signal.SIGKILL)
        with StallWatch(ENDS, ENDS) as stalls, stalls.during("step 3"):
            train(engine, "mmlm", 3)
        return
    losses = {name: train(engine_of("float64", stage=stage), name, 4) for name in OBJECTIVES}
    if distributed.is_main():
        (folder / "losses.json").write_text(json.dumps(losses))


def run_two(command: Sequence[str]) -> list[tuple[int | None, str]]:
    """Exit code (None: it did not end) and last words of two processes."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    running, ended = [], []
    for rank, address in enumerate(addresses):
        place = {
            "PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": "2", "PADDLE_CURRENT_ENDPOINT": address,
            "PADDLE_TRAINER_ENDPOINTS": ",".join(addresses), "FLAGS_selected_gpus": str(rank),
        }  # fmt: skip
        place |= {} if device.on_gpu() else {"PADDLE_DISTRI_BACKEND": "gloo", "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=os.environ | place, **pipes))
    for process in running:
        try:
            said = process.communicate(timeout=300 if not ended else 60)[1].strip()
            ended.append((process.returncode, said.splitlines()[-1][:200] if said else "no message"))
        except subprocess.TimeoutExpired:
            ended.append((None, "it did not end; try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"))
            process.kill()
            process.wait()
    return ended


def check_processes(quick: bool, command: Sequence[str] = (sys.executable, __file__)) -> str:
    if device.on_gpu() and paddle.device.cuda.device_count() < 2:
        raise Skipped("one GPU; NCCL needs two")
    exact = {name: train(engine_of("float64"), name, 4) for name in OBJECTIVES}
    advice = "use one process, try NCCL_DEBUG=INFO"
    with tempfile.TemporaryDirectory() as folder:
        for stage in (0, 1):
            for code, said in run_two([*command, "--worker", folder, "--stage", str(stage)]):
                if code != 0:
                    raise Failed(f"a process of stage {stage} ended with {code}: {said}")
            found = json.loads(Path(folder, "losses.json").read_text())
            for name, losses in exact.items():
                what = f"{name} on two processes, stage {stage},"
                checks.compare(what, found[name], losses, 1e-9, advice)
        (survivor, said), (killed, _) = run_two([*command, "--worker", folder, "--dies"])
    if killed != -signal.SIGKILL or not survivor:
        raise Failed(
            f"one process was killed, and the other ended with {survivor}, not with an error: {said}"
        )
    backend = "NCCL" if device.on_gpu() else "gloo"
    return f"{backend}, float64, stages 0 and 1: two processes equal one; one is killed: the other ends"


def check_speed(quick: bool) -> tuple[str, str]:
    """("ok" or "warning", line): masked-LM steps of base size, their memory, and the reader."""
    gpu, (vocab, *sizes) = device.on_gpu(), (100, 32, 2, 4) if quick else (250_002, 768, 12, 12)
    shape = plan.ModelShape(*sizes, vocab, len(checks.LANGUAGES))
    amp = ("bf16" if device.has_bf16() else "fp16") if gpu else "none"
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    model = checks.make_model("float32", 0.1, vocab_size=vocab, **dict(zip(names, sizes)))
    engine = Engine(model, build_optimizer(model, 1e-4), precision=Precision(amp))
    special = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=vocab - 1, size=vocab)
    began = time.perf_counter()
    batch = checks.batch_of("mmlm", 0, 128 if gpu and not quick else 8, 128, special)
    made, best = batch.tokens / (time.perf_counter() - began), np.inf

    def loss_of(batch: Batch) -> tuple[paddle.Tensor, dict]:
        return masked_lm_loss(model, batch).total / len(batch.targets), {}

    for _ in range(5 if gpu else 3):
        began = time.perf_counter()
        engine.step([batch], loss_of)
        best = min(best, time.perf_counter() - began)
    most, of = device.peak()
    share = 6 * (shape.matrices * batch.tokens + shape.table * len(batch.targets)) / best / most
    margin, warnings = made * best / batch.tokens, []
    precision = "float32" if amp == "none" else amp
    said = [f"{'tiny' if quick else 'base'} size, {precision}: {batch.tokens / best:,.0f} tokens/s",
            f"{share:.0%} of {of}", f"the reader is {margin:.1f} times as fast"]  # fmt: skip
    if share < LOW_SHARE:
        warnings.append("low: look at nvidia-smi for another program, heat, or a power limit")
    if margin < LOW_MARGIN:
        warnings.append("the card will wait for its reader")
    if gpu:
        run = plan.PlannedRun(1, batch.tokens, batch.tokens, 1, "O1", False, device.flash_in(half=True))
        planned = sum(plan.memory(shape, run, 0, 1).values()) / 1e9
        used = paddle.device.cuda.max_memory_allocated() / 1e9
        said.append(f"{used:.1f} GB, planned {planned:.1f}")
        if used > MUCH_MEMORY * planned:
            warnings.append("more memory than benchmarks/plan.py computes")
    warned = gpu and not quick and warnings
    return ("warning", ", ".join(said) + "; " + "; ".join(warnings)) if warned else ("ok", ", ".join(said))


CHECKS = {
    "environment": check_environment, "device": check_device, "operations": checks.check_operations,
    "attention": checks.check_attention, "dropout": checks.check_dropout, "training": checks.check_training,
    "step": check_step, "processes": check_processes, "speed": check_speed,
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
    parser.add_argument("--dies", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        worker(args.worker, args.stage, args.dies)
        return
    distributed.init()
    sys.exit(run_checks(args.quick))


if __name__ == "__main__":
    main()
