"""What ruff and mypy find in the package: nothing, by the defaults of mypy nothing in the core."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# File or folder -> how many errors are left in it at most, which may only fall. Elsewhere there are none.
LEFT = {
    "ernie_m/__main__.py": 3,
    "ernie_m/commands/": 16,
    "ernie_m/data/": 7,
    "ernie_m/finetune/retrieval/": 39,
    "ernie_m/fit/": 35,
    "ernie_m/inference/": 121,
    "ernie_m/model/cpu/": 32,
    "ernie_m/reader/files/aligned_lines.py": 6,
    "ernie_m/reader/files/conll.py": 1,
    "ernie_m/reader/files/find_files.py": 2,
    "ernie_m/reader/files/labeled_tables.py": 11,
    "ernie_m/reader/files/pairs.py": 1,
    "ernie_m/reader/files/plain_text.py": 4,
    "ernie_m/reader/files/tables.py": 7,
    "ernie_m/reader/vocabulary_coverage.py": 1,
}
FAULT = re.compile(r"^(ernie_m/\S+?):\d+: error: ", re.MULTILINE)


def test_passes_ruff():
    """Among others, text in the encoding of the locale, and names that are not used."""
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "ernie_m"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_passes_mypy_within_the_known_errors():
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    files = FAULT.findall(run.stdout)
    assert f"Found {len(files)} error" in run.stdout, run.stdout + run.stderr
    found = Counter(next((name for name in LEFT if file.startswith(name)), file) for file in files)
    too_many = {name: count for name, count in found.items() if count > LEFT.get(name, 0)}
    errors = [line for line in run.stdout.splitlines() if line.startswith(tuple(too_many))]
    assert not too_many, "\n".join([str(too_many), *errors])
