"""scripts/setup.sh: what it refuses, and the line that lets `.venv/bin/python` find `import ernie_m`."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.launching import ROOT, clean_environment

# In place of a Python: it has a version, makes an environment with itself in it, and does nothing else.
STAND_IN = """#!/bin/sh
case "$*" in
    *version_info*) echo {version} ;;
    "-m venv "*) mkdir -p "$3/bin" "$3/lib/python3.12/site-packages" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the script and the files that it reads."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, folder)
    return folder


def python_of(folder: Path, version: str) -> Path:
    """Write a stand-in for a Python of this version."""
    path = folder / "python"
    path.write_text(STAND_IN.format(version=version))
    path.chmod(0o755)
    return path


def setup(folder: Path, python: Path, **options) -> subprocess.CompletedProcess:
    """Run the script with this Python."""
    environment = clean_environment(PYTHON=str(python))
    command = ["sh", "scripts/setup.sh"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize(
    "version, message",
    [
        (None, "it is not there, or does not run; name a Python 3.11, 3.12 or 3.13"),
        ("3.9", "is Python 3.9; name a Python 3.11, 3.12 or 3.13"),
    ],
)
def test_another_python_is_refused(checkout, version, message):
    """`version` is what the Python that PYTHON names prints; None: there is no such file."""
    python = python_of(checkout, version) if version else checkout / "python"
    process = setup(checkout, python)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: PYTHON={python}") and line.endswith(message)
    assert not (checkout / ".venv").exists()


def test_its_python_finds_the_checkout(checkout, tmp_path):
    """Also in an environment that was complete before, and in a checkout that was moved."""
    python = python_of(checkout, "3.12")
    path_file = ".venv/lib/python3.12/site-packages/ernie_m.pth"
    assert setup(checkout, python).returncode == 0
    assert (checkout / path_file).read_text() == f"{checkout}\n"
    moved = checkout.rename(tmp_path / "moved")
    process = setup(moved, moved / "python")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert (moved / path_file).read_text() == f"{moved}\n"


def test_a_checkout_that_cannot_be_written(checkout):
    """It ends, and does not wait for another setup."""
    user = 65534 if os.getuid() == 0 else None  # root may write everywhere, and others not look into tmp_path
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout, folder, dirs_exist_ok=True)
        os.chmod(folder, 0o555)
        process = setup(Path(folder), Path(folder) / "python", user=user, timeout=60)
        os.chmod(folder, 0o755)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {folder}: ")
