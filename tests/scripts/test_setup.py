"""scripts/setup.sh: what it refuses, what it installs, and what a move leaves."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.helpers.files import write_file
from tests.launching import ROOT, check_error, check_refusal, clean_environment

# Instead of a Python: it has a version, makes an environment with itself in it, writes down what its pip is
# to install, and does nothing else.
STAND_IN = """#!/bin/sh
case "$*" in
    *version_info*) echo {version} ;;
    "-m venv "*) mkdir -p "$3/bin" "$3/lib/python3.12/site-packages" && cp "$0" "$3/bin/python" ;;
    "-m pip install "*"-e ."*)
        echo "$*" >>pip.txt
        for packages in .venv*/lib/python3.12/site-packages; do echo "$PWD" >"$packages/_ernie_m.pth"; done
        ;;
    "-m pip install "*) echo "$*" >>pip.txt ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the script and the files that it reads."""
    folder = tmp_path / "checkout"
    (folder / "scripts/pins").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    for path in [*ROOT.glob("requirements*.txt"), *ROOT.glob("scripts/pins/*.txt"), ROOT / "pyproject.toml"]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    return folder


def write_python(folder: Path, version: str) -> Path:
    """Write a stand-in for a Python of this version."""
    path = write_file(folder / "python", STAND_IN.format(version=version))
    path.chmod(0o755)
    return path


@pytest.fixture
def python(checkout):
    """A stand-in for Python 3.12."""
    return write_python(checkout, "3.12")


def setup(folder: Path, python: Path, *words: str, **options) -> subprocess.CompletedProcess:
    """Run the script with this Python."""
    return subprocess.run(
        ["sh", "scripts/setup.sh", *words],
        cwd=folder,
        env=clean_environment(PYTHON=str(python)),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("version", [None, "3.9"])
def test_another_python_is_refused(checkout, version):
    """`version` is what the Python that PYTHON names prints; None: there is no such file."""
    python = write_python(checkout, version) if version else checkout / "python"
    check_error(check_refusal(setup(checkout, python)), version or "", start=f"error: PYTHON={python}")
    assert not (checkout / ".venv").exists()


def test_a_checkout_that_was_moved_is_installed_again(checkout, python, tmp_path):
    """The environment names the folder; the second time setup has nothing to do."""
    path_file = ".venv/lib/python3.12/site-packages/_ernie_m.pth"
    assert setup(checkout, python).returncode == 0
    assert (checkout / path_file).read_text() == f"{checkout}\n"
    moved = checkout.rename(tmp_path / "moved")
    assert setup(moved, moved / "python").returncode == 0
    assert (moved / path_file).read_text() == f"{moved}\n"
    process = setup(moved, moved / "python")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def installed(folder: Path) -> list[list[str]]:
    """The file of requirements and the extras of each call of pip."""
    return [
        re.findall(r"-r (\S+)", call)
        + [extra for extras in re.findall(r"-e \.\[(\S+)\]", call) for extra in extras.split(",")]
        for call in (folder / "pip.txt").read_text().splitlines()
    ]


def test_keeps_packages_of_earlier_kinds(checkout, python):
    """Each kind only adds, in any order, and is silent the second time."""
    for words in ([], ["serve"], ["test"]):
        assert setup(checkout, python, *words).returncode == 0
    everything = [
        "requirements.txt",
        "cpu",
        "search",
        "fit",
        "openvino",
        "export",
        "serve",
        "excel",
        "tensorboard",
        "ray",
        "plot",
        "test",
    ]
    assert installed(checkout) == [
        ["requirements.txt", "cpu", "search", "fit"],
        ["requirements.txt", "cpu", "search", "fit", "serve"],
        everything,
    ]
    for words in ([], ["serve"], ["export"], ["test"]):
        assert setup(checkout, python, *words).stdout == ""
    assert len(installed(checkout)) == 3
    # Another version of one package: all that was added is brought up to date.
    with open(checkout / "scripts/pins/extras.txt", "a") as file:
        file.write("# another version\n")
    assert "removing" not in setup(checkout, python).stdout
    assert installed(checkout)[3:] == [everything]


def test_an_addition_that_is_broken_off_leaves_the_environment(checkout, python):
    """One that was never whole is made again; so is one for another device, with what was added to it."""
    state = checkout / ".venv/setup-state"
    setup(checkout, python, "serve")
    whole = state.read_text()
    broken = STAND_IN.format(version="3.12").replace('echo "$*" >>pip.txt', "echo ERROR: no network; exit 1")
    (checkout / ".venv/bin/python").write_text(broken)
    assert setup(checkout, python, "ray").returncode == 2
    assert state.read_text() == whole
    state.write_text("cpu unfinished serve\n")
    shutil.copy(python, checkout / ".venv/bin/python")
    assert "removing .venv: its installation was not finished" in setup(checkout, python).stdout
    assert state.read_text() == whole
    assert "removing .venv: it is the cpu environment" in setup(checkout, python, "gpu").stdout
    assert installed(checkout)[-1] == ["requirements-gpu.txt", "search", "fit", "serve"]
    assert setup(checkout, python, "test").returncode == 0  # of the environment that is there
    assert installed(checkout)[-1][0] == "requirements-gpu.txt"


def test_reference_environments_are_separate(checkout, python):
    for peers in ("parity", "latest", "optimum", "clients"):
        assert setup(checkout, python, peers).returncode == 0
        assert (checkout / f".venv-{peers}/setup-state").is_file()
    assert installed(checkout)[::2] == [
        ["scripts/pins/parity.txt"],
        ["scripts/pins/latest.txt"],
        ["scripts/pins/optimum.txt"],
        ["scripts/pins/clients.txt"],
    ]
    assert not (checkout / ".venv").exists()


def test_an_unknown_word_is_refused(checkout, python):
    process = setup(checkout, python, "gpus")
    assert process.returncode == 2 and "'gpus'" in process.stderr


def test_a_checkout_that_cannot_be_written(checkout):
    """It ends, and does not wait for another setup."""
    user = 65534 if os.getuid() == 0 else None  # root may write everywhere, and others not look into tmp_path
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout, folder, dirs_exist_ok=True)
        os.chmod(folder, 0o555)
        process = setup(Path(folder), Path(folder) / "python", user=user, timeout=60)
        os.chmod(folder, 0o755)
    assert check_refusal(process).startswith(f"error: {folder}: ")
