"""scripts/setup.sh refuses a Python that is missing or too old, which PYTHON names."""

import shutil
import subprocess

import pytest

from tests.launching import ROOT, clean_environment


@pytest.mark.parametrize(
    "version, message",
    [
        (None, "it is not there, or does not run; name a Python 3.11, 3.12 or 3.13"),
        ("3.9", "is Python 3.9; name a Python 3.11, 3.12 or 3.13"),
    ],
)
def test_another_python_is_refused(tmp_path, version, message):
    """`version` is what the Python that PYTHON names prints; None: there is no such file."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, tmp_path)
    python = tmp_path / "python"
    if version:
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
    process = subprocess.run(
        ["sh", "scripts/setup.sh"],
        cwd=tmp_path,
        env=clean_environment(PYTHON=str(python)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: PYTHON={python}") and line.endswith(message)
    assert not (tmp_path / ".venv").exists()
