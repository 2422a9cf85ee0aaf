"""The gradient of a word table that is only looked up, on a GPU: some of its rows, never the whole table.

A batch of fine-tuning touches a few thousand of 250,002 words. Paddle would fill 768 MB with zeros in each
micro-batch, and add them up over the processes.

The host numbers the different words of a step, `words_of_step`, before it sends the batches to the device. So
the device never looks for them, and the host never reads how many they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from model import device


@dataclass(frozen=True)
class BatchWords(device.Uploadable):
    """The words that a batch looks up.

    Attributes:
        of_step: those of the whole step.
        places: int64 [N], the place of each token's word among those of the step.
    """

    of_step: "StepWords"
    places: Tensor


class StepWords(NamedTuple):
    """The different words of all batches of a step on this process. They stay on the host."""

    ids: np.ndarray  # int64 [n], ascending

    def of_batch(self, input_ids: np.ndarray) -> BatchWords:
        """The words of a batch with these ids, int64 [N], still to be uploaded.

        The filler's id, 0, may be no word of the step. It gets the place of the first word, whose gradient
        does not change: nothing reads the filler, so its own gradient is 0.
        """
        return BatchWords(self, np.searchsorted(self.ids, input_ids))


def words_of_step(ids: Sequence[np.ndarray]) -> StepWords | None:
    """The words of the batches of a step, for `TokenBatch`; None if the table's gradient is not made of rows.

    Args:
        ids: of each batch, int64 of any shape. Pads may be among them: their row gets a gradient of 0.
    """
    if not ids or not device.uses_gpu_kernels():
        return None
    return StepWords(np.unique(np.concatenate([array.ravel() for array in ids])))


class RowGradient:
    """The gradient of a word table [V, H], as rows of it: `weight.grad` is [n, H].

    Attributes:
        words: int64 [n] on the host, the word of each row of `weight.grad`, if there is a gradient. They
            ascend.
    """

    def __init__(self, weight: Tensor):
        self.weight = weight
        self.words: np.ndarray | None = None
        self._is_only_looked_up = True

    def turn_off(self) -> None:
        """Note that words are also predicted from the table: then each of its rows gets a gradient."""
        self._is_only_looked_up = False

    def is_in_use(self) -> bool:
        """Whether the gradient will consist of rows; the same on all processes."""
        # Weights in half precision (O2) have float32 copies, of which AdamW would have to update rows, too.
        is_half = self.weight.dtype in (paddle.float16, paddle.bfloat16)
        is_trained = not self.weight.stop_gradient
        return self._is_only_looked_up and is_trained and not is_half and device.uses_gpu_kernels()

    def add(self, words: BatchWords, values: Tensor) -> None:
        """Add the gradients `values` [N, H] of the words of a batch.

        Raises:
            ValueError: another batch of the step was made with other words.
        """
        if self.weight.grad is None:
            self.words = words.of_step.ids
            # `grad_` and not `grad`, which would copy it.
            self.weight.grad_ = paddle.zeros([len(self.words), values.shape[1]], self.weight.dtype)
        elif self.words is not words.of_step.ids:
            raise ValueError("the batches of a step must be made with the same `words_of_step`")
        paddle.index_add_(self.weight.grad, words.places, 0, values)

    def merge(self, gather: Callable[[object], list], sum_over_processes: Callable[[Tensor], None]) -> None:
        """Add up the gradients of all processes. All of them must call this, also those without a gradient.

        Args:
            gather: returns the words of each process.
            sum_over_processes: replaces a tensor with its sum over the processes.
        """
        own_words = None if self.weight.grad is None else self.words
        words_of_processes = [words for words in gather(own_words) if words is not None]
        if not words_of_processes:
            return
        words = np.unique(np.concatenate(words_of_processes))  # [n] of all processes
        merged = paddle.zeros([len(words), self.weight.shape[1]], self.weight.dtype)
        if own_words is not None:
            places = paddle.to_tensor(np.searchsorted(words, own_words))
            paddle.scatter_(merged, places, self.weight.grad, overwrite=True)
        sum_over_processes(merged)
        self.words = words
        self.weight.grad_ = merged


class LookUpRows(PyLayer):
    """Rows of a table [V, H]: ids [N] -> [N, H]. The gradient goes to a `RowGradient`."""

    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, words: BatchWords, row_gradient: RowGradient) -> Tensor:
        ctx.words = words
        ctx.row_gradient = row_gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        # Returns no gradient: `RowGradient` keeps it.
        ctx.row_gradient.add(ctx.words, gradient)
