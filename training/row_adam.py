"""AdamW on the rows of a word table that have moments, on a GPU.

The table's gradient is a `model.word_rows.RowGradient`. Which rows have moments is known only to the device.
The host must know how many they are, to make tensors of this size: it reads the number together with the norm
of the gradient.
"""

from collections.abc import Callable

import paddle
from paddle import Tensor

from model.word_rows import nonzero


class RowsWithMomentsOnGpu:
    """The rows of one word table [V, H] whose two moments may differ from 0.

    Args:
        words: V.
        moments: both, [V, H] each; none: they are all 0.
    """

    def __init__(self, words: int, *moments: Tensor):
        # [V + 1], 1 for a row with moments, else 0. V is no word: in a `RowGradient` it marks a row of zeros.
        self._has_moments = paddle.zeros([words + 1], "int64")
        self._words = words
        for moment in moments:
            self._has_moments[:words] += (moment != 0).any(1).astype("int64")
        self._has_moments = self._has_moments.clip(max=1)  # a row may have both
        self._running_count: Tensor | None = None  # [V], how many rows up to each have moments

    def add(self, rows: Tensor) -> Tensor:
        """Add rows that get moments in the next update.

        Args:
            rows: int64 [n]. V may be among them, and is no row.

        Returns:
            The number of all rows that now have moments, int64 [].
        """
        paddle.scatter_(self._has_moments, rows, paddle.ones_like(rows), overwrite=True)
        self._running_count = paddle.cumsum(self._has_moments[: self._words])
        return self._running_count[-1]

    def update(
        self,
        tables: tuple[Tensor, Tensor, Tensor],
        gradient: Tensor,
        rows: Tensor,
        count: int,
        adam: Callable[..., None],
    ) -> None:
        """Update the rows that have moments.

        Args:
            tables: weight and both moments, [V, H] each.
            gradient: [n, H], a gradient for each of `rows`.
            rows: int64 [n], those of the last call of `add`.
            count: R, the number of rows that `add` returned.
            adam: takes weight, both moments and gradient of some rows, [R, H] each, and updates them in
                place.
        """
        updated = nonzero(self._running_count, count)  # [R], the rows that have moments, ascending
        # The place of each gradient among them. A row V, of no word, is larger than all and gets R.
        places = paddle.searchsorted(updated, rows)  # [n], 0 .. R
        # The sum of the gradients of each updated row. The last row collects the gradients of row V.
        sums = paddle.zeros([count + 1, gradient.shape[1]], gradient.dtype)  # [R + 1, H]
        paddle.index_add_(sums, places, 0, gradient)
        parts = [paddle.gather(table, updated) for table in tables]  # [R, H] each
        adam(*parts, sums[:count])
        for table, part in zip(tables, parts, strict=True):
            paddle.scatter_(table, updated, part, overwrite=True)
