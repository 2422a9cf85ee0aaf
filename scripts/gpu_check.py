"""Check that this device agrees with a CPU in float64: `sh scripts/gpu_check.sh`.

Each check, a test in tests/gpu/, prints a line with the maximum difference and its bound, then ok, skipped or
failed. The exit code is 1 if a check failed. Add the lines from BEGIN to END to a bug report (see
docs/hardware.md). Without END, the check after the last line ended the program.
"""

from ernie_m.utils.first_import import run

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ernie_m.utils import __version__
from ernie_m.utils.args import parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import prepare

ROOT = Path(__file__).resolve().parents[1]
FILES = ("kernels", "step", "processes", "export")  # the most informative checks first
BEGIN = "----- gpu_check: send from here -----"
END = "----- gpu_check: to here -----"
# pytest options: the project's, its cache and its time limit are for developers.
SETTINGS = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "faulthandler_timeout=0"]


@dataclass
class CheckFlags:
    """Command-line options of gpu_check.py: none."""


def main() -> None:
    parse_options(CheckFlags, None, __name__)
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's warnings are about its own code
    settings = prepare()
    try:
        import pytest
    except ImportError as error:
        raise UserError("the checks require pytest. Run sh scripts/setup.sh test") from error
    import paddle

    from ernie_m.model.kernel_selection import is_on_gpu
    from ernie_m.training.device_summary import format_device_summary

    print(BEGIN)
    if not is_on_gpu():
        print("no GPU: running on the CPU")
    commit = subprocess.getoutput(f"git -C {shlex.quote(str(ROOT))} describe --always --dirty")
    print(
        f"ernie-m {__version__}, commit {commit}, Python {platform.python_version()}, {platform.platform()}"
    )
    print(f"paddlepaddle {paddle.__version__} for CUDA {paddle.version.cuda()}; {settings}")
    print(
        subprocess.getoutput("nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader")
    )
    print(format_device_summary("float32", processes=1), flush=True)
    files = [str(ROOT / "tests" / "gpu" / f"test_{name}.py") for name in FILES]
    line = [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", *SETTINGS, *files]
    exit_code = pytest.main(line, plugins=["tests.gpu.lines"])
    print(END)
    sys.exit(exit_code)


if __name__ == "__main__":
    run(main)
