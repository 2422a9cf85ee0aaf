"""What a stranger meets first: the versions of Python, the wheel, and the first block of the README."""

import subprocess
import sys
import tomllib
import venv

import pytest

from tests import toys
from tests.helpers.pages import PYTHON
from tests.launching import ROOT, clean_environment
from tests.test_package import OWN_NAMES, built

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.slow
def test_the_wheel_in_a_fresh_environment(tmp_path):
    """pip installs the wheel, and the README's first block of Python runs as it is printed.

    The packages that it depends on are those of this environment: pip looks at them, but fetches none.
    """
    wheel = built("wheel", ROOT, tmp_path / "dist")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    (packages,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    here = __import__("numpy").__path__[0].rpartition("/")[0]
    (packages / "of_tests.pth").write_text(here)  # the packages of this environment, but no .pth of it
    line = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-index",
        f"{wheel}[cpu,search,fit]",
    ]
    subprocess.run(line, check=True, capture_output=True, env=clean_environment())

    # The model of the block is a tiny one, which has what the real one has.
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    toys.make_models(tmp_path / "models")
    (tmp_path / "models/encode").rename(tmp_path / "configs/e5-small")
    block = PYTHON.search((ROOT / "README.md").read_text(encoding="utf-8"))[1]
    shown = (
        f"import sys\n{block}\nprint(ernie_m.__file__, {{*sys.modules}} & {{*{OWN_NAMES}}}, topics.labels)"
    )
    completed = subprocess.run(
        [python, "-I", "-c", shown],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith(f"{packages}/ernie_m/__init__.py set() ")  # no name but ernie_m
