"""The encoder of a checkpoint as a graph of OpenVINO."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ernie_m.inference.encoder_graph import EncoderGraph
from ernie_m.model.checkpoint.weights import check_finite


def import_openvino() -> ModuleType:
    """Import OpenVINO with telemetry disabled, and return the module."""
    # Its telemetry would report each import from a thread, and write files to HOME.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


class OpenVinoGraph(EncoderGraph):
    """An `EncoderGraph` of OpenVINO nodes."""

    def __init__(self, *graph_options: Any):
        super().__init__(*graph_options)
        self.arrays: dict[str, np.ndarray] = {}  # the weights
        self.ops = ops = import_openvino().opset13
        self.node_of = {"input_ids": ops.parameter([-1, -1], np.int64, "input_ids")}
        # ONNX operator -> a function of the input nodes and attributes that creates the node.
        self.makers = {
            "Add": ops.add,
            "Cast": lambda x, to: ops.convert(x, to),
            "CumSum": ops.cumsum,
            "Div": ops.divide,
            "Equal": ops.equal,
            "Gather": lambda x, indices, axis=0: ops.gather(x, indices, np.int64(axis)),
            "Gelu": lambda x: ops.gelu(x, "erf"),
            "LayerNormalization": self._apply_norm,
            "MatMul": lambda x, y: ops.matmul(x, y, False, False),
            "Mul": ops.multiply,
            "NonZero": lambda x: ops.non_zero(x, "i64"),
            "Not": ops.logical_not,
            "Reshape": lambda x, shape: ops.reshape(x, shape, special_zero=True),
            "Shape": ops.shape_of,
            "Softmax": ops.softmax,
            "Sub": ops.subtract,
            "Tanh": ops.tanh,
            "Transpose": lambda x, perm: ops.transpose(x, np.array(perm, np.int64)),
            "Unsqueeze": ops.unsqueeze,
        }

    def add_constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Add a constant node, and return its name."""
        self.node_of[name] = self.ops.constant(np.asarray(values, dtype))
        return name

    def add_weight(self, name: str) -> str:
        """Add a weight of the model as a constant node that shares its memory, and return its name.

        Raises:
            UserError: the weight is not finite.
        """
        array = check_finite(name, self.weights[name], self.weights.source)
        # OpenVINO shares the memory of writable arrays only.
        self.arrays[name] = np.require(array, np.float32, ["C", "W"])
        self.node_of[name] = self.ops.constant(self.arrays[name], shared_memory=True)
        return name

    def add_node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Add the node of an ONNX operator."""
        self.node_of[output] = self.makers[op](*(self.node_of[name] for name in inputs), **attributes)

    def _apply_norm(self, x: Any, scale: Any, bias: Any, axis: int, epsilon: float) -> Any:
        """Build a layer normalization from OpenVINO operators."""
        normal = self.ops.mvn(x, np.array([axis], np.int64), True, epsilon, "INSIDE_SQRT")
        return self.ops.add(self.ops.multiply(normal, scale), bias)
