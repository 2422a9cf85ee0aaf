"""What a call starts, and how long it takes."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import paddle

from model import device


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
