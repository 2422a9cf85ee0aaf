"""An exported encoder as `evaluation.vectors.VectorEncoder`."""

import numpy as np

from inference.engines import Engine
from inference.loading import Loaded
from inference.tasks.encode import pooled
from model.task_names import ENCODING
from utils.errors import UserError


class ExportedEncoder:
    """Args: engine: of an encoder; is_top: it ends at the top layer, so that it has the pooled [CLS]."""

    def __init__(self, engine: Engine, hidden_size: int, pad_id: int, is_top: bool):
        self.engine, self.hidden_size, self.pad_id, self.is_top = engine, hidden_size, pad_id, is_top

    @classmethod
    def of(cls, model: Loaded, layer: int) -> "ExportedEncoder":
        """Of an exported folder.

        Raises:
            UserError: it was exported for something else, or up to another layer.
        """
        sizes = model.config["hidden_size"], model.config["pad_token_id"]
        return cls(model.engine(ENCODING, layer), *sizes, layer == model.num_layers)

    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        self._needs_top(pooling == "pooled")
        return pooled(ids, self.engine(ids), pooling, self.pad_id)

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._needs_top(True)
        outputs = self.engine(ids)
        return outputs["pooled"], outputs["sequence"]

    def _needs_top(self, needed: bool) -> None:
        if needed and not self.is_top:
            raise UserError(
                "the pooled [CLS] is of the top layer: export with --layer top, or --vectors mean"
            )
