"""Dropout whose random bits are drawn by all threads."""

import math
from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from model.cpu.rows import as_rows, needs_gradient, over_rows

PART_SIZE = 1 << 18  # elements of a mask that share one stream of random bits
LEVELS = 1 << 16  # the values of the 16 random bits of an element


class DropoutMask(NamedTuple):
    """Which elements dropout leaves."""

    stays: np.ndarray  # bool, of the shape of what it is applied to
    scale: float  # of the elements that stay


def draw_dropout_mask(shape: list[int], probability: float) -> DropoutMask:
    """Draw the elements that dropout with this probability leaves.

    Each element uses 16 random bits, so the probability is rounded to 1/65536; the expectation is exact.
    The seed is drawn from Paddle's generator, so paddle.seed, its saved state and recompute work as usual.
    """
    threshold = round((1 - probability) * LEVELS)  # an element stays if its bits are below
    if threshold in (0, LEVELS):  # no element stays, or all do
        return DropoutMask(np.full(shape, threshold == LEVELS), scale=1.0)
    seed = paddle.randint(0, np.iinfo(np.int32).max, [4], "int32").tolist()
    size = math.prod(shape)
    stays = np.empty(size, bool)
    parts = np.split(stays, range(PART_SIZE, size, PART_SIZE))  # views, which the threads fill

    def draw(part_indices: slice) -> None:
        for index in range(part_indices.start, part_indices.stop):
            # A stream of its own for each part, so that the bits do not depend on the number of threads. The
            # first part has the stream of the seed itself, so that small masks are those of earlier versions.
            key = () if index == 0 else (index,)
            source = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key))
            part = parts[index]
            words = source.random_raw(math.ceil(len(part) / 4))  # uint64, each for four elements
            bits = words.view(np.uint16)[: len(part)]
            np.less(bits, threshold, out=part)

    over_rows(draw, len(parts), width=PART_SIZE)
    return DropoutMask(stays.reshape(shape), LEVELS / threshold)


class DropoutOnCpu(PyLayer):
    """Dropout of x [..., H], and then the sum with `residual`, if there is one.

    The mask takes a byte for each element; a product of tensors would keep two floats.
    """

    @staticmethod
    def forward(ctx, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        ctx.mask = draw_dropout_mask(x.shape, probability)
        ctx.needs_gradient = needs_gradient(x) if residual is None else needs_gradient(x, residual)
        return _apply(ctx.mask, x, residual)

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x_needs, *residual_needs = ctx.needs_gradient
        grad_x = _apply(ctx.mask, grad_y) if x_needs else None
        if not residual_needs:  # there is no residual
            return (grad_x,)
        grad_residual = grad_y if residual_needs[0] else None
        return grad_x, grad_residual


def _apply(mask: DropoutMask, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """x [..., H] times the mask and its scale, plus `residual`."""
    y = paddle.empty_like(x)
    x_rows = as_rows(x)
    y_rows = as_rows(y)  # [N, H]
    stays = mask.stays.reshape(x_rows.shape)
    residual_rows = None if residual is None else as_rows(residual)

    def work(rows: slice) -> None:
        part = y_rows[rows]
        np.copyto(part, stays[rows])  # True becomes 1.0 and False 0.0
        part *= mask.scale
        part *= x_rows[rows]
        if residual_rows is not None:
            part += residual_rows[rows]

    over_rows(work, *x_rows.shape)
    return y
