"""Weighted sums of the tokens of each sequence: of its own tokens, so no bit depends on other sequences."""

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu import mkl
from ernie_m.model.cpu.mkl import Matrices, Shapes
from ernie_m.model.cpu.rows import as_array
from ernie_m.model.layout import Layout


def sums_of_sequences(states: Tensor, weights: Tensor, is_real: Tensor, layout: Layout) -> Tensor:
    """The sum of weight times state over the tokens of each sequence: states [N, H] -> [S, H].

    Args:
        weights, is_real: of the cells of a padded array [S, T].
    """
    of_tokens = as_array(weights)[as_array(is_real)]  # [N]
    return SequenceSums.apply(states, of_tokens.astype(as_array(states).dtype), layout)


class SequenceSums(PyLayer):
    """The sum of weight times state over the tokens of each sequence: states [N, H] -> [S, H].

    Args:
        weights: of the type of the states, [N]; they get no gradient.
    """

    @staticmethod
    def forward(ctx, states: Tensor, weights: np.ndarray, layout: Layout) -> Tensor:
        ctx.weights = weights
        ctx.layout = layout
        count = len(layout.lengths)
        hidden_size = states.shape[1]
        order = np.argsort(layout.lengths, kind="stable")  # the sequences, the shortest first
        lengths, counts = np.unique(layout.lengths.astype(np.int32), return_counts=True)  # [groups] each
        # For each sequence [2, t] x [t, H], because the bits of MKL's products of a single row depend on the
        # number of threads. The second row is 0.
        two_rows = np.zeros(2 * layout.tokens, weights.dtype)
        first_tokens = np.repeat(layout.starts, layout.lengths)  # [N], the first token of each one's sequence
        # The two rows of a sequence whose first token is s begin at 2 s. Its token n is in place n - s of the
        # first row, at 2 s + n - s = n + s.
        two_rows[np.arange(layout.tokens) + first_tokens] = weights
        sums = np.empty([count, 2, hidden_size], weights.dtype)
        row_strides = np.full_like(lengths, hidden_size)
        mkl.multiply(
            Matrices(two_rows, 2 * layout.starts[order], lengths),
            Matrices(as_array(states), hidden_size * layout.starts[order], row_strides),
            Matrices(sums, 2 * hidden_size * order, row_strides),
            Shapes(np.full_like(lengths, 2), lengths, row_strides, counts.astype(np.int32)),
        )
        result = paddle.empty([count, hidden_size], states.dtype)
        as_array(result)[:] = sums[:, 0]
        return result

    @staticmethod
    def backward(ctx, grad_sums: Tensor) -> Tensor:
        gradient = paddle.empty([len(ctx.weights), grad_sums.shape[1]], grad_sums.dtype)
        of_tokens = as_array(grad_sums)[ctx.layout.sequence_numbers()]  # [N, H]
        np.multiply(of_tokens, ctx.weights[:, None], out=as_array(gradient))
        return gradient
