"""The engines of `inference` on a model of random weights.

Files are written once for all rounds, in a process of its own, so that the memory of an engine's process is
that of the engine alone.
"""

import multiprocessing
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference.requests import FILES
from model.config import ErnieMConfig
from model.task_names import ENCODING, OUTPUTS
from utils.runtime import prepare, read_cpu

if TYPE_CHECKING:
    from inference.engines import GraphRunner


def open_engine(engine: str, folder: Path, config: ErnieMConfig) -> "GraphRunner":
    """Args: engine: dygraph, paddle, onnx or onnx-int8; folder: for its files, if they are not there yet."""
    from inference.engines import DygraphEngine, OnnxEngine, PaddleEngine

    if engine == "dygraph":
        return DygraphEngine(_make_encoder(config), OUTPUTS[ENCODING])
    if not (folder / FILES[engine]).exists():
        writer = multiprocessing.get_context("spawn").Process(target=_write, args=(engine, folder, config))
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(f"{engine}: its file could not be written")
    threads = read_cpu().cores
    if engine == "paddle":
        return PaddleEngine(folder, OUTPUTS[ENCODING], threads)
    return OnnxEngine(folder / FILES[engine], threads)


def _make_encoder(config: ErnieMConfig):
    prepare(quiet=True)
    from inference.paddle_model import Traced
    from model.ernie_m import ErnieMModel

    return Traced(ErnieMModel(config).eval(), ENCODING, config.num_hidden_layers)


def _write(engine: str, folder: Path, config: ErnieMConfig) -> None:
    part = _make_encoder(config)
    if engine == "paddle":
        from inference.export import write_paddle

        write_paddle(folder, part)
    else:
        from inference.onnx import write_onnx
        from model.checkpoint.folder import model_weights

        weights, int8 = model_weights(part.model), engine == "onnx-int8"
        write_onnx(folder / FILES[engine], weights, config.to_dict(), ENCODING, int8=int8)
