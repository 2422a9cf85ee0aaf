"""Paddle's default type."""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle


@contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """In this context new weights and tensors have this type, and after it float32."""
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype("float32")
