"""The engine of exported graphs in ONNX Runtime."""

import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, read_cpu

# ONNX Runtime's name of a device -> its options; the first available one is used.
_GPU = "CUDAExecutionProvider"
_PROVIDERS = {_GPU: {"use_tf32": 0}, "CPUExecutionProvider": {}}  # full float32, without TF32
_LOG_ERRORS_ONLY = 3  # of ONNX Runtime


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
