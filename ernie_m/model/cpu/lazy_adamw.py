"""AdamW of an embedding matrix on a CPU, which updates only the rows that have moments.

The embedding matrix has 192 million numbers at base size, and a fine-tuning batch contains some thousand of
its 250,002 words. If a row has no gradient and its moments are 0, AdamW changes it by weight decay only. The
other rows have moments, from this step or an earlier one, and only they are updated here. The result equals
AdamW on the whole table, and docs/results/cpu_paths.tsv has the share of a step that this saves. If more than
LARGEST_SHARE of the rows have moments, updating all rows is faster.
"""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model import kernel_selection
from ernie_m.model.cpu.numpy_views import as_array, as_tensor, over_rows
from ernie_m.model.word_embeddings import EmbeddingGradient

LARGEST_SHARE = 0.4  # the share of rows with moments above which the whole embedding matrix is updated


@cache
def works() -> bool:
    """Return whether this is Paddle's AdamW, of which it calls a private function.

    If not, the log says so, once.
    """
    return kernel_selection.agrees(
        _errors, 1e-6, "embedding matrices are updated by Paddle's AdamW, which is slower"
    )


def _errors() -> Iterator[tuple[str, float]]:
    """Of a small table after an update of two rows, and after one of all."""
    ones = paddle.nn.initializer.Constant(1.0)  # draws no number of the training's
    table, expected = (paddle.create_parameter([8, 4], "float32", default_initializer=ones) for _ in range(2))
    gradient = EmbeddingGradient(table)
    by_rows = LazyAdamW(gradient, rate_ratio=1.0, decay=0.1, betas=(0.8, 0.9), epsilon=0.01)
    whole = paddle.optimizer.AdamW(0.1, 0.8, 0.9, 0.01, [expected], 0.1)
    for count in (2, 8):
        rows = np.arange(count)
        gradient.add_rows(rows, np.sin(np.arange(4 * count, dtype=np.float32)).reshape([count, 4]))
        expected.grad = as_tensor(gradient.array().copy())
        by_rows.step(0.1)
        whole.step()
        yield f"update of {count} rows", float((table - expected).abs().max())
        for name, tensor in by_rows.state.items():
            paddles = whole.state_dict()[f"{expected.name}_{name}_0"]
            yield f"{name} of {count} rows", float((tensor - paddles).abs().max())
        table.grad = None


class LazyAdamW:
    """AdamW of one embedding matrix [V, H].

    Args:
        gradient: the gradient of the table, which knows the rows that it has touched.
        rate_ratio: the table's share of the learning rate.
        decay: the coefficient of weight decay, which is multiplied by the table's own rate.
        betas, epsilon: the hyperparameters of Adam.

    Attributes:
        state: name -> tensor, the names being those of Paddle's AdamW: both moments [V, H], and each beta to
            the power of (updates so far + 1), [1]. Empty before the first update.
    """

    def __init__(
        self,
        gradient: EmbeddingGradient,
        rate_ratio: float,
        decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ):
        self.gradient = gradient
        self.weight = gradient.weight
        self.rate_ratio = rate_ratio
        self.decay = decay
        self.betas = betas
        self.epsilon = epsilon
        self.state: dict[str, Tensor] = {}
        self._has_moments: np.ndarray | None = None  # bool [V]; None: look for them in the moments

    def begin(self) -> None:
        """Make the state, unless it exists."""
        if not self.state:
            dtype = self.weight.dtype
            self.state = {name: paddle.zeros(self.weight.shape, dtype) for name in ("moment1", "moment2")}
            for name, beta in zip(("beta1_pow_acc", "beta2_pow_acc"), self.betas):
                self.state[name] = paddle.full([1], beta, dtype)
            self._has_moments = np.zeros(len(self.weight), bool)

    def forget_rows(self) -> None:
        """Look for the rows with moments in the state again, because it was replaced."""
        self._has_moments = None

    @paddle.no_grad()
    def step(self, learning_rate: float) -> None:
        """Do one update, if the table has a gradient."""
        if self.weight.grad is None:
            return
        self.begin()
        rate = paddle.full([1], learning_rate, self.weight.dtype) * self.rate_ratio
        touched = self.gradient.touched_rows(self.weight.grad)
        if touched is None:  # any row may have a gradient, and get moments
            self._has_moments = None
            self._adam(self._tables(), self.weight.grad, rate, self.decay)
            return
        # One loop over all rows, so that bits do not depend on which rows have moments: a resumed run finds
        # them by the moments, which are still 0 in a row that was touched by gradients of 0.
        if self.decay:
            table = as_array(self.weight)
            factor = 1.0 - rate.item() * self.decay
            over_rows(partial(_scale, table, factor), *table.shape)
        self._update_rows(touched, rate)

    def _update_rows(self, touched: np.ndarray, rate: Tensor) -> None:
        """Update the rows with moments, without decay; only the rows `touched`, bool [V], have a gradient."""
        tables = self._tables()
        if self._has_moments is None:  # [V], whether a number is not 0
            first, second = (as_array(moments).any(axis=1) for moments in tables[1:])
            self._has_moments = first | second
        self._has_moments |= touched
        rows = np.flatnonzero(self._has_moments)  # int64 [R]
        if len(rows) > LARGEST_SHARE * len(touched):  # so many that all rows are faster
            self._adam(tables, self.weight.grad, rate, decay=0.0)
            return
        arrays = [as_array(table) for table in tables]
        parts = [_gather(array, rows) for array in arrays]  # [R, H] each
        gradient = _gather(as_array(self.weight.grad), rows)  # [R, H]
        # The tensors share the memory of `parts`, which is therefore updated.
        self._adam([as_tensor(part) for part in parts], as_tensor(gradient), rate, decay=0.0)
        for array, part in zip(arrays, parts):
            over_rows(partial(_put, part, array, rows), *part.shape)

    def _tables(self) -> list[Tensor]:
        """Return the weight and both moments, [V, H] each."""
        return [self.weight, self.state["moment1"], self.state["moment2"]]

    def _adam(self, tables: list[Tensor], gradient: Tensor, rate: Tensor, decay: float) -> None:
        """Update weight and both moments of some rows in place, by Paddle's kernel.

        Args:
            tables: weight and both moments of these rows, [R, H] each.
            gradient: [R, H].
            rate: the table's own learning rate, [1].
            decay: the coefficient of weight decay.
        """
        paddle._C_ops.adamw_(  # as paddle.optimizer.AdamW calls it
            tables[0],
            gradient,
            rate,
            tables[1],
            tables[2],
            None,  # the largest second moment, of AMSGrad
            self.state["beta1_pow_acc"],
            self.state["beta2_pow_acc"],
            None,  # the master weight
            None,  # whether a gradient is not finite
            *self.betas,
            self.epsilon,
            1.0,  # the ratio of the rate, which `rate` already has
            decay,
            True,  # with decay
            False,  # lazy mode
            1000,  # rows for each thread in lazy mode
            False,  # multi-precision
            False,  # global powers of the betas
            False,  # AMSGrad
        )


def _gather(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """table[rows], on all threads."""
    part = np.empty([len(rows), table.shape[1]], table.dtype)
    over_rows(partial(_take, part, table, rows), *part.shape)
    return part


def _scale(table: np.ndarray, factor: float, places: slice) -> None:
    """The work on one slice of `over_rows`: multiply some rows of a table by `factor`."""
    table[places] *= factor


def _take(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice of `over_rows`: copy some of the `rows` of a table to their places in `part`."""
    part[places] = table[rows[places]]


def _put(part: np.ndarray, table: np.ndarray, rows: np.ndarray, places: slice) -> None:
    """The work on one slice of `over_rows`: copy some rows of `part` back to the table."""
    table[rows[places]] = part[places]
