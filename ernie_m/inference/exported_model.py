"""The engines of what ernie-m export wrote: Paddle inference, and ONNX Runtime where OpenVINO is not."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from ernie_m.utils.errors import UserError, install_command
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import has_gpu, prepare, read_cpu

# Engine -> the file of an exported folder that it runs. The first one that is there is the default.
FILES = {"onnx": "model.onnx", "paddle": "inference.json"}
# The files of their weights.
WEIGHTS_FILES = {"onnx": "model.onnx.data", "paddle": "inference.pdiparams"}
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
        prepare(quiet=True)
        import paddle
        from paddle import inference

        graph = folder / FILES["paddle"]
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
    logger.warning("ONNX Runtime runs on the CPU, not on this GPU: %s; see docs/export.md, On a GPU", reason)
