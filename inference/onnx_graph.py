"""An encoder with a head as an ONNX graph, written from its weights with the `onnx` library.

Standard operators of opset 20 only, in the shapes that ONNX Runtime knows how to fuse: attention as
transformers export it, residual and layer norm side by side, gelu behind its bias. Input: `input_ids`, int64
[B, T], padded on the right with the pad id; both axes are free. Pads are masked, positions counted inside.

    task        outputs
    encode      sequence [B, T, H], pooled [B, H] (top layer only)
    classify    logits [B, labels]
    tag         logits [B, T, labels]
    answer      start_logits [B, T], end_logits [B, T]

Weights lie beside the graph in `<name>.data`, written one at a time; ONNX allows a graph 2 GB of its own.

int8: the products of the encoder's layers take int8 weights, a scale for each output, and activations that
are quantised as they come (DynamicQuantizeLinear); the word table is int8 with a scale for each row. Layer
norms, softmax, pooler and head stay float32.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from inference.outputs import OUTPUTS
from utils.errors import UserError

OPSET, IR_VERSION = 20, 9  # the first opset with Gelu, and the IR of its time
CLOSED = -1e4  # added to a closed score, as in model/attention.py
FIRST_POSITION_SHIFT = 1  # position of the n-th real token, n from 1: n + 1; of a pad: 1
_ALIGNED = 4096  # so that the file can be mapped


class GraphWriter:
    """Nodes, and weights that go straight to the data file."""

    def __init__(self, data: BinaryIO, data_name: str):
        self.data, self.data_name = data, data_name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._names: dict[str, int] = {}

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """A small array in the graph itself."""
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """An array in the data file."""
        array = np.ascontiguousarray(array)
        self.data.write(bytes(-self.data.tell() % _ALIGNED))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        place = {"location": self.data_name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(memoryview(array).cast("B"))
        self.initializers.append(tensor)
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes) -> Any:
        """Add a node; its output's name, or a list of them."""
        number = self._names[op] = self._names.get(op, 0) + 1
        base = name or f"{op}_{number}"
        names = [base] if outputs == 1 else [f"{base}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"node.{base}", **attributes))
        return names[0] if outputs == 1 else names


class _Encoder:
    """Writes the graph; `used` are the names of the weights that are in it."""

    def __init__(
        self, graph: GraphWriter, weights: Mapping[str, np.ndarray], config: Mapping[str, Any], int8: bool,
        reduce_range: bool,
    ):  # fmt: skip
        self.graph, self.weights, self.config, self.int8 = graph, weights, config, int8
        self.largest = 63 if reduce_range else 127
        self.used: set[str] = set()

    def array(self, name: str) -> np.ndarray:
        self.used.add(name)
        return np.asarray(self.weights[name], np.float32)

    def weight(self, name: str) -> str:
        return self.graph.weight(name, self.array(name))

    def write(self, task: str, layers: int) -> list[str]:
        """The whole graph; the names of its outputs."""
        constant = self.graph.constant
        heads, size = self.config["num_attention_heads"], self.config["hidden_size"]
        constant("head_shape", [0, 0, heads, size // heads], np.int64)
        constant("merged_shape", [0, 0, size], np.int64)
        constant("root_of_head_size", np.sqrt(size // heads))
        x, bias = self._embeddings()
        for i in range(layers):
            x = self._layer(x, bias, f"encoder.layers.{i}.")
        return self._head(task, x, layers)

    def _embeddings(self) -> tuple[str, str]:
        """[B, T] ids -> embeddings [B, T, H] and what is added to the scores [B, 1, 1, T]."""
        node, constant = self.graph.node, self.graph.constant
        constant("pad_id", self.config["pad_token_id"], np.int64)
        pads = node("Equal", "input_ids", "pad_id")
        real = node("Cast", node("Not", pads), to=TensorProto.INT64)  # [B, T]
        constant("one", FIRST_POSITION_SHIFT, np.int64)
        counted = node("CumSum", real, constant("axis_1", 1, np.int64))
        positions = node("Add", node("Mul", counted, real), "one", name="position_ids")
        place = node("Gather", self.weight("embeddings.position_embeddings.weight"), positions, axis=0)
        x = self._norm(node("Add", self._words(), place), "embeddings.layer_norm")
        mask = node("Unsqueeze", real, constant("second_axis", [1], np.int64))
        mask = node("Unsqueeze", mask, constant("third_axis", [2], np.int64))  # [B, 1, 1, T]
        closed = node("Sub", constant("one_float", 1.0), node("Cast", mask, to=TensorProto.FLOAT))
        return x, node("Mul", closed, constant("closed", CLOSED))

    def _words(self) -> str:
        """The rows of the word table: [B, T, H]."""
        node, name = self.graph.node, "embeddings.word_embeddings.weight"
        if not self.int8:
            return node("Gather", self.weight(name), "input_ids", axis=0)
        table, scale = quantised(self.array(name), axis=1, largest=127)
        rows = node("Gather", self.graph.weight(name, table), "input_ids", axis=0)
        scales = node("Gather", self.graph.weight(f"{name}.scale", scale), "input_ids", axis=0)
        return node("Mul", node("Cast", rows, to=TensorProto.FLOAT), scales)

    def _layer(self, x: str, bias: str, name: str) -> str:
        node = self.graph.node
        take = self._taken(x)
        query, key, value = (
            node("Reshape", self._linear(take, f"{name}self_attn.{part}_proj"), "head_shape")
            for part in "qkv"
        )
        query = node("Transpose", query, perm=[0, 2, 1, 3])  # [B, N, T, D]
        key = node("Transpose", key, perm=[0, 2, 3, 1])  # [B, N, D, T]
        value = node("Transpose", value, perm=[0, 2, 1, 3])
        scores = node("Div", node("MatMul", query, key), "root_of_head_size")
        shares = node("Softmax", node("Add", scores, bias), axis=-1)  # [B, N, T, T]
        mixed = node("Transpose", node("MatMul", shares, value), perm=[0, 2, 1, 3])
        mixed = node("Reshape", mixed, "merged_shape")  # [B, T, H]
        mixed = self._linear(self._taken(mixed), f"{name}self_attn.out_proj")
        x = self._norm(node("Add", mixed, x), f"{name}norm1")
        inner = node("Gelu", self._linear(self._taken(x), f"{name}linear1"))
        inner = self._linear(self._taken(inner), f"{name}linear2")
        return self._norm(node("Add", inner, x), f"{name}norm2")

    def _taken(self, x: str) -> tuple[str, ...]:
        """What a product takes: (x,), or x as (uint8, scale, zero point)."""
        return tuple(self.graph.node("DynamicQuantizeLinear", x, outputs=3)) if self.int8 else (x,)

    def _linear(self, x: tuple[str, ...], name: str) -> str:
        node = self.graph.node
        if len(x) == 1:
            product = node("MatMul", x[0], self.weight(f"{name}.weight"))
        else:
            whole, scale = quantised(self.array(f"{name}.weight"), axis=0, largest=self.largest)
            weight = self.graph.weight(f"{name}.weight", whole)
            scale = self.graph.weight(f"{name}.weight.scale", scale[0])
            zero = self.graph.constant(f"{name}.weight.zero", np.zeros(whole.shape[1]), np.int8)
            sums = node("MatMulInteger", x[0], weight, x[2], zero)
            sums = node("Cast", sums, to=TensorProto.FLOAT)
            product = node("Mul", sums, node("Mul", x[1], scale))
        return node("Add", product, self.weight(f"{name}.bias"))

    def _norm(self, x: str, name: str) -> str:
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        epsilon = float(self.config.get("layer_norm_eps", 1e-5))
        return self.graph.node("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def _head(self, task: str, x: str, layers: int) -> list[str]:
        node, outputs = self.graph.node, list(OUTPUTS[task])
        if task == "tag":
            return [self._named(self._linear((x,), "classifier"), outputs[0])]
        if task == "answer":
            both = self._linear((x,), "classifier")  # [B, T, 2]
            return [
                node("Gather", both, self.graph.constant(f"end_{i}", i, np.int64), axis=2, name=name)
                for i, name in enumerate(outputs)
            ]
        found = [] if task == "classify" else [self._named(x, outputs[0])]
        if layers == self.config["num_hidden_layers"] and "pooler.dense.weight" in self.weights:
            first = node("Gather", x, self.graph.constant("first", 0, np.int64), axis=1)  # [B, H]
            pooled = node("Tanh", self._linear((first,), "pooler.dense"))
            if task == "classify":
                return [self._named(self._linear((pooled,), "classifier"), outputs[0])]
            found.append(self._named(pooled, outputs[1]))
        return found

    def _named(self, value: str, name: str) -> str:
        return self.graph.node("Identity", value, name=name)


def quantised(weight: np.ndarray, axis: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """weight [I, O] -> int8 [I, O] and the scale of what shares all but `axis`, float32 with that axis 1."""
    scale = np.abs(weight).max(axis=axis, keepdims=True) / np.float32(largest)
    scale[scale == 0] = 1.0
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def write_onnx(
    path: Path,
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    task: str,
    layers: int | None = None,
    int8: bool = False,
    reduce_range: bool = False,
) -> None:
    """Write `path` and `path` + ".data".

    Args:
        path: a new file, in a folder that the caller makes atomic.
        weights: canonical name -> array (`model.checkpoint.model_weights`).
        config: of the model: `ErnieMConfig.to_dict()`.
        task: a key of `OUTPUTS`.
        layers: layers of the encoder in it; None: all.
        int8: quantise, see above.
        reduce_range: weights of 7 bits, for CPUs without VNNI, whose int8 products saturate.

    Raises:
        UserError: a part of the model has no place in the graph.
    """
    layers = config["num_hidden_layers"] if layers is None else layers
    with open(f"{path}.data", "wb") as data:
        graph = GraphWriter(data, f"{path.name}.data")
        encoder = _Encoder(graph, weights, config, int8, reduce_range)
        try:
            outputs = encoder.write(task, layers)
        except KeyError as error:
            raise UserError(f"{task} cannot be exported: the model has no {error.args[0]}") from error
    _refuse_what_is_left(weights, encoder.used, layers, task)
    free = {
        "sequence": ["batch", "length", config["hidden_size"]],
        "pooled": ["batch", config["hidden_size"]],
        "logits": ["batch", *["length"] * (task == "tag"), "labels"],
    }
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, f"ernie_m_{task}",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, free.get(name, ["batch", "length"]))
                for name in outputs
            ],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ernie-m",
    )  # fmt: skip
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _refuse_what_is_left(weights: Mapping, used: set[str], layers: int, task: str) -> None:
    def above(name: str) -> bool:
        return name.startswith("encoder.layers.") and int(name.split(".")[2]) >= layers

    left = [
        name for name in weights if name not in used and not above(name) and not name.startswith("pooler.")
    ]
    if left:
        raise UserError(
            f"the {task} model cannot be exported to ONNX: {', '.join(left[:3])}"
            f"{f' and {len(left) - 3} more tensors' if len(left) > 3 else ''} have no place in the graph"
        )
