"""AdamW on the rows of a word table that have moments, on a GPU.

The table's gradient is a `model.word_rows.RowGradient`. The host knows the words of each step, and therefore
which rows have moments.
"""

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor

from model import device


class RowsWithMomentsOnGpu:
    """The rows of one word table [V, H] whose two moments may differ from 0, in the order of their updates.

    Args:
        words: V.
        moments: both, [V, H] each, in which the rows are looked for; none: they are all 0.
    """

    def __init__(self, words: int, *moments: Tensor):
        has_moments = np.zeros(words, bool)
        for moment in moments:
            has_moments |= (moment != 0).any(1).numpy()
        rows = np.flatnonzero(has_moments)
        self.place_of_word = np.full(words, -1)  # [V], the place of a word's row among them; -1: it has none
        self.place_of_word[rows] = np.arange(len(rows))
        (self._rows,) = device.upload([rows])  # [R]

    def update(
        self,
        tables: tuple[Tensor, Tensor, Tensor],
        gradient: Tensor,
        words: np.ndarray,
        adam: Callable[..., None],
    ) -> None:
        """Add the rows of some words to those that have moments, and update them all.

        Args:
            tables: weight and both moments, [V, H] each.
            gradient: [n, H], a gradient for each of `words`.
            words: int64 [n], different ones.
            adam: takes weight, both moments and gradient of some rows, [R, H] each, and updates them in
                place.
        """
        added = words[self.place_of_word[words] < 0]
        self.place_of_word[added] = len(self._rows) + np.arange(len(added))
        places, added_rows = device.upload([self.place_of_word[words], added])
        self._rows = paddle.concat([self._rows, added_rows])  # [R]
        gradients = paddle.zeros([len(self._rows), gradient.shape[1]], gradient.dtype)  # [R, H]
        paddle.scatter_(gradients, places, gradient, overwrite=True)
        parts = [paddle.gather(table, self._rows) for table in tables]  # [R, H] each
        adam(*parts, gradients)
        for table, part in zip(tables, parts, strict=True):
            paddle.scatter_(table, self._rows, part, overwrite=True)
