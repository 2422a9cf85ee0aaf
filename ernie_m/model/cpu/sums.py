"""Weighted sums of the tokens of each sequence: of its own tokens, so no bit depends on other sequences."""

import numpy as np
from paddle import Tensor
from paddle.autograd import PyLayer

from ernie_m.model.cpu.rows import as_array, as_tensor
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
        return as_tensor(np.add.reduceat(as_array(states) * weights[:, None], layout.starts))

    @staticmethod
    def backward(ctx, grad_sums: Tensor) -> Tensor:
        of_tokens = as_array(grad_sums)[ctx.layout.sequence_numbers()]  # [N, H]
        return as_tensor(of_tokens * ctx.weights[:, None])
