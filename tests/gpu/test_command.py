"""scripts/gpu_check.py on a CPU: its lines, its JSON, and how it ends."""

import importlib
import inspect
import json
import subprocess

from scripts.gpu_check import FILES
from tests.launching import ROOT, clean_environment, run_script
from utils import __version__

# Checks as a file that the command may run in place of its own: one for each result.
PLANTED = """
import pytest
from tests.gpu.bounds import Failed

def test_environment(fact):
    fact("ernie-m")
    fact("two facts")

def test_{broken}():
    raise Failed("the card is on fire; fetch water")

def test_surprising():
    raise OSError("CUDA error(700), an illegal memory access was encountered")

def test_flash_mask():
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


def lines_and_report(process: subprocess.CompletedProcess) -> tuple[list[str], dict]:
    """The lines of the checks, and the JSON in the last line."""
    *lines, last_line = process.stdout.splitlines()
    report = json.loads(last_line)
    assert len(lines) == len(report["checks"])
    return lines, report


def test_every_check_is_run():
    """A check takes the fixture `fact`, and is in one of the files of the command."""
    files = set()
    for path in (ROOT / "tests" / "gpu").glob("test_*.py"):
        module = importlib.import_module(f"tests.gpu.{path.stem}")
        tests = [
            value for name, value in vars(module).items() if name.startswith("test_") and callable(value)
        ]
        if any("fact" in inspect.signature(test).parameters for test in tests):
            files.add(path.stem.removeprefix("test_"))
    assert files == set(FILES)


def test_a_cpu_passes(tmp_path):
    """No line may read as if a card had passed. A few checks are enough here."""
    script = ROOT / "scripts" / "gpu_check.py"
    choice = "-k 'environment or device or test_operations or flash'"
    process = run_script([script, "--quick"], tmp_path, PYTEST_ADDOPTS=choice)
    assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr
    lines, report = lines_and_report(process)
    environment, device, operations, flash_mask = lines
    for fact in (f"ernie-m {__version__}, commit ", "paddlepaddle ", " cores, ", "OMP_NUM_THREADS="):
        assert fact in environment
    assert device.startswith("2 of 4 device: skipped: no GPU; a machine that has one needs ")
    assert operations.startswith("3 of 4 operations: ok on the CPU: linear, ")
    assert flash_mask.startswith("4 of 4 flash mask: skipped: no FlashMask on this device")
    assert report["ok"] and report["device"] == "cpu"
    assert [result["result"] for result in report["checks"]] == ["ok", "skipped", "ok", "skipped"]


def run_planted(tmp_path, broken: str) -> subprocess.CompletedProcess:
    """Run the planted checks. `broken`: the name of the one that fails."""
    checks = ROOT / "tests" / "gpu" / "conftest.py"  # their fixtures
    (tmp_path / "conftest.py").write_text(checks.read_text(encoding="utf-8"))
    (tmp_path / "test_planted.py").write_text(PLANTED.format(broken=broken))
    (tmp_path / "run.py").write_text(RUN.format(root=str(ROOT)))
    return run_script([tmp_path / "run.py", tmp_path / "test_planted.py"], tmp_path)


def test_a_failed_check_ends_with_1_and_the_others_run(tmp_path):
    process = run_planted(tmp_path, broken="attention")
    assert process.returncode == 1, process.stdout + process.stderr
    lines, report = lines_and_report(process)
    assert lines[0].startswith("1 of 4 environment: ok on the CPU: ernie-m; two facts (")
    assert lines[1].startswith("2 of 4 attention: failed: the card is on fire; fetch water (")
    assert lines[2].startswith("3 of 4 surprising: failed: OSError('CUDA error(700)")
    assert "; report it with the output of `sh scripts/gpu_check.sh`" in lines[2]
    assert lines[3].startswith("4 of 4 flash mask: skipped: no FlashMask (")
    assert not report["ok"]


def test_without_the_right_paddle_the_other_checks_are_left_out(tmp_path):
    """The check "device" is needed: after it has failed no other one runs."""
    process = run_planted(tmp_path, broken="device")
    lines, report = lines_and_report(process)
    assert process.returncode == 1 and len(lines) == 2 and not report["ok"]


def test_the_script_starts_from_any_folder(tmp_path):
    line = ["sh", str(ROOT / "scripts" / "gpu_check.sh"), "--help"]
    completed = subprocess.run(
        line, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True, timeout=120
    )
    assert "--quick" in completed.stdout
