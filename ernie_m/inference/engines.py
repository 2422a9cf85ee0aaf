"""Engines of exported models: Paddle Inference, and ONNX Runtime. Does not import Paddle at the top."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, prepare, read_cpu

# Engine -> its graph file in an export. The first existing one is the default.
FILES = {"onnx": "model.onnx", "paddle-inference": "inference.json"}
# Engine -> its weights file.
WEIGHTS_FILES = {"onnx": "model.onnx.data", "paddle-inference": "inference.pdiparams"}
# ONNX Runtime's name of a device -> its options; the first available one is used.
_GPU = "CUDAExecutionProvider"
_PROVIDERS = {_GPU: {"use_tf32": 0}, "CPUExecutionProvider": {}}  # full float32, without TF32
_LOG_ERRORS_ONLY = 3  # of ONNX Runtime
_GPU_POOL_MB = 512  # Paddle's initial GPU memory pool; it grows
# An engine: ids, int64 [B, T], padded on the right -> output name -> float32 array
GraphRunner = Callable[[np.ndarray], dict[str, np.ndarray]]


class PaddleInferenceEngine:
    """Engine that runs an exported graph in Paddle Inference.

    Args:
        folder: the directory of the export.
        outputs: the names of the graph's outputs, in order.
        amp: "fp16" to compute in float16 on a GPU, or "none".

    Raises:
        UserError: the files cannot be read, or `amp` requires a GPU.
    """

    def __init__(self, folder: Path, outputs: Sequence[str], amp: str = "none"):
        prepare()
        import paddle
        from paddle import inference

        graph = folder / FILES["paddle-inference"]
        config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        device, _, card = paddle.device.get_device().partition(":")
        if device == "gpu":  # not in ernie-m export, which sets the CPU
            precision = inference.PrecisionType.Half if amp == "fp16" else inference.PrecisionType.Float32
            config.enable_use_gpu(_GPU_POOL_MB, int(card), precision)
        elif amp != "none":
            raise UserError(f"{folder}: amp {amp} of an exported model requires a GPU. Remove it")
        else:
            config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(read_cpu().cores)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # RuntimeError, or others if the graph cannot be parsed
            raise UserError(f"{graph}: Paddle cannot load it. Export it again") from error
        self.outputs = outputs
        self.input = self.predictor.get_input_handle(self.predictor.get_input_names()[0])

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on ids, int64 [B, T]: output name -> float32 array."""
        self.input.copy_from_cpu(np.ascontiguousarray(ids, np.int64))
        self.predictor.run()
        # In the order of the graph.
        handles = map(self.predictor.get_output_handle, self.predictor.get_output_names())
        arrays = [handle.copy_to_cpu().astype(np.float32, copy=False) for handle in handles]
        return dict(zip(self.outputs, arrays))


class OnnxEngine:
    """Engine that runs an ONNX file in ONNX Runtime, on a GPU with onnxruntime-gpu.

    The constructor logs a warning, once per process, if the CPU is used although a GPU exists.

    Raises:
        UserError: the file cannot be loaded.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise UserError(
                f"{path}: ONNX files require onnxruntime: {get_install_command('export')}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = read_cpu().cores
        options.log_severity_level = _LOG_ERRORS_ONLY
        available = onnxruntime.get_available_providers()
        providers = [(name, settings) for name, settings in _PROVIDERS.items() if name in available]
        with redirect_stdout(sys.stderr):  # it prints missing libraries; stdout is for predictions
            if has_gpu() and _GPU in available and hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
                onnxruntime.preload_dlls()  # CUDA and cuDNN of pip packages, not found otherwise
            try:
                self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            except Exception as error:  # its exceptions have no other common base
                raise UserError(f"{path}: ONNX Runtime cannot load it. Export it again") from error
        if has_gpu() and _GPU not in self.session.get_providers():
            _warn_about_cpu(_GPU in available)
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph on ids, int64 [B, T]: output name -> float32 array."""
        arrays = self.session.run(None, {"input_ids": np.ascontiguousarray(ids, np.int64)})
        return dict(zip(self.outputs, arrays))


@cache  # once in a process
def _warn_about_cpu(has_gpu_package: bool) -> None:
    """Log a warning that ONNX Runtime does not use the GPU, and why."""
    reason = "it cannot load CUDA and cuDNN" if has_gpu_package else "onnxruntime-gpu is not installed"
    logger.warning("ONNX Runtime: using the CPU, not the GPU: %s (see docs/models.md)", reason)


def wrap_with_finite_check(run: GraphRunner, source: object) -> GraphRunner:
    """Wrap an engine so that `check_finite` checks its outputs, for graphs whose weights were not checked."""
    fix = "Export the checkpoint again"
    return lambda ids: {name: check_finite(name, array, source, fix) for name, array in run(ids).items()}
