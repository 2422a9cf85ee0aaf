"""Write an encoder with a head as an ONNX graph, from its weights, with the `onnx` library.

The graph uses only standard operators of opset 20. Its input is `input_ids`, int64 [B, T], padded on the
right with the pad id; both axes are free. The graph computes the mask and the positions.

    task        outputs
    encoding              sequence [B, T, H], pooled [B, H] (top layer only)
    classification        logits [B, labels]
    tagging               logits [B, T, labels]
    question_answering    start_logits [B, T], end_logits [B, T]

The n tokens that are not pads are stored one after another, [n, H]; only attention arranges them in rows of
[B, T]. Pads therefore cost almost nothing, and do not widen the range that int8 quantises. In the outputs, a
pad has the values of the token before it. In the last layer of classification, only the first token of each
row is a query. The shape [n, H] also keeps ONNX Runtime from its slower fused kernels (docs/export.md).

int8: the products of the encoder's layers use int8 weights with a scale for each output, and activations that
are quantised at run time (DynamicQuantizeLinear). The word table is int8 with a scale for each row. Layer
norms, softmax, pooler and head stay float32. docs/export.md compares this with ONNX Runtime's own tool.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from model.task_names import CLASSIFICATION, ENCODING, OUTPUTS, TAGGING

OPSET, IR_VERSION = 20, 9  # the first opset with Gelu, and the IR of its time
CLOSED = -1e4  # added to the score of a pad, as in model/attention.py
FIRST_POSITION_SHIFT = 1  # the n-th token that is no pad, n from 1, has position n + 1
_ALIGNED = 4096  # so that the file can be mapped


class _EncoderGraph:
    """Collects nodes and initializers, and writes the weights to the data file one at a time."""

    def __init__(
        self, data: BinaryIO, weights: Mapping[str, np.ndarray], config: Mapping[str, Any],
        largest: int | None,
    ):  # fmt: skip
        self.data, self.weights, self.config, self.largest = data, weights, config, largest
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._numbers: Counter[str] = Counter()

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """A small array in the graph itself."""
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def stored(self, name: str, array: np.ndarray) -> str:
        """An array in the data file."""
        array = np.ascontiguousarray(array)
        self.data.write(bytes(-self.data.tell() % _ALIGNED))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        place = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(memoryview(array).cast("B"))
        self.initializers.append(tensor)
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes) -> Any:
        """Add a node; returns the name of its output, or a list of names."""
        self._numbers[op] += 1
        base = name or f"{op}_{self._numbers[op]}"
        names = [base] if outputs == 1 else [f"{base}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"node.{base}", **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str) -> str:
        return self.stored(name, self.weights[name])

    def write(self, task: str, layers: int) -> list[str]:
        """Write the graph; returns the names of its outputs."""
        heads, size = self.config["num_attention_heads"], self.config["hidden_size"]
        whole = {"pad_id": self.config["pad_token_id"], "zero": 0, "one": 1, "heads": heads, "flat": [-1]}
        whole |= {"by_size": [-1, size], "by_head": [-1, size // heads]}
        whole |= {"by_asking_head": [-1, heads, 1, size // heads]}
        for name, value in whole.items():
            self.constant(name, value, np.int64)
        self.constant("root_of_head_size", np.sqrt(size // heads))
        x = self._embeddings(*self._tokens(heads))
        for i in range(layers):
            x = self._layer(x, f"encoder.layers.{i}.", task == CLASSIFICATION and i == layers - 1)
        return self._head(task, x, layers)

    def _tokens(self, heads: int) -> tuple[str, str]:
        """Ids and positions of the n tokens, [n] each. Sets the indices that move tokens to rows and back."""
        node, constant = self.node, self.constant
        real = node("Not", node("Equal", "input_ids", "pad_id"))
        real = node("Cast", real, to=TensorProto.INT64)  # [B, T]
        flat = node("Reshape", real, "flat")
        kept = node("Reshape", node("NonZero", flat), "flat")  # [n], of the places 0 to B * T - 1
        ids = node("Gather", node("Reshape", "input_ids", "flat"), kept)
        constant("shift", FIRST_POSITION_SHIFT, np.int64)
        positions = node("Add", node("CumSum", real, "one"), "shift")
        positions = node("Gather", node("Reshape", positions, "flat"), kept, name="position_ids")

        shape = node("Shape", "input_ids")
        number = node("Sub", node("CumSum", flat, "zero"), "one")
        self.number = node("Reshape", number, shape)  # [B, T]: which of the n; at a pad the one before it
        self.first = node("Gather", self.number, "zero", axis=1)  # [B]
        # Heads are rows of D numbers: row i * N + h of [n, N, D] is row (b * N + h) * T + t of [B, N, T, D].
        row = node("Unsqueeze", node("Mul", self.number, "heads"), "one")
        constant("each_head", np.arange(heads)[:, None], np.int64)
        self.to_heads = node("Add", row, "each_head")  # [B, N, T]
        length = node("Gather", shape, "one")
        sentence = node("Unsqueeze", node("Div", kept, length), "one")  # [n, 1]
        passed = node("Mul", sentence, constant("other_heads", heads - 1, np.int64))
        passed = node("Add", passed, constant("every_head", np.arange(heads), np.int64))
        self.from_heads = node("Add", node("Unsqueeze", kept, "one"), node("Mul", passed, length))  # [n, N]

        mask = node("Unsqueeze", real, constant("inner_axes", [1, 2], np.int64))  # [B, 1, 1, T]
        closed = node("Sub", constant("open", 1.0), node("Cast", mask, to=TensorProto.FLOAT))
        self.bias = node("Mul", closed, constant("closed", CLOSED))  # what is added to the scores
        return ids, positions

    def _embeddings(self, ids: str, positions: str) -> str:
        """[n, H]."""
        node = self.node
        place = node("Gather", self.weight("embeddings.position_embeddings.weight"), positions, axis=0)
        return self._norm(node("Add", self._words(ids), place), "embeddings.layer_norm")

    def _words(self, ids: str) -> str:
        """The rows of the word table: [n, H]."""
        node, name = self.node, "embeddings.word_embeddings.weight"
        if self.largest is None:
            return node("Gather", self.weight(name), ids, axis=0)
        table, scale = quantised(self.weights[name], axis=1, largest=127)
        rows = node("Gather", self.stored(name, table), ids, axis=0)
        scales = node("Gather", self.stored(f"{name}.scale", scale), ids, axis=0)
        return node("Mul", node("Cast", rows, to=TensorProto.FLOAT), scales)

    def _layer(self, x: str, name: str, only_first: bool) -> str:
        """x [n, H] -> [n, H]. With `only_first`, only the first token of each row is a query: [B, H]."""
        node, taken = self.node, self._taken(x)
        key, value = (self._heads(self._linear(taken, f"{name}self_attn.{part}_proj")) for part in "kv")
        if only_first:
            x = node("Gather", x, self.first, axis=0)
            taken = self._taken(x)
        query = self._linear(taken, f"{name}self_attn.q_proj")
        query = node("Reshape", query, "by_asking_head") if only_first else self._heads(query)
        scores = node("MatMul", query, node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = node("Add", node("Div", scores, "root_of_head_size"), self.bias)
        mixed = node("MatMul", node("Softmax", scores, axis=-1), value)  # [B, N, T or 1, D]
        if not only_first:
            mixed = node("Gather", node("Reshape", mixed, "by_head"), self.from_heads, axis=0)  # [n, N, D]
        mixed = self._linear(self._taken(node("Reshape", mixed, "by_size")), f"{name}self_attn.out_proj")
        x = self._norm(node("Add", mixed, x), f"{name}norm1")
        inner = node("Gelu", self._linear(self._taken(x), f"{name}linear1"))
        inner = self._linear(self._taken(inner), f"{name}linear2")
        return self._norm(node("Add", inner, x), f"{name}norm2")

    def _heads(self, x: str) -> str:
        """[n, H] -> [B, N, T, D]."""
        return self.node("Gather", self.node("Reshape", x, "by_head"), self.to_heads, axis=0)

    def _taken(self, x: str) -> tuple[str, ...]:
        """The input of a product: (x,), or in int8 x as (uint8, scale, zero point)."""
        return tuple(self.node("DynamicQuantizeLinear", x, outputs=3)) if self.largest else (x,)

    def _linear(self, x: tuple[str, ...], name: str) -> str:
        node = self.node
        if len(x) == 1:
            product = node("MatMul", x[0], self.weight(f"{name}.weight"))
        else:
            whole, scale = quantised(self.weights[f"{name}.weight"], axis=0, largest=self.largest)
            weight = self.stored(f"{name}.weight", whole)
            scale = self.stored(f"{name}.weight.scale", scale[0])
            zero = self.constant(f"{name}.weight.zero", np.zeros(whole.shape[1]), np.int8)
            sums = node("MatMulInteger", x[0], weight, x[2], zero)
            sums = node("Cast", sums, to=TensorProto.FLOAT)
            product = node("Mul", sums, node("Mul", x[1], scale))
        return node("Add", product, self.weight(f"{name}.bias"))

    def _norm(self, x: str, name: str) -> str:
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        epsilon = float(self.config.get("layer_norm_eps", 1e-5))
        return self.node("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def _head(self, task: str, x: str, layers: int) -> list[str]:
        node, outputs = self.node, list(OUTPUTS[task])
        if task == CLASSIFICATION:
            pooled = node("Tanh", self._linear((x,), "pooler.dense"))
            return [node("Identity", self._linear((pooled,), "classifier"), name=outputs[0])]
        if task == ENCODING:
            found = [node("Gather", x, self.number, axis=0, name=outputs[0])]
            if layers == self.config["num_hidden_layers"]:
                first = node("Gather", x, self.first, axis=0)  # [B, H]
                found.append(node("Tanh", self._linear((first,), "pooler.dense"), name=outputs[1]))
            return found
        logits = self._linear((x,), "classifier")  # [n, labels]
        if task == TAGGING:
            return [node("Gather", logits, self.number, axis=0, name=outputs[0])]
        both = node("Gather", logits, self.number, axis=0)  # [B, T, 2]
        places = zip(("zero", "one"), outputs)
        return [node("Gather", both, place, axis=2, name=name) for place, name in places]


def quantised(weight: np.ndarray, axis: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """weight [I, O] -> int8 [I, O] and its float32 scales along the other axis; `axis` has size 1 in them."""
    scale = np.abs(weight).max(axis=axis, keepdims=True) / np.float32(largest)
    scale[scale == 0] = 1.0
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def write_onnx(
    path: Path, weights: Mapping[str, np.ndarray], config: Mapping[str, Any], task: str, layers: int,
    largest: int | None = None,
) -> None:  # fmt: skip
    """Write the graph to `path` and the weights to `path` + ".data", as a graph file is limited to 2 GB.

    Args:
        path: a new file, in a folder of `utils.files.atomic_dir`.
        weights: canonical name -> float32 array (`model.checkpoint.folder.model_weights`).
        config: `ErnieMConfig.to_dict()` of the model.
        task: a key of `OUTPUTS`.
        layers: number of encoder layers to write.
        largest: None: float32; else int8 with weights up to this: 127, or 63 (7 bits) for CPUs without VNNI,
            where int8 products saturate.
    """
    with open(f"{path}.data", "wb") as data:
        graph = _EncoderGraph(data, weights, config, largest)
        outputs = graph.write(task, layers)
    free = {
        "sequence": ["batch", "length", config["hidden_size"]],
        "pooled": ["batch", config["hidden_size"]],
        "logits": ["batch", *["length"] * (task == TAGGING), "labels"],
    }
    found = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, free.get(name, ["batch", "length"]))
        for name in outputs
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    model = helper.make_model(
        helper.make_graph(graph.nodes, f"ernie_m_{task}", [ids], found, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ernie-m",
    )  # fmt: skip
    path.write_bytes(model.SerializeToString())
