"""scripts/gpu_check.py on a CPU: its lines, and how it ends."""

import re
import shutil

from ernie_m.utils import __version__
from scripts.gpu_check import BEGIN, END, FILES
from tests.helpers.files import write_files
from tests.launching import ROOT, run_script

# Checks as a file that the command may run instead of its own: one for each result.
PLANTED = """
import pytest

def test_right(check):
    check(1e-6, 1e-5)

def test_wrong(check):
    check(1e-4, 1e-5)

def test_no_number(check):
    check(float("nan"), 1e-5)

def test_surprising():
    raise OSError("CUDA error(700), an illegal memory access was encountered")

def test_absent():
    pytest.skip("no FlashMask")
"""
# Runs the file that the argument names, with the command's plugin and settings.
RUN = """
import sys
import pytest
from scripts.gpu_check import SETTINGS
config = ["--rootdir", {root!r}, "--config-file", {root!r} + "/pyproject.toml"]
sys.exit(pytest.main([*config, *SETTINGS, sys.argv[1]], plugins=["tests.gpu.lines"]))
"""


def test_every_check_is_run():
    """A check takes the fixture `check`, and is in one of the files of the command."""
    assert set(FILES) == {
        path.stem.removeprefix("test_")
        for path in (ROOT / "tests" / "gpu").glob("test_*.py")
        if path.stem != "test_command" and "check(" in path.read_text(encoding="utf-8")
    }


def test_cpu_does_not_pass_as_a_gpu(tmp_path):
    """A few checks are enough here."""
    process = run_script(
        [ROOT / "scripts" / "gpu_check.py"], tmp_path, PYTEST_ADDOPTS="-k 'attention or flash'"
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr
    begin, first, version, _paddle, driver, device, *checks, counts, end = process.stdout.splitlines()
    assert (begin, first, end) == (BEGIN, "no GPU: running on the CPU", END)
    assert ", commit fatal" not in version and "nvidia-smi" in driver
    assert counts == "1 ok, 4 skipped, 0 failed"
    assert version.startswith(f"ernie-m {__version__}, commit ") and device.startswith("device: cpu")
    in_float32, *in_half = checks
    assert (
        in_float32.startswith("attention equals float64[float32]: ")
        and ", at most 1.0e-05: ok on the CPU (" in in_float32
    )
    assert len(in_half) == 4 and all(": skipped on the CPU (" in line for line in in_half)


def test_check_log_lines(tmp_path):
    """A failed check ends the command with 1, and the others run."""
    shutil.copy(ROOT / "tests" / "gpu" / "conftest.py", tmp_path)  # the fixtures of checks
    write_files(tmp_path, {"test_planted.py": PLANTED, "run.py": RUN.format(root=str(ROOT))})
    process = run_script([tmp_path / "run.py", tmp_path / "test_planted.py"], tmp_path)
    assert process.returncode == 1, process.stdout + process.stderr
    assert re.sub(r" \(\d+\.\d s\)$", "", process.stdout, flags=re.MULTILINE).splitlines() == [
        "right: 1.0e-06, at most 1.0e-05: ok on the CPU",
        "wrong: 1.0e-04, at most 1.0e-05: failed on the CPU",
        "no number: nan, at most 1.0e-05: failed on the CPU",
        "surprising: CUDA error(700), an illegal memory access was encountered: failed on the CPU",
        "absent: no FlashMask: skipped on the CPU",
        "1 ok, 1 skipped, 3 failed",
    ]
