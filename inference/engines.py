"""The engines that run a model: ids in, arrays out. Each class imports only its own library."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from inference.requests import FILES
from utils.errors import UserError

if TYPE_CHECKING:
    from inference.paddle_model import Traced

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
GPU_POOL_MB = 512  # what Paddle takes of the GPU's memory at first; it grows


class GraphRunner(Protocol):
    """`engine(ids)`: int64 [B, T], padded on the right -> output name -> float32 array."""

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]: ...


class DygraphEngine:
    """A part of a model in Paddle, run without dropout and gradients."""

    def __init__(self, part: "Traced"):
        self.part = part.eval()

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        import paddle

        with paddle.no_grad():
            return dict(zip(self.part.outputs, (x.numpy() for x in self.part(ids))))


class PaddleEngine:
    """A Paddle inference model. UserError: its files cannot be read."""

    def __init__(self, folder: Path, outputs: Sequence[str], threads: int):
        from utils.runtime import prepare

        prepare(quiet=True)
        from paddle import inference

        graph = folder / FILES["paddle"]
        config = inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        import paddle

        if paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count():
            config.enable_use_gpu(GPU_POOL_MB, 0)
        else:
            config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # RuntimeError, and others if it cannot parse the graph
            raise UserError(
                f"{graph}: Paddle cannot load it ({_last_line(error)}); export it again"
            ) from error
        self.outputs = tuple(outputs)
        self.input = self.predictor.get_input_handle(self.predictor.get_input_names()[0])

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        self.input.copy_from_cpu(np.ascontiguousarray(ids, np.int64))
        self.predictor.run()
        handles = map(self.predictor.get_output_handle, self.predictor.get_output_names())
        return dict(zip(self.outputs, (handle.copy_to_cpu() for handle in handles)))


class OnnxEngine:
    """An ONNX file in ONNX Runtime, on a GPU with onnxruntime-gpu. UserError: it cannot be loaded."""

    def __init__(self, path: Path, threads: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("ONNX files need onnxruntime: pip install -r requirements-export.txt") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        try:
            available = onnxruntime.get_available_providers()
            providers = [name for name in PROVIDERS if name in available]
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the common base of its exceptions
            raise UserError(
                f"{path}: ONNX Runtime cannot load it ({_last_line(error)}); export it again"
            ) from error
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        found = self.session.run(None, {"input_ids": np.ascontiguousarray(ids, np.int64)})
        return dict(zip(self.outputs, found))


def _last_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    return lines[-1][:200] if lines else type(error).__name__
