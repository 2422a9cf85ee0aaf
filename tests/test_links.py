"""The links at the top of a clone: what is imported by them is the package's module, not a second copy."""

import pytest

from tests.launching import ROOT, run_script
from tests.test_layers import LINKS, python_files

FILES = [
    path.relative_to(ROOT / "ernie_m").with_suffix("")
    for subpackage in LINKS
    for path in python_files(subpackage)
]
NAMES = [".".join(path.parts).removesuffix(".__init__") for path in FILES if path.name != "__main__"]
# What a program does -> the program, which ends with an error if it is not so.
PROGRAMS = {
    "every module": f"""
from importlib import import_module
from model.ernie import ErnieMModel
copies = [name for name in {NAMES} if import_module(name) is not import_module("ernie_m." + name)]
assert not copies and ErnieMModel.__module__ == "ernie_m.model.ernie", copies
""",
    "the link first, then it is loaded again, and a module that is not there": """
from importlib import reload
import reader.corpus, ernie_m.reader.corpus
assert reader.corpus is ernie_m.reader.corpus
assert reload(reader.corpus).__name__ == "ernie_m.reader.corpus"
try:
    import reader.nothing
except ModuleNotFoundError as error:
    assert error.name == "reader.nothing"
else:
    raise AssertionError("found")
""",
    "the package first, and what was pickled by either name": """
import pickle
import ernie_m.model.config as ours, model.config
from model.config import ErnieMConfig
assert model.config is ours
packed = pickle.dumps(ErnieMConfig, protocol=0)
by_link = packed.replace(b"cernie_m.", b"c")
assert packed != by_link and {pickle.loads(packed), pickle.loads(by_link)} == {ours.ErnieMConfig}
""",
    "a folder of the user's with the name of a link": """
from pathlib import Path
import model.config
Path("reader").mkdir()
for name in ("__init__", "mine"):
    Path(f"reader/{name}.py").write_text("USERS = True")
import reader.mine
assert reader.mine.USERS and model.config.__name__ == "ernie_m.model.config"
""",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_module_is_the_packages(tmp_path, what):
    process = run_script(["-c", PROGRAMS[what]], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert process.returncode == 0, process.stderr
