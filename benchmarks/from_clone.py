"""Time from `git clone` to the first trained step, beside an environment made for transformers.

    python benchmarks/from_clone.py                          a clone of this checkout; it downloads packages

Ours: clone, scripts/setup.sh, one step of benchmarks/first_step.py. transformers: clone (for the step's few
lines), a virtual environment, pip install of torch and transformers, the same step. Both take Python 3 of the
PATH, or PYTHON, and pip's own settings and cache: for torch's CPU build in the place of several GB of CUDA
libraries set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Packages that are in the cache are
faster for both; run it twice for a warm one.

The last line is JSON (benchmarks/figures.py).
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import OURS, ROOT, VOCABULARY, Contender, compare, tell

PACKAGES = ("torch", "transformers<5", "numpy")
CONTENDERS = {
    "ours": Contender("ours", "ours", False),
    "transformers": Contender("transformers", "transformers", False, environment=OURS),
}


def ours(_, args) -> None:
    time_commands(args, [["sh", "scripts/setup.sh"]], ".venv/bin/python", "ours_bare")


def transformers(_, args) -> None:
    python = os.environ.get("PYTHON", "python3")
    commands = [[python, "-m", "venv", "peer"], ["peer/bin/python", "-m", "pip", "install", "-q", *PACKAGES]]
    time_commands(args, commands, "peer/bin/python", "hf_installed_sdpa")


def time_commands(args, commands: list[list[str]], python: str, contender: str) -> None:
    """A worker's last act: clone, `commands`, and a first step of a contender of benchmarks/first_step.py."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        start = time.perf_counter()
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True, stdout=subprocess.DEVNULL)
        step = [
            python, "benchmarks/first_step.py", f"--worker={contender}", f"--layers={args.layers}",
            f"--vocab={args.vocab}",
        ]  # fmt: skip
        for command in (*commands, step):
            subprocess.run(command, cwd=clone, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    tell(seconds, peak=largest)


WORKERS = {"ours": ours, "transformers": transformers}

if __name__ == "__main__":
    sizes = {"layers": 12, "vocab": VOCABULARY}
    compare(__doc__, CONTENDERS, WORKERS, sizes, "s", lambda args: 1, rounds=1)
