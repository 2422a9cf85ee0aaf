"""AdamW on the moving rows of a word table, on a GPU, whose gradient is a `model.word_rows.RowGradient`.

The rows are known only to the device. The host must know how many they are, to make tensors of this size: it
reads the number together with the norm of the gradient.
"""

from collections.abc import Callable

import paddle
from paddle import Tensor

from model.word_rows import nonzero


class MovingRowsOnGpu:
    """The rows of one word table [V, H] whose two moments may differ from 0.

    Args:
        words: V.
        moments: both, [V, H] each; none: they are all 0.
    """

    def __init__(self, words: int, *moments: Tensor):
        # [V + 1], 1 for a moving row. V is no word: in a `RowGradient` it marks a row of zeros.
        self._is_moving = paddle.zeros([words + 1], "int64")
        self._words = words
        for moment in moments:
            self._is_moving[:words] += (moment != 0).any(1).astype("int64")
        self._is_moving = self._is_moving.clip(max=1)
        self._moving_up_to: Tensor | None = None  # [V], the number of moving rows up to each

    def add(self, rows: Tensor) -> Tensor:
        """Let further rows move.

        Args:
            rows: int64 [n]; V is no row.

        Returns:
            The number of all rows that move, int64 [].
        """
        paddle.scatter_(self._is_moving, rows, paddle.ones_like(rows), overwrite=True)
        self._moving_up_to = paddle.cumsum(self._is_moving[: self._words])
        return self._moving_up_to[-1]

    def update(
        self,
        tables: tuple[Tensor, Tensor, Tensor],
        gradient: Tensor,
        rows: Tensor,
        count: int,
        adam: Callable[..., None],
    ) -> None:
        """Update the moving rows.

        Args:
            tables: weight and both moments, [V, H] each.
            gradient: [n, H], a gradient for each of `rows`.
            rows: int64 [n], those of the last call of `add`.
            count: R, the number of moving rows that `add` returned.
            adam: takes weight, both moments and gradient of some rows, [R, H] each, and updates them in
                place.
        """
        moving = nonzero(self._moving_up_to, count)  # [R]
        # The gradient of each moving row, and behind them a row for the gradients of no word.
        places = paddle.searchsorted(moving, rows)  # [n], 0 .. R
        padded = paddle.zeros([count + 1, gradient.shape[1]], gradient.dtype)  # [R + 1, H]
        paddle.index_add_(padded, places, 0, gradient)
        parts = [paddle.gather(table, moving) for table in tables]  # [R, H] each
        adam(*parts, padded[:count])
        for table, part in zip(tables, parts, strict=True):
            paddle.scatter_(table, moving, part, overwrite=True)
