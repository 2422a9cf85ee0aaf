"""Check that this device computes what a CPU computes in float64: `sh scripts/gpu_check.sh [--quick]`.

One line for each check: ok, skipped or failed. A failed line says what to do. The last line is JSON. A bug
report needs the first two lines, the failed ones and the last (docs/gpu.md). The exit code is 1 if a check
failed. --quick uses tiny shapes.

The checks are tests of tests/gpu/.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

from utils.command_line import load_config
from utils.errors import UserError
from utils.options import option
from utils.runtime import prepare

ROOT = Path(__file__).resolve().parents[1]
# In the order of what finds most in the least time.
FILES = ("machine", "kernels", "training", "processes", "step", "export", "speed", "micro_batches")
# Options of pytest: the project's own, its cache and its time limit are for developers.
SETTINGS = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "faulthandler_timeout=0"]


@dataclass
class CheckFlags:
    """What is checked."""

    quick: bool = option(False, bare=True)
    """Tiny shapes."""


def main() -> None:
    flags = load_config(CheckFlags, None, __doc__)
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's warnings are about its own code
    prepare(quiet=True)
    try:
        import pytest
    except ImportError as error:
        raise UserError("the checks need pytest: sh scripts/setup.sh test") from error

    files = [str(ROOT / "tests" / "gpu" / f"test_{name}.py") for name in FILES]
    line = [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", *SETTINGS, *files]
    if flags.quick:
        line.append("--quick")
    sys.exit(pytest.main(line, plugins=["tests.gpu.lines"]))


if __name__ == "__main__":
    run(main)
