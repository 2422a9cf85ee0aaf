"""The engines beside Paddle's own: OpenVINO on a CPU, and what runs the folders of ernie-m export.

Exported folders are for Paddle inference, or have an ONNX file, which ONNX Runtime computes where OpenVINO is
not. OpenVINO, which needs no Paddle, computes the encoder of a checkpoint or an ONNX file: a batch on one
core, and several at a time (`ernie_m.model.threads`). On a CPU of x86-64 the bits of a text depend neither on
its batch nor on the number of threads.
"""

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ernie_m.inference.encoder_graph import EncoderGraph
from ernie_m.model.checkpoint.weights import Weights, finite
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.preprocessing import MEAN_OF_TOKENS
from ernie_m.model.tasks import EMBEDDING, POOLED, TASKS, graph_outputs
from ernie_m.model.threads import core_count
from ernie_m.utils.errors import UserError, install_command
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, prepare, read_cpu
from ernie_m.vectors.pooling import weighted_sums

# Engine -> the file of an exported folder that it runs. The first one that is there is the default.
FILES = {"onnx": "model.onnx", "paddle-inference": "inference.json"}
# The files of their weights.
WEIGHTS_FILES = {"onnx": "model.onnx.data", "paddle-inference": "inference.pdiparams"}
# ONNX Runtime's name of a device -> its options; the first one that is there is used.
_GPU = "CUDAExecutionProvider"
_PROVIDERS = {_GPU: {"use_tf32": 0}, "CPUExecutionProvider": {}}  # no TF32: full float32
_LOG_ERRORS_ONLY = 3  # ONNX Runtime's number for it
_GPU_POOL_MB = 512  # what Paddle takes of the GPU's memory at first; it grows
# An engine: ids, int64 [B, T], padded on the right -> output name -> float32 array
GraphRunner = Callable[[np.ndarray], dict[str, np.ndarray]]


class PaddleEngine:
    """A Paddle inference model.

    Args:
        folder: an exported folder.
        outputs: the names of the graph's outputs, in their order.
        amp: "fp16": compute in float16, on a GPU.

    Raises:
        UserError: its files cannot be read, or `amp` needs a GPU.
    """

    def __init__(self, folder: Path, outputs: Sequence[str], amp: str = "none"):
        prepare()
        import paddle
        from paddle import inference

        graph = folder / FILES["paddle-inference"]
        config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        device, _, card = paddle.device.get_device().partition(":")
        if device == "gpu":  # not in ernie-m export, which has set the CPU
            precision = inference.PrecisionType.Half if amp == "fp16" else inference.PrecisionType.Float32
            config.enable_use_gpu(_GPU_POOL_MB, int(card), precision)
        elif amp != "none":
            raise UserError(f"{folder}: amp {amp} of an exported folder needs a GPU")
        else:
            config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(read_cpu().cores)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # RuntimeError, and others if it cannot parse the graph
            raise UserError(f"{graph}: Paddle cannot load it; export it again") from error
        self.outputs = outputs
        self.input = self.predictor.get_input_handle(self.predictor.get_input_names()[0])

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        self.input.copy_from_cpu(np.ascontiguousarray(ids, np.int64))
        self.predictor.run()
        arrays = []
        for name in self.predictor.get_output_names():  # Paddle's names for them
            array = self.predictor.get_output_handle(name).copy_to_cpu()
            arrays.append(array.astype(np.float32, copy=False))
        return dict(zip(self.outputs, arrays))


class OnnxEngine:
    """An ONNX file in ONNX Runtime, on a GPU with onnxruntime-gpu.

    If there is a GPU and the file runs on the CPU all the same, the first engine of a process says so.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise UserError(f"ONNX files need onnxruntime: {install_command('export')}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = read_cpu().cores
        options.log_severity_level = _LOG_ERRORS_ONLY
        available = onnxruntime.get_available_providers()
        providers = [(name, settings) for name, settings in _PROVIDERS.items() if name in available]
        with redirect_stdout(sys.stderr):  # it prints what it does not find; answers may go to stdout
            if has_gpu() and _GPU in available and hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
                onnxruntime.preload_dlls()  # CUDA and cuDNN of pip's packages, which it would not find
            try:
                self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            except Exception as error:  # the common base of its exceptions
                raise UserError(f"{path}: ONNX Runtime cannot load it; export it again") from error
        if has_gpu() and _GPU not in self.session.get_providers():
            _say_that_it_runs_on_the_cpu(_GPU in available)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        arrays = self.session.run(None, {"input_ids": np.ascontiguousarray(ids, np.int64)})
        return dict(zip(self.outputs, arrays))


@cache  # once in a process
def _say_that_it_runs_on_the_cpu(has_gpu_package: bool) -> None:
    reason = "it cannot load CUDA and cuDNN" if has_gpu_package else "onnxruntime-gpu is not installed"
    logger.warning("ONNX Runtime runs on the CPU, not on this GPU: %s; see docs/models.md", reason)


MOST_TOKENS = 1024  # of a batch; a larger one is no faster
# Attention computes the last T modulo 16 columns in another way. So T is a multiple of 16: otherwise the bits
# of a text would depend on the longest text of its batch.
_COLUMNS = 16
_engines: weakref.WeakSet["OpenVinoEngine"] = weakref.WeakSet()  # of this process


def is_installed() -> bool:
    return find_spec("openvino") is not None


def is_best() -> bool:
    """Whether it is installed, and no GPU is there that Paddle may run the model on."""
    return is_installed() and not (has_gpu() and find_spec("paddle"))


def check(amp: str) -> None:
    """Refuse what OpenVINO cannot do here.

    Raises:
        UserError: it is not installed, or the CPU does not compute in this precision.
    """
    if not is_installed():
        raise UserError(f"engine openvino: OpenVINO is not installed: {install_command('openvino')}")
    if amp not in ("none", "bf16"):
        raise UserError(f"amp {amp}: on a CPU predictions are made in bf16 or none")
    # Other CPUs would refuse it, or take many times as long.
    if amp == "bf16" and read_cpu().flags.isdisjoint({"avx512_bf16", "amx_bf16"}):
        raise UserError("amp bf16 requires a CPU with bfloat16 instructions (avx512_bf16 or AMX). Remove it")


def library() -> ModuleType:
    """OpenVINO, which does not report its import to its makers."""
    # As if it were not installed: it would tell them of each import, in a thread, and leave files in HOME.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def _core() -> Any:
    """OpenVINO's own object, which lives as long as the process.

    It gives the thread that makes it another stack for signals. If it were freed in another thread, the first
    one would have a stack that is not there, and Ctrl-C would end the process by a fault.
    """
    return library().Core()


@contextmanager
def _in_one_line(source: object, fault: str = "cannot run it") -> Iterator[None]:
    """OpenVINO's exceptions as a `UserError` that names what was to be computed."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().rpartition("\n")[2]  # the last line; the places in its code are above
        raise UserError(f"{source}: OpenVINO {fault}: {reason}") from error


class OpenVinoEngine:
    """A graph in OpenVINO, as a `GraphRunner`. Several threads may call it.

    Args:
        graph: an `openvino.Model` with the input `input_ids`.
        source: what it was made of, for messages.
        task: what the outputs are those of.
        has_pooled: whether an encoder has the output "pooled".
        amp: "bf16": multiply in bfloat16; or "none".

    Attributes:
        weights: of an encoder our name -> the array that the graph has.

    Raises:
        UserError: OpenVINO cannot compile it.
    """

    def __init__(
        self, graph: Any, source: object, config: ErnieMConfig, task: str, has_pooled: bool, amp: str = "none"
    ):
        self.weights: dict[str, np.ndarray] = {}
        self.source = source
        self.pad_id = config.pad_token_id
        axes = TASKS[task].outputs
        self.outputs = {name: "length" in axes[name] for name in graph_outputs(task, has_pooled)}
        self._graph = graph
        cores = core_count()
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if amp == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": cores,  # a batch is computed on one core
            "ENABLE_CPU_PINNING": False,
        }
        self._lock = threading.Lock()
        self._start()
        _engines.add(self)

    def _start(self) -> None:
        with _in_one_line(self.source):
            self._compiled = _core().compile_model(self._graph, "CPU", self._settings)
        self._of_thread = threading.local()

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        with self._lock:
            if self._compiled is None:  # in a forked process
                self._start()
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        count, length = ids.shape
        padded = np.full([count, length + -length % _COLUMNS], self.pad_id, np.int64)
        padded[:, :length] = ids
        with _in_one_line(self.source):
            arrays = self._of_thread.request.infer([padded]).values()
        if any(len(array) != count for array in arrays):
            raise UserError(f"{self.source}: OpenVINO needs a CPU with AVX; take --engine paddle-eager")
        return {
            name: array[:, :length] if has_tokens else array
            for (name, has_tokens), array in zip(self.outputs.items(), arrays)
        }


def _leave_to_parent() -> None:
    """In a forked process: compile anew, because the threads of what was compiled are the parent's.

    It is never freed here, which would wait for those threads.
    """
    for engine in _engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((engine._compiled, engine._of_thread)))
        engine._compiled = None


os.register_at_fork(after_in_child=_leave_to_parent)


def finite_outputs(run: GraphRunner, source: object) -> GraphRunner:
    """A graph whose weights nobody has looked at: its outputs are, by `finite`."""
    way = "Export the checkpoint again"
    return lambda ids: {name: finite(name, array, source, way) for name, array in run(ids).items()}


def encoder_engine(weights: Weights, config: ErnieMConfig, layer: int, amp: str) -> OpenVinoEngine:
    """An encoder up to a layer, without a head.

    Raises:
        UserError: a weight is not finite, or as `OpenVinoEngine`.
    """
    graph = OpenVinoGraph(weights, config, EMBEDDING, layer)
    with _in_one_line(weights.source):
        graph.write()
        results = [graph.ops.result(graph.node_of[name]) for name in graph.outputs]
        model = library().Model(results, [graph.node_of["input_ids"]])
    engine = OpenVinoEngine(model, weights.source, config, EMBEDDING, len(graph.outputs) > 1, amp)
    engine.weights = graph.arrays
    return engine


def onnx_engine(path: Path, config: ErnieMConfig, task: str, has_pooled: bool) -> OpenVinoEngine:
    """An ONNX file.

    Raises:
        UserError: it cannot be read, or as `OpenVinoEngine`.
    """
    with _in_one_line(path, "cannot load it; export it again"):
        graph = _core().read_model(path)
    return OpenVinoEngine(graph, path, config, task, has_pooled)


class HeadOnHiddenStates:
    """The head of a task on the outputs of an encoder, as a `GraphRunner`.

    Heads and vectors of a model thus share its encoder. `np.einsum` computes each row by itself, so its bits
    do not depend on the others, as those of `@` do.

    Args:
        encode: gives the outputs of the task embedding, at the last layer.
        pooling: what a classifier reads, see `ernie_m.model.heads.SequenceClassifier`.
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
            finite(name, weights[name], weights.source) for name in ("classifier.weight", "classifier.bias")
        )
        self.weight = np.ascontiguousarray(weight.T, np.float32)  # [labels, H]
        self.bias = np.asarray(bias, np.float32)  # [labels]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        states = self.encode(ids)
        if self.task.head_reads != POOLED:
            x = states["sequence"]  # [B, T, H]
        elif self.reads_mean:
            x = weighted_sums(ids, self.pad_id, MEAN_OF_TOKENS, states["sequence"])  # [B, H]
        else:
            x = states["pooled"]  # [B, H]
        logits = np.einsum("...h,lh->...l", x, self.weight) + self.bias
        parts = [logits] if self.task.has_labels else np.moveaxis(logits, -1, 0)
        return dict(zip(self.task.outputs, parts, strict=True))


class OpenVinoGraph(EncoderGraph):
    """Makes OpenVINO's nodes."""

    def __init__(self, *of_graph: Any):
        super().__init__(*of_graph)
        self.arrays: dict[str, np.ndarray] = {}  # the weights
        self.ops = ops = library().opset13
        self.node_of = {"input_ids": ops.parameter([-1, -1], np.int64, "input_ids")}
        # The operator of ONNX -> what makes the node, of the nodes before it and the attributes.
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

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        self.node_of[name] = self.ops.constant(np.asarray(values, dtype))
        return name

    def weight(self, name: str) -> str:
        array = finite(name, self.weights[name], self.weights.source)
        # OpenVINO shares the memory only of an array that may be written.
        self.arrays[name] = np.require(array, np.float32, ["C", "W"])
        self.node_of[name] = self.ops.constant(self.arrays[name], shared_memory=True)
        return name

    def add_node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.node_of[output] = self.makers[op](*(self.node_of[name] for name in inputs), **attributes)

    def _apply_norm(self, x: Any, scale: Any, bias: Any, axis: int, epsilon: float) -> Any:
        normal = self.ops.mvn(x, np.array([axis], np.int64), True, epsilon, "INSIDE_SQRT")
        return self.ops.add(self.ops.multiply(normal, scale), bias)
