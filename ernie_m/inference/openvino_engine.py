"""OpenVINO: the encoder of a checkpoint with a linear head, or an ONNX file, on a CPU, without Paddle.

Each batch is computed on one core, and several batches concurrently (`ernie_m.model.threads`). On x86-64
CPUs, results are bitwise independent of the batch and of the number of threads.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.inference.openvino_graph import OpenVinoGraph, import_openvino
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import EMBEDDING, TASKS, list_graph_outputs
from ernie_m.model.threads import get_thread_count
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.paddle_settings import has_gpu, read_cpu

MOST_TOKENS = 1024  # per batch; larger batches are not faster
# Attention computes the last T modulo 16 columns differently. With T a multiple of 16, results are bitwise
# independent of the longest text of the batch.
_COLUMNS = 16
_engines: weakref.WeakSet["OpenVinoEngine"] = weakref.WeakSet()  # of this process


def is_openvino_installed() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def is_openvino_best() -> bool:
    """Return whether OpenVINO is installed and Paddle cannot use a GPU."""
    return is_openvino_installed() and not (has_gpu() and find_spec("paddle"))


def check_openvino(amp: str) -> None:
    """Check that OpenVINO is installed, and supports this precision on this CPU.

    Raises:
        UserError: OpenVINO is not installed, or the CPU does not support the precision.
    """
    if not is_openvino_installed():
        raise UserError(f"engine openvino: OpenVINO is not installed: {get_install_command('openvino')}")
    if amp not in ("none", "bf16"):
        raise UserError(f"invalid amp {amp} for a CPU (choose from none, bf16)")
    # Other CPUs do not support it, or are many times slower.
    if amp == "bf16" and read_cpu().flags.isdisjoint({"avx512_bf16", "amx_bf16"}):
        raise UserError("amp bf16 requires a CPU with bfloat16 instructions (avx512_bf16 or AMX). Remove it")


@cache
def _get_core() -> Any:
    """Return OpenVINO's `Core`, which is created once and never freed.

    Its constructor installs an alternate signal stack in the calling thread. If another thread freed the
    `Core`, the stack would be freed too, and Ctrl-C would crash the process.
    """
    return import_openvino().Core()


@contextmanager
def _translate_errors(source: object, failure: str = "cannot run it") -> Iterator[None]:
    """Translate OpenVINO's exceptions within the context into a UserError that names the model.

    Args:
        source: the file of the graph or weights.
        failure: what OpenVINO could not do, and the fix.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]  # the last line; the lines above are code locations
        raise UserError(f"{source}: OpenVINO {failure}: {reason}") from error


class OpenVinoEngine:
    """Thread-safe engine that runs a graph in OpenVINO.

    Args:
        graph: an `openvino.Model` with the input `input_ids`.
        source: the file of the graph or weights, for errors.
        task: the task, which determines the outputs.
        has_pooled: whether an encoder has the output "pooled".
        amp: "bf16" or "none".

    Attributes:
        weights: for an encoder, canonical name -> the array in the graph.

    Raises:
        UserError: OpenVINO cannot compile the graph.
    """

    def __init__(
        self, graph: Any, source: object, config: ErnieMConfig, task: str, has_pooled: bool, amp: str = "none"
    ):
        self.weights: dict[str, np.ndarray] = {}
        self.source = source
        self.pad_id = config.pad_token_id
        axes = TASKS[task].outputs
        self.outputs = {name: "length" in axes[name] for name in list_graph_outputs(task, has_pooled)}
        self._graph = graph
        cores = get_thread_count()
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if amp == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": cores,  # one core per batch
            "ENABLE_CPU_PINNING": False,
        }
        self._lock = threading.Lock()
        self._compile()
        _engines.add(self)

    def _compile(self) -> None:
        """Compile the graph."""
        with _translate_errors(self.source):
            self._compiled = _get_core().compile_model(self._graph, "CPU", self._settings)
        self._of_thread = threading.local()

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on ids, int64 [B, T]: output name -> float32 array."""
        with self._lock:
            if self._compiled is None:  # after a fork
                self._compile()
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        count, length = ids.shape
        padded = np.full([count, length + -length % _COLUMNS], self.pad_id, np.int64)
        padded[:, :length] = ids
        with _translate_errors(self.source):
            arrays = self._of_thread.request.infer([padded]).values()
        if any(len(array) != count for array in arrays):
            raise UserError(f"{self.source}: OpenVINO requires a CPU with AVX. Set --engine paddle-eager")
        return {
            name: array[:, :length] if has_tokens else array
            for (name, has_tokens), array in zip(self.outputs.items(), arrays)
        }


def _reset_after_fork() -> None:
    """After a fork, make the child recompile its graphs, whose threads exist only in the parent.

    The inherited graphs are never freed, because freeing would wait for those threads.
    """
    for engine in _engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((engine._compiled, engine._of_thread)))
        engine._compiled = None


os.register_at_fork(after_in_child=_reset_after_fork)


def make_encoder_engine(weights: Weights, config: ErnieMConfig, layer: int, amp: str) -> OpenVinoEngine:
    """Build an OpenVINO engine for the encoder of a checkpoint up to a layer, without a head.

    Raises:
        UserError: a weight is not finite; see also `OpenVinoEngine`.
    """
    graph = OpenVinoGraph(weights, config, EMBEDDING, layer)
    with _translate_errors(weights.source):
        graph.build()
        results = [graph.ops.result(graph.node_of[name]) for name in graph.outputs]
        model = import_openvino().Model(results, [graph.node_of["input_ids"]])
    engine = OpenVinoEngine(model, weights.source, config, EMBEDDING, len(graph.outputs) > 1, amp)
    engine.weights = graph.arrays
    return engine


def load_onnx_file(path: Path, config: ErnieMConfig, task: str, has_pooled: bool) -> OpenVinoEngine:
    """Load an ONNX file into OpenVINO.

    Args:
        task, has_pooled: see `OpenVinoEngine`.

    Raises:
        UserError: the file cannot be read; see also `OpenVinoEngine`.
    """
    with _translate_errors(path, "cannot load it. Export it again"):
        graph = _get_core().read_model(path)
    return OpenVinoEngine(graph, path, config, task, has_pooled)
