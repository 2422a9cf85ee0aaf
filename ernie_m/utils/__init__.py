"""Utilities of all other folders, and the only definition of the project's version.
This module also resolves the links at the top of a clone, such as `model`, which have the official layout.
Without it, Python would run each file again under its second name, and the `ErnieMModel` of `model/ernie.py`
would be a different class than the package's.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

__version__ = "1.0.0"


def be_one_module(name: str) -> None:
    """Make an `__init__.py` that runs as `name`, through a link, return the package's own module.

    Python takes the entry in `sys.modules` after a file has run.
    """
    if "." not in name:
        sys.meta_path.insert(0, LinkFinder)
        sys.modules[name] = import_module(f"ernie_m.{name}")


class LinkFinder(SourceFileLoader):
    """Finds the modules below a link, such as `model/ernie.py`, and returns those of the package.

    It is a file loader because `python -m pretrain.build_corpus` asks one for the code.
    """

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        parent = name.rpartition(".")[0]
        is_below_a_link = getattr(sys.modules.get(parent), "__name__", None) == f"ernie_m.{parent}"
        spec = PathFinder.find_spec(name, path) if is_below_a_link else None
        if spec is None or spec.origin is None:
            return None
        return spec_from_file_location(name, loader=cls(name, spec.origin))

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[self.name] = import_module(f"ernie_m.{self.name}")
