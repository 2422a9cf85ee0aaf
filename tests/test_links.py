"""The links at the top of a clone: what is imported by them is the package's module, not a second copy."""

import subprocess
import sys

import pytest

from tests.launching import ROOT, clean_environment
from tests.test_layers import LINKS, python_files


def printed(program: str, folder=ROOT) -> list[str]:
    """The lines that a Python program prints, which starts in a folder."""
    command = [sys.executable, "-c", program]
    environment = clean_environment(PYTHONPATH=f"{folder}:{ROOT}")
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_each_module_is_the_packages():
    names = [
        ".".join(path.relative_to(ROOT / "ernie_m").with_suffix("").parts)
        for room in LINKS
        for path in python_files(room)
    ]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    assert len(names) > 100
    program = f"""
from importlib import import_module
from model.encoder import ErnieMModel
copies = [name for name in {names} if import_module(name) is not import_module("ernie_m." + name)]
print(copies, ErnieMModel.__module__)
"""
    assert printed(program) == ["[] ernie_m.model.encoder"]


@pytest.mark.parametrize(
    "names", [("reader.corpus", "ernie_m.reader.corpus"), ("ernie_m.reader.corpus", "reader.corpus")]
)
def test_either_may_be_imported_first(names):
    program = f"""
from importlib import import_module, reload
first, second = map(import_module, {names})
import reader
print(first is second, reader.corpus is first, reload(reader.corpus).__name__)
"""
    assert printed(program) == ["True True ernie_m.reader.corpus"]


def test_what_was_pickled_by_either_name_is_read():
    program = """
import pickle
from model.config import ErnieMConfig
import ernie_m.model.config as ours
packed = pickle.dumps(ErnieMConfig, protocol=0)
print(b"ernie_m.model.config" in packed, pickle.loads(packed) is ours.ErnieMConfig)
print(pickle.loads(packed.replace(b"cernie_m.", b"c")) is ours.ErnieMConfig)
"""
    assert printed(program) == ["True True", "True"]


def test_a_users_own_folder_stays_his(tmp_path):
    """It has the name of a link, and another link is used beside it."""
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "__init__.py").touch()
    (tmp_path / "reader" / "corpus.py").write_text("mine = True")
    program = "import model.config, reader.corpus; print(reader.corpus.mine, model.config.__name__)"
    assert printed(program, tmp_path) == ["True ernie_m.model.config"]


def test_what_is_not_there():
    program = """
import model
try:
    import model.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    assert printed(program) == ["No module named 'model.nothing'"]
