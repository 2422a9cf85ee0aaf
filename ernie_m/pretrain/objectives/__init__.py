"""The registry of objectives, one per file, named after the file.

`ernie_m/pretrain/objective.py` has the base class, and docs/objectives.md explains how to add an objective.
"""

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_bytes
from ernie_m.utils.user_code import run_code

OF_THE_PAPER = ("mmlm", "tlm", "camlm", "btmlm")
# All objectives of this process; a batch refers to an objective by its index here.
OBJECTIVES = [*OF_THE_PAPER]
_own: dict[str, Any] = {}  # classes added by `register_code`


def register_files(paths: Iterable[str]) -> dict[str, bytes]:
    """Register the custom objective of each file, under the name of the file.

    Returns:
        Path -> content of the file, for `register_code` in another process.

    Raises:
        UserError: a file cannot be read; see also `register_code`.
    """
    contents = {path: read_bytes(path) for path in paths}
    register_code(contents)
    return contents


def register_code(contents: Mapping[str, bytes]) -> None:
    """Register custom objectives.

    Args:
        contents: path -> content of the file, which defines an objective.

    Raises:
        UserError: a file raises an exception, does not define exactly one objective, or has the name of a
            built-in objective.
    """
    for path, content in contents.items():
        name = Path(path).stem
        if name in OF_THE_PAPER or not name.isidentifier():
            raise UserError(f"{path}: invalid objective name {name}. Rename the file")
        classes = _find_classes(run_code(content, path, f"{__name__}.{name}"))
        if len(classes) != 1:
            line = max((inspect.getsourcelines(cls)[1] for cls in classes), default=1)
            raise UserError(f"{path}, line {line}: expected one subclass of Objective, got {len(classes)}")
        (_own[name],) = classes
    OBJECTIVES[:] = [*OF_THE_PAPER, *_own]


def get_objective_class(name: str) -> Any:
    """Return the class of an objective by name."""
    return _own[name] if name in _own else _find_classes(import_module(f"{__name__}.{name}"))[0]


def _find_classes(module: ModuleType) -> list[Any]:
    """Return the objective classes that a module defines: those with an attribute `reads`."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "reads")
    ]
