"""What all engines share: their type, the files of their exports, and the checks of an export."""

from collections.abc import Callable

import numpy as np

from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.utils.errors import UserError

# Engine -> its graph file in an export. The first existing one is the default.
FILES = {"onnx": "model.onnx", "paddle-inference": "inference.json"}
# Engine -> its weights file.
WEIGHTS_FILES = {"onnx": "model.onnx.data", "paddle-inference": "inference.pdiparams"}
# An engine: ids, int64 [B, T], padded on the right -> output name -> float32 array
GraphRunner = Callable[[np.ndarray], dict[str, np.ndarray]]


def wrap_with_checks(run: GraphRunner, source: object) -> GraphRunner:
    """Wrap the engine of an export: an exception of its own becomes `UserError`, as do outputs with NaN.

    Args:
        source: the directory of the export, for errors.
    """
    fix = "Export the checkpoint again"

    def run_and_check(ids: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = run(ids)
        except UserError:
            raise
        except Exception as error:  # those of engines have no other common base
            # The lines above the last one are code locations.
            reason = str(error).strip().rpartition("\n")[2]
            raise UserError(f"{source}: cannot run it ({type(error).__name__}: {reason}). {fix}") from error
        return {name: check_finite(name, array, source, fix) for name, array in outputs.items()}

    return run_and_check
