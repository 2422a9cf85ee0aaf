"""Self-attention of sequences that lie one after the other in one row of tokens, without pads.

Symbols: see `model/ernie_m.py`. In every mask a row is a query and a column is a key.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from model.cpu import AttentionOnCpu, Linear, at_positions, dropout, on_cpu
from model.device import has_flash, upload

# Added to closed scores. exp(-1e4) is exactly 0 in float32 and float64, and -1e4 is finite in float16.
CLOSED = -1e4
# The number of tokens that a GPU gets is a multiple of this, so that there are few shapes.
MULTIPLE = 64
# The length of each sequence in a group, as a share of the group's longest, is at least this.
SIMILAR = 0.7


class Layout:
    """Where each of S sequences lies in a row of N tokens, and who attends to whom.

    A sequence is some context tokens, then placeholders. All of its tokens attend to its context; a
    placeholder attends to itself as well. Nothing attends to another sequence. MMLM, TLM and every task are
    "all context"; CAMLM and the first stage of BTMLM have placeholders. With lengths 5, 3 and contexts 3, 3:

                x1 x2 x3 M4 M5 | y1 y2 y3
        x1       1  1  1  .  . |  .  .  .
        x2       1  1  1  .  . |  .  .  .
        x3       1  1  1  .  . |  .  .  .
        M4       1  1  1  1  . |  .  .  .
        M5       1  1  1  .  1 |  .  .  .
        y1       .  .  .  .  . |  1  1  1
        y2       .  .  .  .  . |  1  1  1
        y3       .  .  .  .  . |  1  1  1

    Args:
        lengths: int [S], tokens of each sequence, at least 1.
        contexts: int [S], how many of them are context, at least 1; None: all.

    Attributes:
        starts, tokens: int64 [S], where each sequence begins, and N.
        tensors: what attention needs on the device, by name; filled by `on_device`.
    """

    def __init__(self, lengths: np.ndarray, contexts: np.ndarray | None = None):
        self.lengths = np.asarray(lengths, np.int64)
        self.contexts = self.lengths if contexts is None else np.asarray(contexts, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = int(self.lengths.sum())
        self.tensors: dict[str, Tensor] = {}

    @cached_property
    def rounded_up(self) -> "Layout":
        """With a further sequence at the end that makes N a multiple of MULTIPLE."""
        more = -self.tokens % MULTIPLE
        if not more:
            return self
        return Layout(np.append(self.lengths, more), np.append(self.contexts, more))

    def places(self) -> np.ndarray:
        """The place of each token in its own sequence, from 0: int64 [N]."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.lengths)

    def dense(self) -> np.ndarray:
        """The mask as a matrix, bool [N, N]: the definition, for tests and pictures."""
        number = np.repeat(np.arange(len(self.lengths)), self.lengths)  # [N]
        context = self.places() < np.repeat(self.contexts, self.lengths)
        return ((number[:, None] == number) & context) | np.eye(self.tokens, dtype=bool)

    @cached_property
    def groups(self) -> list["Group"]:
        """The sequences in groups of similar length."""
        order = np.argsort(-self.lengths, kind="stable")
        groups, first = [], 0
        for number in range(1, len(order) + 1):
            if number == len(order) or self.lengths[order[number]] < SIMILAR * self.lengths[order[first]]:
                chosen = order[first:number]
                groups.append(Group(self.starts[chosen], self.lengths[chosen], self.contexts[chosen]))
                first = number
        return groups

    def arrays(self, flash: bool) -> dict[str, np.ndarray]:
        """What FlashMask, or else attention in rectangles, needs on a GPU as `tensors`; int64 [n]."""
        if flash:
            return {"row_indices": self.row_indices().ravel()}
        back = np.argsort(np.concatenate([group.tokens for group in self.groups]))
        found = {"back": back}  # each token's place among the concatenated real tokens of the groups, [N]
        for number, group in enumerate(self.groups):
            found |= {f"{name}{number}": array for name, array in group.arrays().items()}
        return found

    def on_device(self, flash: bool) -> dict[str, Tensor]:
        """The `arrays` on the device. They are uploaded here, once, unless `tensors` already holds them."""
        if ("row_indices" if flash else "back") not in self.tensors:
            self.tensors |= upload([self.arrays(flash)])[0]
        if flash and "flash" not in self.tensors:
            rows = self.tensors["row_indices"].astype("int32")
            self.tensors["flash"] = rows.reshape([1, 1, -1, 2])
        if not flash and "bias0" not in self.tensors:
            for number, group in enumerate(self.groups):
                self.tensors[f"bias{number}"] = group.bias(self.tensors[f"contexts{number}"])
        return self.tensors

    def row_indices(self) -> np.ndarray:
        """The mask for paddle.nn.functional.flashmask_attention with causal=False, int64 [N, 2].

        Column j has (start, end): rows i > j are closed from `start` on, rows i < j are closed before `end`.
        A context column is open to the rows of its sequence, a placeholder's column to its own row only.
        """
        column = np.arange(self.tokens)
        context = self.places() < np.repeat(self.contexts, self.lengths)
        start = np.where(context, np.repeat(self.starts + self.lengths, self.lengths), column + 1)
        end = np.where(context, np.repeat(self.starts, self.lengths), column)
        return np.stack([start, end], axis=-1)


@dataclass
class Group:
    """Sequences of similar length, the rows of a rectangle [b, T]; the fields are as in `Layout`, [b]."""

    starts: np.ndarray
    lengths: np.ndarray
    contexts: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """b, and T, the greatest length."""
        return len(self.lengths), int(self.lengths[0])

    @cached_property
    def closed(self) -> np.ndarray | None:
        """Where a row may not attend: bool [b, 1, T, T], or [b, 1, 1, T] if all is context. None: nowhere."""
        column = np.arange(self.shape[1])
        if self.contexts.min() == self.shape[1]:
            return None
        closed = (column >= self.contexts[:, None])[:, None, None]  # [b, 1, 1, T]
        if (self.contexts == self.lengths).all():
            return closed
        return closed & ~np.eye(len(column), dtype=bool)

    @cached_property
    def tokens(self) -> np.ndarray:
        """The tokens in the order of the rectangle, int64 [sum of lengths]."""
        column = np.arange(self.shape[1])
        return (self.starts[:, None] + column)[column < self.lengths[:, None]]

    def arrays(self) -> dict[str, np.ndarray]:
        """int64: each cell's token [b x T], for a pad its sequence's first; the cells of real tokens [sum of
        lengths]; `contexts` [b]."""
        column = np.arange(self.shape[1])
        real = column < self.lengths[:, None]  # [b, T]
        cells = np.where(real, self.starts[:, None] + column, self.starts[:, None])
        return {"cells": cells.ravel(), "real": np.flatnonzero(real), "contexts": self.contexts}

    def bias(self, contexts: Tensor) -> Tensor:
        """What is added to the scores, 0 or CLOSED: float32 [b, 1, T, T]. Each token is open to itself."""
        size = self.shape[1]
        closed = paddle.arange(size) >= contexts.reshape([-1, 1, 1, 1])  # [b, 1, 1, T]
        return (closed & ~paddle.eye(size).astype("bool")).astype("float32") * CLOSED


class SelfAttention(nn.Layer):
    """Multi-head self-attention: softmax(q k^T / sqrt(D)) v inside each sequence, dropout on the weights."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, weight_attr=None):
        super().__init__()
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.k_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.v_proj = Linear(hidden_size, hidden_size, weight_attr)
        self.out_proj = Linear(hidden_size, hidden_size, weight_attr)

    def forward(self, x: Tensor, layout: Layout | Tensor, positions: Tensor | None = None) -> Tensor:
        """[N, H] -> [N, H], or [M, H] at `positions`, int64 [M].

        For an exported graph: x [B, T, H] and, as `layout`, the scores' bias [B, 1, T, T] -> [B, T, H].
        """
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if not isinstance(layout, Layout):
            return self.out_proj(self._padded(query, key, value, layout))
        share = self.dropout if self.training else 0.0
        if on_cpu(x):
            context = AttentionOnCpu.apply(query, key, value, layout.groups, self.num_heads, share)
        elif has_flash(query):
            context = self._flash(query, key, value, layout, share)
        else:
            context = self._rectangles(query, key, value, layout)
        return self.out_proj(at_positions(context, positions))

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, share: float) -> Tensor:
        """One row of all tokens through the GPU's kernel: [N, H] -> [N, H]."""
        parts = (x.reshape([1, -1, self.num_heads, self.head_size]) for x in (query, key, value))
        rows = layout.on_device(flash=True)["flash"]
        context = F.flashmask_attention(*parts, rows, dropout=share, training=self.training)
        return context.reshape(query.shape)

    def _rectangles(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """Two products and a softmax for each group, on a GPU without FlashMask: [N, H] -> [N, H]."""
        tensors, found = layout.on_device(flash=False), []
        for number, group in enumerate(layout.groups):
            cells, real, bias = (tensors[f"{name}{number}"] for name in ("cells", "real", "bias"))
            parts = (paddle.gather(x, cells).reshape([*group.shape, -1]) for x in (query, key, value))
            context = self._padded(*parts, bias.astype(query.dtype))  # [b, T, H]
            found.append(paddle.gather(context.reshape([-1, query.shape[-1]]), real))
        return paddle.gather(paddle.concat(found), tensors["back"])

    def _padded(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """[B, T, H] and a bias that broadcasts to [B, heads, T, T] -> [B, T, H]."""
        query, key, value = (
            x.reshape([0, 0, self.num_heads, self.head_size]).transpose([0, 2, 1, 3])  # [B, heads, T, D]
            for x in (query, key, value)
        )
        scores = paddle.matmul(query * self.head_size**-0.5, key, transpose_y=True) + bias
        weights = dropout(F.softmax(scores, axis=-1), self.dropout, self.training)
        return paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2)
