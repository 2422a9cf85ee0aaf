"""What a process remembers, forgotten."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def nothing_cached(*functions: Callable) -> Iterator[None]:
    """In this context, and after it, functions with `functools.cache` have not been called yet."""
    for function in functions:
        function.cache_clear()
    try:
        yield
    finally:
        for function in functions:
            function.cache_clear()
