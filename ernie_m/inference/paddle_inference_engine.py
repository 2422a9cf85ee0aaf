"""The engine of exported graphs in Paddle Inference. Does not import Paddle at the top."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ernie_m.inference.engines import FILES
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import prepare, read_cpu

_GPU_POOL_MB = 512  # Paddle's initial GPU memory pool; it grows


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
