"""AdamW on the rows of a word table that have moments.

On a CPU, AdamW on the whole word table (192 million numbers at base size) takes a twentieth of a step, and a
fine-tuning batch contains some thousand of 250,002 words. If a row has no gradient and its moments are 0,
AdamW changes it by weight decay only. The other rows have moments, from this step or an earlier one, and only
they are updated here. The result equals AdamW on the whole table. If more than MOST_ROWS of the rows
have moments, updating all rows is faster.

On a GPU the table's gradient is a `model.word_rows.RowGradient`. The host knows the words of each step, and
therefore which rows have moments.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import Tensor

from model import device
from model.cpu.rows import as_array, as_tensor, over_rows

MOST_ROWS = 0.4  # the share of rows with moments above which the whole word table is updated


class RowsWithMoments:
    """The rows of one word table [V, H] on a CPU whose two moments may differ from 0."""

    def __init__(self, weight: Tensor, moment1: Tensor, moment2: Tensor):
        self.tensors = (weight, moment1, moment2)  # [V, H] each
        self.has_moments = as_array(moment1).any(1) | as_array(moment2).any(1)  # bool [V]

    def update(
        self, gradient: Tensor, touched: np.ndarray, adam: Callable[..., None], decay_factor: float
    ) -> None:
        """Do one step: multiply every weight by `decay_factor`, then update the rows that have moments.

        Args:
            gradient: [V, H].
            touched: bool [V], True where `gradient` may differ from 0.
            adam: takes weight, both moments and gradient of some rows, [R, H] each, and updates them in
                place, without decay.
        """
        self.has_moments |= touched
        tables = [as_array(tensor) for tensor in self.tensors]
        if decay_factor != 1.0:
            # One loop over all rows, so that bits do not depend on `has_moments`: a resumed run finds it by
            # the moments, which are still 0 in a row that was touched by gradients of 0.
            weight = tables[0]
            over_rows(partial(_scale, weight, decay_factor), *weight.shape)
        rows = np.flatnonzero(self.has_moments)  # int64 [R]
        if len(rows) > MOST_ROWS * len(self.has_moments):
            adam(*self.tensors, gradient)
            return
        parts = [_gather(table, rows) for table in (*tables, as_array(gradient))]  # [R, H] each
        adam(*map(as_tensor, parts))
        for table, part in zip(tables, parts):  # not the last part, the gradient
            over_rows(partial(_put, part, table, rows), *part.shape)


def _gather(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """table[rows], on all threads."""
    part = np.empty([len(rows), table.shape[1]], table.dtype)
    over_rows(partial(_take, part, table, rows), *part.shape)
    return part


def _scale(table: np.ndarray, factor: float, places: slice) -> None:
    """The work on one slice: multiply some rows of a table by `factor`."""
    table[places] *= factor


def _take(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice: copy some of the `rows` of a table to their places in `part`."""
    part[places] = table[rows[places]]


def _put(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice: copy some rows of `part` back to the table."""
    table[rows[places]] = part[places]


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
        self.place_of_word = np.full(words, -1)  # [V], the place of a word in `_rows`; -1: it has none
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
