"""The engines of `inference` on a model of random weights. Files are written once for all rounds."""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.runtime import read_cpu

if TYPE_CHECKING:
    from inference.engines import Engine
    from model.ernie_m import ErnieMModel


def open_engine(engine: str, folder: Path, encoder: "ErnieMModel") -> "Engine":
    """Args: engine: dygraph, paddle, onnx or onnx-int8; folder: for its files, if they are not there yet."""
    from inference.engines import DygraphEngine, OnnxEngine, PaddleEngine
    from inference.outputs import FILES
    from inference.paddle_model import Traced

    part = Traced(encoder.eval(), "encode", encoder.config.num_hidden_layers)
    if engine == "dygraph":
        return DygraphEngine(part, part.outputs)
    if not (folder / FILES[engine]).exists():
        if engine == "paddle":
            from inference.export import write_paddle

            write_paddle(folder, part)
        else:
            from inference.onnx_graph import write_onnx
            from model.checkpoint import model_weights

            config, int8 = encoder.config.to_dict(), engine == "onnx-int8"
            write_onnx(folder / FILES[engine], model_weights(encoder), config, "encode", int8=int8)
    threads = read_cpu().cores
    if engine == "paddle":
        return PaddleEngine(folder, part.outputs, threads)
    return OnnxEngine(folder / FILES[engine], threads)
