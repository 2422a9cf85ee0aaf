"""ERNIE-M, a cross-lingual encoder. `ernie_m.load(folder)` loads a model. See docs/predict.md."""

from typing import TYPE_CHECKING, Any

from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError

if TYPE_CHECKING:
    from ernie_m.api import Model, load

__all__ = ["Model", "UserError", "__version__", "load"]


def __dir__() -> list[str]:
    """List the public names, including those that are imported on first use."""
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # with it a checker would take every name for one of this module

    def __getattr__(name: str) -> Any:
        """Import `Model` and `load` on first use, so that commands start without them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from ernie_m import api

        return getattr(api, name)
