"""Export of an encoder with a head as an ONNX graph, with the `onnx` library.

The graph uses only standard operators of opset 20. `ernie_m/inference/encoder_graph.py` defines its input and
outputs. Hidden states are packed, [n, H], which keeps ONNX Runtime from using its slower fused kernels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from ernie_m.inference.encoder_graph import EncoderGraph
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import TASKS, get_stored_name

OPSET = 20  # the first opset with Gelu
IR_VERSION = 9  # the ONNX file format version of that opset
_ALIGNED = 4096  # alignment of arrays in bytes, so that the file can be memory-mapped


class OnnxGraph(EncoderGraph):
    """An `EncoderGraph` of ONNX nodes and initializers, which writes the weights to `data`."""

    def __init__(self, data: BinaryIO, *graph_options: Any):
        super().__init__(*graph_options)
        self.data = data
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def add_constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Add a small array to the graph as an initializer, and return its name."""
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add_weight(self, name: str) -> str:
        """Write a weight of the model to the data file, add its initializer, and return its name."""
        array = np.ascontiguousarray(self.weights[name])
        padding = (-self.data.tell()) % _ALIGNED  # bytes up to the next multiple
        self.data.write(bytes(padding))  # zeros
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        location = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(memoryview(array).cast("B"))
        self.initializers.append(tensor)
        return name

    def add_node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Add the node of an ONNX operator. A dtype among the attributes is a NumPy dtype."""
        if "to" in attributes:  # a dtype
            attributes["to"] = helper.np_dtype_to_tensor_dtype(np.dtype(attributes["to"]))
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"node.{output}", **attributes))


def write_onnx(
    path: Path,
    weights: Mapping[str, np.ndarray],
    config: ErnieMConfig,
    task: str,
    layers: int,
    pooling: str | None = None,
) -> None:
    """Write an ONNX graph to `path`, and its weights to `path` + ".data", because a graph is limited to 2 GB.

    Args:
        path: a new file, in a directory of `ernie_m.utils.files.atomic_dir`.
        weights: canonical name -> float32 array (`ernie_m.model.checkpoint.write.get_weight_arrays`).
        task: one of `ernie_m.model.tasks.EXPORTED_TASKS`.
        layers: the number of encoder layers to write.
        pooling: the input of a classification head, see `ernie_m.model.heads.SequenceClassifier`.
    """
    with open(f"{path}.data", "wb") as data:
        graph = OnnxGraph(data, weights, config, task, layers, pooling)
        graph.build()
    outputs = []
    for name in graph.outputs:
        axes = [config.hidden_size if axis == "hidden" else axis for axis in TASKS[task].outputs[name]]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, f"ernie_m_{get_stored_name(task)}", [ids], outputs, graph.initializers
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ernie-m",
    )
    path.write_bytes(model.SerializeToString())
