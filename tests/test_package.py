"""The wheel: `import ernie_m` and `ernie-m`, from a folder with files that have the names of our folders."""

import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ernie_m.commands import run_classifier
from ernie_m.utils import paddle_settings
from tests import command_lines, toys
from tests.helpers.files import write_files
from tests.helpers.pages import PYTHON
from tests.launching import (
    ROOT,
    call_main,
    check_refusal,
    check_success,
    clean_environment,
    error_of,
    run_script,
)
from tests.test_layers import BELOW, LINKS, python_files

# The names of the package's folders, which a user's own files may have.
OWN_NAMES = tuple(BELOW)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What a program of the user's says, to show that none of his files is imported.
USERS_FILE = "raise RuntimeError('a file of the user was imported')"


def versions_in(*names: str) -> dict[str, str]:
    """Package -> its version in these requirements files."""
    lines = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    return dict(re.findall(r"^([\w-]+)==(\S+)", lines, re.MULTILINE))


PINNED = versions_in("requirements.txt", "scripts/pins/common.txt", "scripts/pins/extras.txt")


def built(target: str, source: Path, folder: Path) -> Path:
    """Build the wheel or the sdist of `source` into a folder, with the hatchling that is installed."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def packages(wheel, module_folder):
    """A folder of packages, in which the wheel is installed."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(module_folder)
    return module_folder


@pytest.fixture
def users_folder(tmp_path):
    """A folder with a utils.py, a training.py and a model/ of the user's own."""
    return write_files(tmp_path, dict.fromkeys(("utils.py", "training.py", "model/__init__.py"), USERS_FILE))


@pytest.fixture
def run_in(users_folder, packages):
    """run_in(source) -> what a Python program prints that runs in the user's folder with the package.

    If it is to end with another `code` than 0: what it prints on stderr.
    """

    def call(source: str, code: int = 0) -> str:
        completed = subprocess.run(
            [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(packages)!r})\n{source}"],
            cwd=users_folder,
            env=clean_environment(PYTHONPATH=str(packages)),  # for processes that it starts
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == code, completed.stderr
        return completed.stderr if code else completed.stdout

    return call


def test_a_users_model_is_not_taken_for_a_link(run_in, users_folder):
    """Nothing looks for links, and the user's folder of that name is imported."""
    source = f"""
for name in {OWN_NAMES}:
    __import__("ernie_m." + name)
print([finder for finder in sys.meta_path if finder.__module__.startswith("ernie_m")])
sys.path.insert(0, {str(users_folder)!r})
try:
    import model.ernie
except RuntimeError as error:
    print(error)
"""
    assert run_in(source).splitlines() == ["[]", "a file of the user was imported"]


def test_it_has_what_is_used_without_a_checkout(packages):
    """Each file of ernie_m/ that is under version control, the configurations and the recipes."""
    listing = subprocess.run(
        ["git", "ls-files", "ernie_m"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [path for path in (packages / "ernie_m").rglob("*.*") if path.suffix != ".pyc"]
    files = {str(path.relative_to(packages)) for path in paths}
    copies = {path for path in files if path.startswith(("ernie_m/configs/", "ernie_m/scripts/"))}
    assert files - copies == {name for name in listing.stdout.split() if (ROOT / name).is_file()}
    assert {path.removeprefix("ernie_m/").split("/")[1] for path in copies if "/configs/" in path} >= {
        "base",
        "corpus",
    }
    assert not any(Path(path).suffix == ".py" for path in copies)
    (info,) = packages.glob("*.dist-info")
    assert {path.name for path in packages.iterdir()} == {"ernie_m", info.name}


def test_the_sdist_makes_the_same_wheel(wheel, tmp_path):
    """Byte for byte. The links of a checkout (model -> ernie_m/model) are not in the sdist."""
    with tarfile.open(built("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.name.startswith("ernie_m-"))
    assert (source / "ernie_m/model/ernie.py").is_file() and not (source / "model").exists()
    assert built("wheel", source, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_package_launcher_equals_a_checkout(run_in, users_folder):
    """It starts a command of the package."""
    (users_folder / "toy").mkdir()
    toys.make_classification(users_folder / "toy")
    flags = command_lines.classification(users_folder / "toy", users_folder / "package", max_steps=4)
    words = ["launch", "--nproc_per_node", "1", "run_classifier.py", *flags]
    run_in(f"from ernie_m.__main__ import main; sys.argv = ['ernie-m', *{words}]; main()")
    of_checkout = command_lines.classification(users_folder / "toy", users_folder / "checkout", max_steps=4)
    call_main(run_classifier, of_checkout)
    weights = "best/model.safetensors"
    assert (users_folder / "package" / weights).read_bytes() == (
        users_folder / "checkout" / weights
    ).read_bytes()


def test_recipe_uses_the_current_folder(run_in, users_folder):
    """And its own configuration. A value may have a space in it."""
    words = ["recipe", "small/pretrain", "--data.corpus", "a corpus"]
    source = f"from ernie_m.__main__ import main; sys.argv = ['ernie-m', *{words}]; main()"
    line = run_in(source, code=2).splitlines()[-1]
    assert line.startswith("error: a corpus: ") and "ernie-m build_corpus" in line
    assert (users_folder / "log" / "pretrain-small" / "job.log.0").is_file()


def test_package_has_every_command_and_recipe(run_in):
    """Each command prints its help, which begins with the words that start it."""
    source = """
import contextlib, io
from ernie_m.__main__ import ALL_COMMANDS, main, format_recipe_usage, list_recipes
for name in ALL_COMMANDS:
    sys.argv = ["ernie-m", name, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main()
    print(name, text.getvalue().startswith(f"usage: ernie-m {name} "), "paddle" in sys.modules)
print(all(name in format_recipe_usage() for name in list_recipes()))
print(*list_recipes())
"""
    *lines, all_shown, names = run_in(source).splitlines()
    assert (all_shown, {line.partition(" ")[2] for line in lines}) == ("True", {"True False"})
    shipped = {f"{path.parent.name}/{path.stem}" for path in ROOT.glob("scripts/*/*.sh")}
    assert {*names.split()} == {name for name in shipped if name.split("/")[0] != "data"}


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (None, "not installed"),
        (["paddlepaddle-3.3.1", "paddlepaddle_gpu-3.3.1"], "paddlepaddle and paddlepaddle-gpu"),
        (["paddlepaddle-3.4.0"], "paddlepaddle 3.4.0"),
        ([], "not installed"),
    ],
)
def test_a_paddle_that_does_not_go_with_it(tmp_path, monkeypatch, installed, message):
    """`installed` are packages. None: there is nothing; []: a folder named paddle that is not a package."""
    if installed is not None:
        (tmp_path / "paddle").mkdir()
    if installed:
        (tmp_path / "paddle" / "__init__.py").touch()
    for name in installed or []:
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.delitem(sys.modules, "paddle")  # or it is found there
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert message in error_of(paddle_settings.check_paddle)


def test_a_command_without_paddle(users_folder, packages):
    """`python -m ernie_m` says it in one line."""
    (users_folder / "paddle.py").touch()
    completed = run_script(
        ["-m", "ernie_m", "run_pretrain", "--data.corpus", "x"], users_folder, PYTHONPATH=str(packages)
    )
    assert check_refusal(completed).startswith("error: Paddle is not installed")


def test_an_editable_installation_is_the_checkout(tmp_path):
    """`pip install -e`: an edit is seen, and nothing is copied but for the configurations and the recipes."""
    line = ["pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target"]
    subprocess.run(
        [sys.executable, "-m", *line, str(tmp_path), "-e", str(ROOT)], check=True, capture_output=True
    )
    assert (tmp_path / "_ernie_m.pth").read_text().split() == [str(ROOT)]
    assert not list(tmp_path.glob("ernie_m/**/*.py"))


def test_package_dependencies_match_a_checkout():
    """The versions that the tests run with are among its own; the next ones of numpy and Paddle are not."""
    extras = PROJECT["optional-dependencies"]
    required = map(Requirement, [*PROJECT["dependencies"], *chain(*extras.values())])
    ranges = {requirement.name: requirement.specifier for requirement in required}
    for name, versions in ranges.items():
        assert versions.contains(PINNED[name]), name
    assert not ranges["numpy"].contains("2.4.0") and not ranges["paddlepaddle"].contains("3.4.0")
    assert {*versions_in("scripts/pins/extras.txt")} == {
        Requirement(line).name
        for extra, lines in extras.items()
        if extra not in ("cpu", "search", "fit")
        for line in lines
    }


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
    check_success(run_script(["-c", PROGRAMS[what]], tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}"))


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
        [python, "-I", "-c", shown], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True
    )
    # No name but ernie_m.
    assert check_success(completed).stdout.startswith(f"{packages}/ernie_m/__init__.py set() ")
