"""Utilities of all other packages, and the version of the project.

This module also resolves the symbolic links at the top of a clone, such as `model`, which have the official
layout. Otherwise Python would run each file again under its second name, and `model.ernie.ErnieMModel` would
be a different class than `ernie_m.model.ernie.ErnieMModel`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

__version__ = "1.0.0"


def replace_linked_module(name: str) -> None:
    """Replace a module that was imported through a symbolic link with the package's module.

    Called by the `__init__.py` of a package, which Python runs under the name of the link. After that, Python
    takes the entry in `sys.modules`.

    Args:
        name: `__name__` of the caller.
    """
    if "." not in name:
        sys.meta_path.insert(0, LinkFinder)
        sys.modules[name] = import_module(f"ernie_m.{name}")


class LinkFinder(SourceFileLoader):
    """Import hook that resolves modules below a symbolic link, such as `model.ernie`, to package modules.

    It derives from a file loader, because `python -m pretrain.build_corpus` calls the loader's `get_code`.
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
