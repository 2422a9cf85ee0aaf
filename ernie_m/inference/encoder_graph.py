"""The encoder with a head as a graph of ONNX operators, independent of the library that runs it.

The input is `input_ids`, int64 [B, T], padded on the right with the pad id; both axes are dynamic. The graph
computes the mask and the positions.

    task                  outputs
    encoding              sequence [B, T, H], pooled [B, H] (last layer only)
    classification        logits [B, labels]
    tagging               logits [B, T, labels]
    question_answering    start_logits [B, T], end_logits [B, T]

The n tokens without padding are packed, [n, H]; only attention uses padded rows, [B, T]. Padding is therefore
almost free. In the outputs, a pad has the values of the token before it. In the last layer of classification,
only the first token of each row is a query.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.model.tasks import EMBEDDING, POOLED, TASKS, list_graph_outputs

MASKED_SCORE = -1e4  # added to the score of a pad, as in ernie_m/model/attention.py


class EncoderGraph(ABC):
    """Base class of builders of a graph for an encoder with a head; subclasses create the nodes.

    Args:
        weights: canonical name -> float32 array.
        task: one of `ernie_m.model.tasks.EXPORTED_TASKS`.
        layers: the number of encoder layers.
        pooling: the input of a classification head, see `ernie_m.model.heads.SequenceClassifier`.

    The attributes, set by `_add_token_nodes`, name arrays of the graph. The n tokens are indexed from 0.

    Attributes:
        cell_to_token: [B, T], the index of the token in each cell of the padded rows.
        first_tokens: [B], the index of the first token of each row.
        token_to_cell: [n], the index of the cell of each token, below B * T.
        is_real: [B, T], the attention mask: 1 at tokens, 0 at pads.
        bias: [B, 1, 1, T], added to the scores: `MASKED_SCORE` at pads, 0 at tokens.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        config: ErnieMConfig,
        task: str,
        layers: int,
        pooling: str | None = None,
    ):
        self.weights = weights
        self.config = config
        self.task = TASKS[task]
        self.layers = layers
        self.reads_mean = pooling == MEAN_OF_TOKENS
        has_pooler = "pooler.dense.weight" in weights
        self.outputs = list_graph_outputs(task, has_pooler and layers == config.num_hidden_layers)
        self._count_of_op: Counter[str] = Counter()

    # Implemented by subclasses

    @abstractmethod
    def add_constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Add a small constant array to the graph, and return its name."""

    @abstractmethod
    def add_weight(self, name: str) -> str:
        """Add a weight of the model to the graph, and return its name."""

    @abstractmethod
    def add_node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Add the node of an ONNX operator with one output.

        Args:
            op: the ONNX operator.
            inputs: the names of the inputs.
            output: the name of the output.
            attributes: the attributes of the node; a dtype is a NumPy dtype.
        """

    # The graph

    def apply_operator(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add the node of an ONNX operator, and return the name of its output.

        Args:
            name: the name of the output; None: a unique name.
        """
        self._count_of_op[op] += 1
        output = name or f"{op}_{self._count_of_op[op]}"
        self.add_node(op, inputs, output, **attributes)
        return output

    def build(self) -> None:
        """Add all nodes and weights of the encoder and the head."""
        heads = self.config.num_attention_heads
        size = self.config.hidden_size
        head_size = size // heads
        # Constants used by several methods.
        integers = {
            "pad_id": self.config.pad_token_id,
            "zero": 0,
            "one": 1,
            "flat": [-1],  # the rest are shapes
            "by_size": [-1, size],
            "by_head": [0, 0, heads, head_size],  # 0: keep the size
        }
        for name, value in integers.items():
            self.add_constant(name, value, np.int64)
        self.add_constant("root_of_head_size", np.sqrt(head_size))
        ids, positions = self._add_token_nodes()
        x = self._add_embeddings(ids, positions)
        for i in range(self.layers):
            is_last = i == self.layers - 1
            only_first = is_last and self.task.head_reads == POOLED and not self.reads_mean
            x = self._add_layer(x, f"encoder.layers.{i}.", only_first)
        self._add_head(x)

    def _add_token_nodes(self) -> tuple[str, str]:
        """Add the nodes of the packed ids and positions, [n] each, set the attributes, and return both names.

        The inputs "zero" and "one" are constants that `build` adds.
        """
        node = self.apply_operator
        constant = self.add_constant
        is_token = node("Not", node("Equal", "input_ids", "pad_id"))  # [B, T], bool
        is_real = node("Cast", is_token, to=np.int64)  # [B, T], 0 or 1
        self.is_real = is_real
        is_real_flat = node("Reshape", is_real, "flat")  # [B * T]
        self.token_to_cell = node("Reshape", node("NonZero", is_real_flat), "flat")  # [n]
        ids = node("Gather", node("Reshape", "input_ids", "flat"), self.token_to_cell)  # [n]
        # The n-th token of a row, n from 1, has position FIRST_POSITION + n - 1.
        shift = constant("shift", FIRST_POSITION - 1, np.int64)
        token_numbers = node("CumSum", is_real, "one")  # [B, T]; the input "one" is the axis
        padded_positions = node("Add", token_numbers, shift)  # [B, T]
        flat_positions = node("Reshape", padded_positions, "flat")  # [B * T]
        positions = node("Gather", flat_positions, self.token_to_cell, name="position_ids")  # [n]
        tokens_so_far = node("CumSum", is_real_flat, "zero")  # [B * T]; the input "zero" is the axis
        # A pad has the index of the token before it.
        cell_to_token = node("Sub", tokens_so_far, "one")  # [B * T]
        self.cell_to_token = node("Reshape", cell_to_token, node("Shape", "input_ids"))  # [B, T]
        self.first_tokens = node("Gather", self.cell_to_token, "zero", axis=1)  # [B]
        inner_axes = constant("inner_axes", [1, 2], np.int64)
        is_key = node("Cast", node("Unsqueeze", is_real, inner_axes), to=np.float32)  # [B, 1, 1, T]
        is_pad = node("Sub", constant("float_one", 1.0), is_key)
        self.bias = node("Mul", is_pad, constant("masked_score", MASKED_SCORE))
        return ids, positions

    def _add_embeddings(self, ids: str, positions: str) -> str:
        """Add the embedding layer: the layer norm of word and position embeddings, [n, H].

        A static model has only word embeddings.
        """
        word_rows = self.apply_operator(
            "Gather", self.add_weight("embeddings.word_embeddings.weight"), ids, axis=0
        )
        if self.config.is_static:
            return word_rows
        position_table = self.add_weight("embeddings.position_embeddings.weight")
        position_rows = self.apply_operator("Gather", position_table, positions, axis=0)
        x = self.apply_operator("Add", word_rows, position_rows)
        return self._add_layer_norm(x, "embeddings.layer_norm")

    def _add_layer(self, x: str, name: str, only_first: bool) -> str:
        """Add an encoder layer: [n, H] -> [n, H].

        Args:
            name: the name prefix of the layer's weights.
            only_first: whether only the first token of each row is a query, so that the output is [B, H].
        """
        node = self.apply_operator
        key = self._split_heads(self._add_linear(x, f"{name}self_attn.k_proj"))  # [B, N, T, D]
        value = self._split_heads(self._add_linear(x, f"{name}self_attn.v_proj"))  # [B, N, T, D]
        if only_first:
            x = node("Gather", x, self.first_tokens, axis=0)  # [B, H]
        query = self._add_linear(x, f"{name}self_attn.q_proj")
        if only_first:
            heads = self.config.num_attention_heads
            shape = self.add_constant(
                "by_query_head", [-1, heads, 1, self.config.hidden_size // heads], np.int64
            )
            query = node("Reshape", query, shape)  # [B, N, 1, D]
        else:
            query = self._split_heads(query)  # [B, N, T, D]
        scores = node("MatMul", query, node("Transpose", key, perm=[0, 1, 3, 2]))
        scores = node("Add", node("Div", scores, "root_of_head_size"), self.bias)
        mixed = node("MatMul", node("Softmax", scores, axis=-1), value)  # [B, N, T or 1, D]
        mixed = node("Transpose", mixed, perm=[0, 2, 1, 3])  # [B, T or 1, N, D]
        mixed = node("Reshape", mixed, "by_size")  # [B * T or B, H]
        if not only_first:
            mixed = node("Gather", mixed, self.token_to_cell, axis=0)  # [n, H]
        mixed = self._add_linear(mixed, f"{name}self_attn.out_proj")
        x = self._add_layer_norm(node("Add", mixed, x), f"{name}norm1")
        inner = node("Gelu", self._add_linear(x, f"{name}linear1"))
        inner = self._add_linear(inner, f"{name}linear2")
        return self._add_layer_norm(node("Add", inner, x), f"{name}norm2")

    def _split_heads(self, x: str) -> str:
        """Add the nodes that pad packed states, and split them into N heads: [n, H] -> [B, N, T, D]."""
        cells = self.apply_operator("Gather", x, self.cell_to_token, axis=0)  # [B, T, H]
        return self.apply_operator(
            "Transpose", self.apply_operator("Reshape", cells, "by_head"), perm=[0, 2, 1, 3]
        )

    def _add_linear(self, x: str, name: str) -> str:
        """Add a linear layer, given the name prefix of the weights."""
        product = self.apply_operator("MatMul", x, self.add_weight(f"{name}.weight"))
        return self.apply_operator("Add", product, self.add_weight(f"{name}.bias"))

    def _add_layer_norm(self, x: str, name: str) -> str:
        """Add a layer normalization, given the name prefix of the weights."""
        scale = self.add_weight(f"{name}.weight")
        bias = self.add_weight(f"{name}.bias")
        epsilon = self.config.layer_norm_eps
        return self.apply_operator("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def _add_head(self, x: str) -> None:
        """Add the head of the task, and the outputs of the graph.

        Args:
            x: the hidden states of the last layer, [n, H], or [B, H] of the first tokens only.
        """
        node = self.apply_operator
        outputs = self.outputs
        if self.task.name == EMBEDDING:
            node("Gather", x, self.cell_to_token, axis=0, name=outputs[0])  # [B, T, H]
            if len(outputs) > 1:  # the last layer also has the pooler output
                first_states = node("Gather", x, self.first_tokens, axis=0)  # [B, H]
                node("Tanh", self._add_linear(first_states, "pooler.dense"), name=outputs[1])
            return
        if self.reads_mean:
            is_real = node("Cast", node("Unsqueeze", self.is_real, "one"), to=np.float32)  # [B, 1, T]
            token_axis = self.add_constant("token_axis", [2], np.int64)
            weights = node("Div", is_real, node("ReduceSum", is_real, token_axis))  # [B, 1, T]
            mean = node("MatMul", weights, node("Gather", x, self.cell_to_token, axis=0))  # [B, 1, H]
            mean = node("Reshape", mean, "by_size")
            node("Identity", self._add_linear(mean, "classifier"), name=outputs[0])
            return
        if self.task.head_reads == POOLED:
            pooled = node("Tanh", self._add_linear(x, "pooler.dense"))
            node("Identity", self._add_linear(pooled, "classifier"), name=outputs[0])
            return
        logits = self._add_linear(x, "classifier")  # [n, labels]
        if len(outputs) == 1:
            node("Gather", logits, self.cell_to_token, axis=0, name=outputs[0])  # [B, T, labels]
            return
        logits = node("Gather", logits, self.cell_to_token, axis=0)  # [B, T, 2]
        start_logits, end_logits = outputs
        node("Gather", logits, "zero", axis=2, name=start_logits)  # the first column, [B, T]
        node("Gather", logits, "one", axis=2, name=end_logits)  # the second
