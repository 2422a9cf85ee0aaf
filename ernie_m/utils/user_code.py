"""Python files of a user's own: an objective, a metric. An error in one is a line that names its place."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_bytes


def run_file(path: str, name: str) -> ModuleType:
    """Run a file as the module `name`, which can be imported by that name afterwards.

    Raises:
        UserError: the file cannot be read, or it has an error.
    """
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    # Not by importlib, which may take an older version that it has compiled.
    content = read_bytes(path)
    with errors_in([path]):
        exec(compile(content, path, "exec"), vars(module))
    return module


@contextmanager
def errors_in(paths: list[str]) -> Iterator[None]:
    """Turn an error that code of these files raises into a `UserError` with its file and line."""
    try:
        yield
    except Exception as error:
        places: list[Any] = (
            [error] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
        )
        own = [f"{place.filename}, line {place.lineno}" for place in places if place.filename in paths]
        if not own:
            raise
        raise UserError(f"{own[-1]}: {type(error).__name__}: {error}") from error
