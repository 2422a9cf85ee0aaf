"""The project's structure: imports, light entry points, no paths of anyone's machine."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGE = ROOT / "ernie_m"
# A subpackage imports only from itself and from these.
BELOW = {
    "utils": set(),
    "reader": {"utils"},
    "model": {"utils", "reader"},
    "training": {"utils", "model", "reader"},
    "vectors": {"utils", "model", "reader", "training"},
    "pretrain": {"utils", "reader", "model", "training", "vectors"},
    "finetune": {"utils", "reader", "model", "training", "vectors"},
    "inference": {"utils", "reader", "model", "training", "vectors", "pretrain", "finetune"},
    "fit": {"utils", "reader", "model", "training", "vectors", "finetune", "inference"},
}
# What a user starts. It may import from all subpackages, and nothing imports it.
STARTED = ("commands", "data")


def python_files(folder: str) -> list[Path]:
    """The Python files in a folder of the package, and in those below it."""
    return sorted((PACKAGE / folder).rglob("*.py"))


@cache
def imports(path: Path) -> list[tuple[int, list[str]]]:
    """Line and dotted names of every import in a file, including those inside functions.

    Of several names, the first that is a file counts.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, [alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import; write the full name"
            found += [(node.lineno, [f"{node.module}.{alias.name}", node.module]) for alias in node.names]
    return found


# The official commands stand at the top, and four links by which people know the official layout.
OFFICIAL_PROGRAMS = (
    "encode_vector",
    "launch",
    "run_classifier",
    "run_mrc",
    "run_pretrain",
    "run_retrieval",
    "run_sequence_labeling",
)
SHELL = '''"""The official name of `ernie-m {0}`."""

from ernie_m.utils.first_import import run

from ernie_m.commands.{0} import main

if __name__ == "__main__":
    run(main)
'''
LINKS = ("finetune", "model", "pretrain", "reader")


def test_has_only_the_official_programs_at_the_top():
    """The commands at the top all have the same text."""
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(OFFICIAL_PROGRAMS)
    for name in OFFICIAL_PROGRAMS:
        assert (ROOT / f"{name}.py").read_text(encoding="utf-8") == SHELL.format(name)
    for name in LINKS:
        assert (ROOT / name).readlink() == Path("ernie_m") / name


@cache
def files_imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, also inside functions and for type checkers."""
    found = set()
    for _, names in imports(path):
        locations = [ROOT / name.replace(".", "/") for name in names if name.startswith("ernie_m")]
        files = [
            file for location in locations for file in (location.with_suffix(".py"), location / "__init__.py")
        ]
        found |= set([file for file in files if file.is_file()][:1])
    return found - {PACKAGE / "__init__.py"}


def test_the_layers():
    """Imports go down to other subpackages, without circles, also inside functions and for type checkers.

    A command may use what prepares its data: `train` and `download_data_sets` do. Readers do without Paddle.
    """
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*BELOW, *STARTED}
    allowed = {
        **{subpackage: {subpackage, *subpackages} for subpackage, subpackages in BELOW.items()},
        **{location: {*BELOW, "data"} for location in (*STARTED, "api.py")},
    }
    # Who imports the package by one of these names has a second copy, or what is not part of it.
    foreign = {"ernie_m", "scripts", "tests", *OFFICIAL_PROGRAMS, *BELOW, *STARTED}
    graph = {path: files_imported(path) for path in PACKAGE.rglob("*.py")}
    # Named in a string, because its folder may be missing.
    graph[PACKAGE / "model/kernel_selection.py"] |= {PACKAGE / "model/cpu/kernels.py"}
    errors = []
    for path, imported in graph.items():
        subpackage = path.relative_to(PACKAGE).parts[0]
        if subpackage not in allowed:
            continue
        subpackages = {file: file.relative_to(PACKAGE).parts[0] for file in imported}
        errors += [(path, file) for file in imported if subpackages[file] not in allowed[subpackage]]
        for number, (*_, name) in imports(path):
            top = name.split(".")[0]
            is_package = top == "ernie_m" and name != "ernie_m"
            if (top in foreign and not is_package) or (top == "paddle" and subpackage == "reader"):
                errors.append((f"{path}:{number}", name))
    assert errors == []
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files of a circle


def test_one_file_chooses_between_paddle_and_the_kernels_of_a_cpu():
    """By the device. The kernels themselves import each other."""
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "model/cpu"]
    for text in ("ernie_m.model.cpu", 'startswith("gpu")'):
        found = [path.name for path in files if text in path.read_text(encoding="utf-8")]
        assert found == ["kernel_selection.py"], text


def test_readers_and_commands_start_without_paddle(tmp_path):
    """The CPU settings must come before paddle, and the reader process does without it."""
    files = [path for subpackage in ("reader", *STARTED) for path in python_files(subpackage)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {[*OFFICIAL_PROGRAMS, "ernie_m", "ernie_m.api", "ernie_m.__main__", *names]}:
    importlib.import_module(name.removesuffix(".__init__"))
    assert "paddle" not in sys.modules, name
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr, [*tmp_path.iterdir()]) == (0, "", "", [])


def tracked_files() -> list[Path]:
    """The files under version control that are there."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for path in map(ROOT.joinpath, listing.stdout.split("\0")) if path.is_file()]


# In Perl's syntax, as git takes it.
FOREIGN = (
    r"(?<![\w.~])/(?:root|home|Users|work|farm|mnt|scratch)/\w"  # a place on somebody's machine
    r"|\bshared/(?:data|reference)\b"  # real data comes through DATA alone
    r"|\b(?:TODO|FIXME|XXX)\b"
)


def test_tracked_files_mention_only_this_project():
    """But for this file, which has the patterns, and the one that may know where the data folder stands."""
    tracked_files()  # skips outside a git checkout
    found = subprocess.run(
        ["git", "grep", "-nIP", FOREIGN, "--", ":/", f":!tests/{Path(__file__).name}", ":!.ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")


# Whole suites, each for an environment or a device of its own.
SUITES = {"clients", "gpu", "latest", "parity", "real"}
# Of no module: test file -> what it tests.
OF_ALL = {
    "fuzz/test_fuzz.py": "every reader, on damaged files",
    "test_docs.py": "the links, the tree and the tour of the documentation",
    "test_layers.py": "the structure of the package and of the tests",
    "test_mistakes.py": "mistakes in any command, by mistakes.tsv",
    "test_names.py": "the paths and modules that any text names",
    "test_package.py": "the wheel, and the links at the top",
    "test_types.py": "all types, by mypy",
}


def test_a_test_file_has_the_folder_and_name_of_what_it_tests():
    """Of ernie_m/model/ernie.py: tests/model/test_ernie.py, and a part of many, test_ernie_forward.py.

    Of a folder of the package likewise; tests/scripts and tests/examples go with scripts and examples.
    """
    tests = ROOT / "tests"
    names = {path.relative_to(tests) for path in tests.rglob("test_*.py")}
    without_module = set()
    for name in names:
        folder = (ROOT if name.parts[0] in ("scripts", "examples") else PACKAGE) / name.parent
        files = {path.stem for path in folder.glob("*")}
        words = name.stem.removeprefix("test_").split("_")
        if name.parts[0] not in SUITES and files.isdisjoint(accumulate(words, "{}_{}".format)):
            without_module.add(str(name))
    assert without_module == set(OF_ALL)
    assert len(OF_ALL) <= 8
