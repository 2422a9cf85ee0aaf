"""The objectives, one file each, found by the name of the file; docs/pretraining.md adds one.

`ernie_m/pretrain/objective.py` has their base class.
"""

import pkgutil
from importlib import import_module
from typing import Any

OF_THE_PAPER = ("mmlm", "tlm", "camlm", "btmlm")
_FILES = {module.name for module in pkgutil.iter_modules(__path__)}
# All of them; a batch names the objective of a masked token by its place here.
OBJECTIVES = (*OF_THE_PAPER, *sorted(_FILES.difference(OF_THE_PAPER)))


def get_class(name: str) -> Any:
    """The class of an objective, a subclass of `Objective`: `Camlm` in camlm.py."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return getattr(import_module(f"{__name__}.{name}"), class_name)
