"""The project's structure: imports, names, light entry points, no paths of anyone's machine."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A folder imports only from itself and from these.
BELOW = {
    "utils": set(),
    "model": {"utils"},
    "reader": {"utils"},
    "training": {"utils", "model", "reader"},
    "evaluation": {"utils", "model", "reader", "training"},
    "pretrain": {"utils", "model", "reader", "training", "evaluation"},
    "finetune": {"utils", "model", "reader", "training", "evaluation"},
    "inference": {"utils", "model", "reader", "training", "evaluation", "pretrain", "finetune"},
}
ENTRY_POINTS = sorted(path.stem for path in ROOT.glob("*.py"))
OURS = {*BELOW, *ENTRY_POINTS, "install", "scripts", "benchmarks", "tests"}


def python_files(folder: str) -> list[Path]:
    """The Python files in a folder, and in those below it."""
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import; write the full name"
            yield node.lineno, node.module


def offences(path: Path, forbidden: set[str]) -> list[str]:
    """The imports of a file from forbidden folders."""
    lines = []
    for number, name in imports(path):
        top = name.split(".")[0]
        if top in forbidden:
            lines.append(f"{path.relative_to(ROOT)}:{number} imports {top}")
    return lines


def test_the_layers_are_the_folders_of_the_package():
    """install/wheel.py and ernie_m.py take the folders with an __init__.py as the project's own."""
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"} == {*BELOW}


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_what_lies_below_it(folder):
    forbidden = OURS - BELOW[folder] - {folder}
    if folder == "reader":
        forbidden = forbidden | {"paddle"}
    files = python_files(folder)
    assert files
    for path in files:
        assert offences(path, forbidden) == []


def test_the_network_does_not_know_its_checkpoints():
    """Only `ErnieMModel.from_pretrained` imports from model/checkpoint/."""
    found = []
    for path in [*ROOT.glob("model/*.py"), *python_files("model/cpu")]:
        names = [name for _, name in imports(path) if name.startswith("ernie_m.model.checkpoint")]
        found += [(path.name, name) for name in names]
    of_from_pretrained = ("ernie_m.model.checkpoint.load", "ernie_m.model.checkpoint.open")
    assert found == [("ernie_m.py", name) for name in of_from_pretrained]


def programs() -> list[Path]:
    """The files in the folders whose programs a user starts."""
    return [
        *ROOT.glob("*.py"),
        *python_files("scripts"),
        *python_files("benchmarks"),
    ]


# The quick demo shows what a user's own program does, so it imports what that imports.
USES_THE_INTERFACE = ROOT / "scripts/quick.py"


def test_nothing_imports_an_entry_point():
    for path in programs():
        allowed = {"ernie_m"} if path == USES_THE_INTERFACE else set()
        assert offences(path, {*ENTRY_POINTS, "tests"} - allowed) == []


def test_readers_and_entry_points_start_without_paddle(tmp_path):
    """A worker process imports the entry point again, and the CPU settings must come before paddle."""
    names = list(ENTRY_POINTS)
    for path in python_files("reader"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names.append(module.removesuffix(".__init__"))
    code = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {names}:
    importlib.import_module(name)
    assert "paddle" not in sys.modules, name
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# Functions that may be called to make a constant. So may a class, whose name begins with a capital.
DEFINING = {"resolve", "compile", "frozenset", "set", "tuple", "dict", "sorted", "range", "len", "values"}


def test_the_project_is_imported_in_one_form():
    """`from X import ...`: the wheel's build puts the name of the package before X (install/wheel.py)."""
    places = []
    for path in product_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            places += [f"{path}:{node.lineno}" for name in names if name.split(".")[0] in OURS]
    assert places == []


def does_work_at_import(statement: ast.stmt) -> bool:
    """Whether a statement at the top level of a file does more than define something."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return False
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        called = [ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)]
        names = {function.split(".")[-1] for function in called}
        return any(name not in DEFINING and not name[0].isupper() for name in names)
    source = ast.unparse(statement)
    if isinstance(statement, ast.Expr):
        is_docstring = isinstance(statement.value, ast.Constant)
        adds_root = source.startswith("sys.path.insert(0, ")  # so a script below scripts/ finds the project
        return not (is_docstring or adds_root)
    # A file knows by `__package__` whether it is a script or a part of the installed package.
    known_conditions = ("if __name__ == '__main__':", "if TYPE_CHECKING:", "if not __package__:")
    says_that_paddle_is_missing = "check_paddle()" in source  # ernie_m.py, to whom imports it
    return not (source.startswith(known_conditions) or says_that_paddle_is_missing)


def test_what_a_user_starts_does_nothing_when_imported():
    working = []
    for path in programs():
        text = path.read_text(encoding="utf-8")
        if "__main__" not in text:
            continue
        for statement in ast.parse(text).body:
            if does_work_at_import(statement):
                working.append(f"{path}:{statement.lineno}")
    assert working == []


# Objects whose attributes a method may assign.
OWNERS = {"self", "cls", "ctx"}
TENSOR_ATTRIBUTES = {"grad", "grad_", "stop_gradient"}
# Attributes that are the only way to set something in another library.
FOREIGN_ATTRIBUTES = {
    "options.intra_op_num_threads",
    "options.log_severity_level",  # onnxruntime.SessionOptions
    "index.nprobe",  # faiss.IndexIVF
    "tensor.data_type",  # an ONNX tensor
    "libc.malloc.restype",
    "libc.malloc.argtypes",
    "libc.free.argtypes",  # ctypes
    "logger.propagate",  # logging.Logger
    "sys.excepthook",
    "model.max_seq_length",  # sentence_transformers.SentenceTransformer
}


def product_files() -> list[Path]:
    """All files but the tests."""
    files = programs()
    for folder in BELOW:
        files += python_files(folder)
    return files


def assigned_attributes(tree: ast.AST) -> Iterator[str]:
    """The attributes that a file assigns on other objects than those of OWNERS, such as "model.size"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = ast.unparse(node)
            allowed = ast.unparse(node.value) in OWNERS or node.attr in TENSOR_ATTRIBUTES
            if not allowed and name not in FOREIGN_ATTRIBUTES:
                yield name


def test_attributes_are_assigned_on_own_objects():
    for path in product_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert list(assigned_attributes(tree)) == [], path


def test_public_class_names_are_unique():
    files = defaultdict(list)
    for path in product_files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files[node.name].append(str(path.relative_to(ROOT)))
    names_used_twice = {name for name, places in files.items() if len(places) > 1}
    assert names_used_twice == set(), files


def tracked_files() -> list[Path]:
    """The files under version control that are there."""
    command = ["git", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


FOREIGN = re.compile(
    r"(?<![\w.~])/(?:root|home|Users|work|farm|mnt|scratch)/\w"  # a place on somebody's machine
    r"|\bshared/(?:data|reference)\b"  # real data comes through DATA alone
    r"|\b(?:TODO|FIXME|XXX)\b"
)
# The one place that may know where the data folder stands.
KNOWS_THE_DATA = ".ci/run"


def test_tracked_files_speak_of_this_project_only():
    lines = []
    for path in tracked_files():
        name = str(path.relative_to(ROOT))
        if name == KNOWS_THE_DATA or path == Path(__file__).resolve():  # this file has the patterns
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN.search(line):
                lines.append(f"{name}:{number}: {line.strip()}")
    assert lines == []


def test_tracked_files_are_small():
    largest = 2 << 20  # bytes
    assert [str(path) for path in tracked_files() if path.stat().st_size > largest] == []
