"""Runs custom Python files, for objectives and metrics.

Exceptions in these files are reported in one line with file and line number.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ernie_m.utils.errors import UserError


def run_code(content: bytes, path: str, name: str) -> ModuleType:
    """Run the content of a Python file as the module `name`, which can then be imported by this name.

    The caller has read the file: what is run, its digest and what another process runs must be the same, even
    if the file is edited meanwhile.

    Raises:
        UserError: the code raises an exception.
    """
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    # Not by importlib, which may use an older compiled version.
    with translate_user_errors([path]):
        exec(compile(content, path, "exec"), vars(module))
    return module


@contextmanager
def translate_user_errors(paths: list[str]) -> Iterator[None]:
    """Translate exceptions within a `with` block that were raised in these files into `UserError`.

    The message has the file and line number.
    """
    try:
        yield
    except Exception as error:
        locations: list[Any] = (
            [error] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
        )
        locations_in_files = [
            f"{frame.filename}, line {frame.lineno}" for frame in locations if frame.filename in paths
        ]
        if not locations_in_files:
            raise
        raise UserError(f"{locations_in_files[-1]}: {type(error).__name__}: {error}") from error
