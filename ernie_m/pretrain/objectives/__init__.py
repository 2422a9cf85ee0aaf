"""The objectives, one per file, found by file name; docs/pretraining.md explains how to add one.

`ernie_m/pretrain/objective.py` has their base class.
"""

import inspect
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.user_code import run_file

OF_THE_PAPER = ("mmlm", "tlm", "camlm", "btmlm")
# All objectives of this process; a batch refers to an objective by its index here.
OBJECTIVES = [*OF_THE_PAPER]
_own: dict[str, Any] = {}  # classes added by `use_files`


def use_files(paths: Iterable[str]) -> None:
    """Add the objective of each file, under the name of its file.

    Raises:
        UserError: a file cannot be read, has an error, does not define exactly one objective, or its name is
        taken.
    """
    for path in paths:
        name = Path(path).stem
        if name in OF_THE_PAPER or not name.isidentifier():
            raise UserError(f"{path}: {name} invalid name of an objective. Rename the file")
        classes = _classes_in(run_file(path, f"{__name__}.{name}"))
        if len(classes) != 1:
            line = max((inspect.getsourcelines(cls)[1] for cls in classes), default=1)
            raise UserError(f"{path}, line {line}: expected one subclass of Objective, got {len(classes)}")
        (_own[name],) = classes
    OBJECTIVES[:] = [*OF_THE_PAPER, *_own]


def get_class(name: str) -> Any:
    """Return the class of an objective, the only subclass of `Objective` in its file."""
    return _own[name] if name in _own else _classes_in(import_module(f"{__name__}.{name}"))[0]


def _classes_in(module: ModuleType) -> list[Any]:
    """Return the subclasses of `Objective` that a module defines and that have `reads`."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "reads")
    ]
