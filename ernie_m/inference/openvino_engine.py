"""OpenVINO: the encoder of a checkpoint with a linear head, or an ONNX file, on a CPU, without Paddle.

Each batch is computed on one core, and several batches concurrently (`ernie_m.model.threads`). On x86-64
CPUs, results are bitwise independent of the batch and of the number of threads.
"""

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ernie_m.inference.encoder_graph import EncoderGraph
from ernie_m.inference.engines import GraphRunner
from ernie_m.model.checkpoint.weights import Weights, check_finite
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import EMBEDDING, POOLED, TASKS, list_graph_outputs
from ernie_m.model.threads import get_thread_count
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.paddle_settings import has_gpu, read_cpu
from ernie_m.vectors.pooling import pool_hidden_states

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


def import_openvino() -> ModuleType:
    """Import OpenVINO with telemetry disabled, and return the module."""
    # Its telemetry would report each import from a thread, and write files to HOME.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


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


def load_onnx_engine(path: Path, config: ErnieMConfig, task: str, has_pooled: bool) -> OpenVinoEngine:
    """Load an ONNX file into OpenVINO.

    Args:
        task, has_pooled: see `OpenVinoEngine`.

    Raises:
        UserError: the file cannot be read; see also `OpenVinoEngine`.
    """
    with _translate_errors(path, "cannot load it. Export it again"):
        graph = _get_core().read_model(path)
    return OpenVinoEngine(graph, path, config, task, has_pooled)


class LinearHeadEngine:
    """Engine that applies the linear head of a task to the outputs of an encoder engine.

    This way, the head and the embeddings of a model share one encoder. `np.einsum` computes each row
    independently, unlike `@`, so results do not depend on the batch.

    Args:
        encode: the engine of the encoder up to the last layer.
        pooling: the input of a classifier, see `ernie_m.model.heads.SequenceClassifier`.
    """

    def __init__(
        self,
        encode: GraphRunner,
        weights: Weights,
        config: ErnieMConfig,
        task: str,
        pooling: str | None,
    ):
        self.encode = encode
        self.pad_id = config.pad_token_id
        self.task = TASKS[task]
        self.reads_mean = pooling == MEAN_OF_TOKENS or config.is_static
        weight, bias = (
            check_finite(name, weights[name], weights.source)
            for name in ("classifier.weight", "classifier.bias")
        )
        self.weight = np.ascontiguousarray(weight.T, np.float32)  # [labels, H]
        self.bias = np.asarray(bias, np.float32)  # [labels]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the outputs of the head from ids, int64 [B, T]: output name -> float32 array."""
        states = self.encode(ids)
        if self.task.head_reads != POOLED:
            x = states["sequence"]  # [B, T, H]
        elif self.reads_mean:
            x = pool_hidden_states(ids, self.pad_id, MEAN_OF_TOKENS, states["sequence"])  # [B, H]
        else:
            x = states["pooled"]  # [B, H]
        logits = np.einsum("...h,lh->...l", x, self.weight) + self.bias
        parts = [logits] if self.task.has_labels else np.moveaxis(logits, -1, 0)
        return dict(zip(self.task.outputs, parts, strict=True))


class OpenVinoGraph(EncoderGraph):
    """An `EncoderGraph` of OpenVINO nodes."""

    def __init__(self, *graph_options: Any):
        super().__init__(*graph_options)
        self.arrays: dict[str, np.ndarray] = {}  # the weights
        self.ops = ops = import_openvino().opset13
        self.node_of = {"input_ids": ops.parameter([-1, -1], np.int64, "input_ids")}
        # ONNX operator -> a function of the input nodes and attributes that creates the node.
        self.makers = {
            "Add": ops.add,
            "Cast": lambda x, to: ops.convert(x, to),
            "CumSum": ops.cumsum,
            "Div": ops.divide,
            "Equal": ops.equal,
            "Gather": lambda x, indices, axis=0: ops.gather(x, indices, np.int64(axis)),
            "Gelu": lambda x: ops.gelu(x, "erf"),
            "LayerNormalization": self._apply_norm,
            "MatMul": lambda x, y: ops.matmul(x, y, False, False),
            "Mul": ops.multiply,
            "NonZero": lambda x: ops.non_zero(x, "i64"),
            "Not": ops.logical_not,
            "Reshape": lambda x, shape: ops.reshape(x, shape, special_zero=True),
            "Shape": ops.shape_of,
            "Softmax": ops.softmax,
            "Sub": ops.subtract,
            "Tanh": ops.tanh,
            "Transpose": lambda x, perm: ops.transpose(x, np.array(perm, np.int64)),
            "Unsqueeze": ops.unsqueeze,
        }

    def add_constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Add a constant node, and return its name."""
        self.node_of[name] = self.ops.constant(np.asarray(values, dtype))
        return name

    def add_weight(self, name: str) -> str:
        """Add a weight of the model as a constant node that shares its memory, and return its name.

        Raises:
            UserError: the weight is not finite.
        """
        array = check_finite(name, self.weights[name], self.weights.source)
        # OpenVINO shares the memory of writable arrays only.
        self.arrays[name] = np.require(array, np.float32, ["C", "W"])
        self.node_of[name] = self.ops.constant(self.arrays[name], shared_memory=True)
        return name

    def add_node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Add the node of an ONNX operator."""
        self.node_of[output] = self.makers[op](*(self.node_of[name] for name in inputs), **attributes)

    def _apply_norm(self, x: Any, scale: Any, bias: Any, axis: int, epsilon: float) -> Any:
        """Build a layer normalization from OpenVINO operators."""
        normal = self.ops.mvn(x, np.array([axis], np.int64), True, epsilon, "INSIDE_SQRT")
        return self.ops.add(self.ops.multiply(normal, scale), bias)
