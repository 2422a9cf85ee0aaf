"""What all engines share: their type, the files of their exports, and a check of their outputs."""

from collections.abc import Callable

import numpy as np

from ernie_m.model.checkpoint.weights import check_finite

# Engine -> its graph file in an export. The first existing one is the default.
FILES = {"onnx": "model.onnx", "paddle-inference": "inference.json"}
# Engine -> its weights file.
WEIGHTS_FILES = {"onnx": "model.onnx.data", "paddle-inference": "inference.pdiparams"}
# An engine: ids, int64 [B, T], padded on the right -> output name -> float32 array
GraphRunner = Callable[[np.ndarray], dict[str, np.ndarray]]


def wrap_with_finite_check(run: GraphRunner, source: object) -> GraphRunner:
    """Wrap an engine so that `check_finite` checks its outputs, for graphs whose weights were not checked."""
    fix = "Export the checkpoint again"
    return lambda ids: {name: check_finite(name, array, source, fix) for name, array in run(ids).items()}
