"""AdamW of an embedding matrix on a CPU, which only updates rows with nonzero moments.

The embedding matrix has 192 million elements at base size, and a fine-tuning batch contains a few thousand of
the 250,002 subwords. A row with neither a gradient nor nonzero moments only changes by weight decay. Only the
other rows are updated here. The result equals AdamW on the whole matrix; docs/results/cpu_paths.tsv has the
saving per step. If more than LARGEST_SHARE of the rows have moments, all rows are updated, which is faster.
"""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.cpu.embedding_gradient import EmbeddingGradient
from ernie_m.model.cpu.numpy_views import as_array, as_tensor, run_on_row_slices
from ernie_m.model.kernel_check import check_agreement

LARGEST_SHARE = 0.4  # fraction of rows with moments above which all rows are updated


@cache
def is_supported() -> bool:
    """Return whether `LazyAdamW` agrees with Paddle's AdamW; log a warning once if it does not.

    `LazyAdamW` calls a private function of Paddle, which may change.
    """
    return check_agreement(
        _measure_errors, 1e-6, "embedding matrices are updated by Paddle's AdamW, which is slower"
    )


def _measure_errors() -> Iterator[tuple[str, float]]:
    """Yield the errors of a small matrix after an update of two rows and after an update of all rows."""
    ones = paddle.nn.initializer.Constant(1.0)  # does not use the training's random numbers
    table, expected = (paddle.create_parameter([8, 4], "float32", default_initializer=ones) for _ in range(2))
    gradient = EmbeddingGradient(table)
    by_rows = LazyAdamW(gradient, lr_ratio=1.0, weight_decay=0.1, betas=(0.8, 0.9), epsilon=0.01)
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
    """AdamW of one embedding matrix [V, H] on a CPU.

    Args:
        gradient: the gradient of the matrix, which records the rows with a gradient.
        lr_ratio: ratio of the matrix's learning rate to the learning rate of a step.
        weight_decay: weight decay coefficient, which is multiplied by the matrix's learning rate.
        betas, epsilon: the hyperparameters of Adam.

    Attributes:
        state: optimizer state by Paddle's names: both moments, [V, H], and each beta to the power of
            (number of updates + 1), [1]. Empty before the first update.
    """

    def __init__(
        self,
        gradient: EmbeddingGradient,
        lr_ratio: float,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ):
        self.gradient = gradient
        self.weight = gradient.weight
        self.rate_ratio = lr_ratio
        self.decay = weight_decay
        self.betas = betas
        self.epsilon = epsilon
        self.state: dict[str, Tensor] = {}
        self._has_moments: np.ndarray | None = None  # bool [V]; None: to be found in the moments

    def init_state(self) -> None:
        """Create the optimizer state with zero moments, if missing."""
        if not self.state:
            dtype = self.weight.dtype
            self.state = {name: paddle.zeros(self.weight.shape, dtype) for name in ("moment1", "moment2")}
            for name, beta in zip(("beta1_pow_acc", "beta2_pow_acc"), self.betas):
                self.state[name] = paddle.full([1], beta, dtype)
            self._has_moments = np.zeros(len(self.weight), bool)

    def reset_nonzero_rows(self) -> None:
        """Recompute which rows have nonzero moments at the next step, because the state was replaced."""
        self._has_moments = None

    @paddle.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the matrix once, if it has a gradient.

        Args:
            learning_rate: learning rate of the step, before `rate_ratio`.
        """
        if self.weight.grad is None:
            return
        self.init_state()
        scaled_lr = paddle.full([1], learning_rate, self.weight.dtype) * self.rate_ratio
        touched = self.gradient.find_nonzero_rows(self.weight.grad)
        if touched is None:  # any row may have a gradient and get moments
            self._has_moments = None
            self._apply_adamw(self._get_parameters_and_moments(), self.weight.grad, scaled_lr, self.decay)
            return
        # One loop over all rows, so that bits do not depend on which rows have moments: a resumed run finds
        # them by their moments, which are still 0 in rows that only had zero gradients.
        if self.decay:
            table = as_array(self.weight)
            factor = 1.0 - scaled_lr.item() * self.decay
            run_on_row_slices(partial(_scale_rows, table, factor), *table.shape)
        self._update_rows(touched, scaled_lr)

    def _update_rows(self, touched: np.ndarray, scaled_lr: Tensor) -> None:
        """Update the rows with nonzero moments or a gradient, without weight decay.

        Args:
            touched: bool [V], whether a row may have a gradient.
            scaled_lr: learning rate of the matrix, [1].
        """
        tables = self._get_parameters_and_moments()
        if self._has_moments is None:  # [V], whether any element is nonzero
            first, second = (as_array(moments).any(axis=1) for moments in tables[1:])
            self._has_moments = first | second
        self._has_moments |= touched
        rows = np.flatnonzero(self._has_moments)  # int64 [R]
        if len(rows) > LARGEST_SHARE * len(touched):  # updating all rows is faster
            self._apply_adamw(tables, self.weight.grad, scaled_lr, weight_decay=0.0)
            return
        arrays = [as_array(table) for table in tables]
        parts = [_gather_rows(array, rows) for array in arrays]  # [R, H] each
        gradient = _gather_rows(as_array(self.weight.grad), rows)  # [R, H]
        # The tensors share the memory of `parts`, which is thus updated.
        self._apply_adamw(
            [as_tensor(part) for part in parts], as_tensor(gradient), scaled_lr, weight_decay=0.0
        )
        for array, part in zip(arrays, parts):
            run_on_row_slices(partial(_write_rows, part, array, rows), *part.shape)

    def _get_parameters_and_moments(self) -> list[Tensor]:
        """Return the weight and both moments, [V, H] each."""
        return [self.weight, self.state["moment1"], self.state["moment2"]]

    def _apply_adamw(
        self, tables: list[Tensor], gradient: Tensor, scaled_lr: Tensor, weight_decay: float
    ) -> None:
        """Update weight and moments of R rows in place, with Paddle's AdamW kernel.

        Args:
            tables: weight and both moments of these rows, [R, H] each.
            gradient: [R, H].
            scaled_lr: learning rate of the matrix, [1].
            weight_decay: weight decay coefficient.
        """
        paddle._C_ops.adamw_(  # as paddle.optimizer.AdamW calls it
            tables[0],
            gradient,
            scaled_lr,
            tables[1],
            tables[2],
            None,  # maximum second moment, for AMSGrad
            self.state["beta1_pow_acc"],
            self.state["beta2_pow_acc"],
            None,  # master weight
            None,  # whether a gradient is non-finite
            *self.betas,
            self.epsilon,
            1.0,  # learning-rate ratio, already in `scaled_lr`
            weight_decay,
            True,  # with decay
            False,  # lazy mode
            1000,  # rows per thread in lazy mode
            False,  # multi-precision
            False,  # global powers of the betas
            False,  # AMSGrad
        )


def _gather_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the given rows of a matrix, copied on all threads."""
    part = np.empty([len(rows), table.shape[1]], table.dtype)
    run_on_row_slices(partial(_read_rows, part, table, rows), *part.shape)
    return part


def _scale_rows(table: np.ndarray, factor: float, row_slice: slice) -> None:
    """Multiply the slice `row_slice` of a matrix by `factor` in place; called by `run_on_row_slices`."""
    table[row_slice] *= factor


def _read_rows(buffer: np.ndarray, table: np.ndarray, rows: np.ndarray, row_slice: slice) -> None:
    """Copy the rows `rows[row_slice]` of `table` to `buffer[row_slice]`; called by `run_on_row_slices`."""
    buffer[row_slice] = table[rows[row_slice]]


def _write_rows(buffer: np.ndarray, table: np.ndarray, rows: np.ndarray, row_slice: slice) -> None:
    """Copy `buffer[row_slice]` to the rows `rows[row_slice]` of `table`; called by `run_on_row_slices`."""
    table[rows[row_slice]] = buffer[row_slice]
