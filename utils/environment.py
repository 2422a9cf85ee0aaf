"""The first import of every command: without the packages of the environment it ends with one line.

A command imports `utils.errors.run` from here, so that nothing else can be imported before this check.
"""

import sys
from importlib.util import find_spec

from utils.errors import run

__all__ = ["run"]

if missing := [name for name in ("numpy", "yaml", "sentencepiece") if not find_spec(name)]:
    print(
        f"error: {sys.executable} has no {', '.join(missing)}; run sh scripts/setup.sh once, then use "
        ".venv/bin/python",
        file=sys.stderr,
    )
    sys.exit(2)
