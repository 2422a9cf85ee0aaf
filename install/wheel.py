"""The build hook of the wheel: the folders and commands of the checkout as the package `ernie_m`.

In a checkout `model/` is imported as `model`, and `ernie_m.py` as `ernie_m`. In the wheel they are
`ernie_m.model` and `ernie_m` itself, so they clash with no `utils.py` of the user. The files are the same but
for their imports (`from model.config import ...` is `from ernie_m.model.config import ...`) and for the
commands in their texts (`ernie-m predict` is `ernie-m predict`).
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "ernie_m"
NOT_IN_PACKAGE = {"benchmarks"}  # folders with an __init__.py that the package does not have
# Patterns of further files that the package has, because they are used without a checkout.
FILES = (
    "*.py",
    "configs/*/*.json",
    "configs/corpus/*.yaml",
    "configs/pretrain/*.yaml",
    "scripts/launch.sh",
    "ernie_m/commands/train.py",
    "scripts/data/*.py",
    "scripts/small/*.sh",
    "scripts/base/*.sh",
    "scripts/large/*.sh",
)
LEFT_OUT = ("ablation.sh",)
# What a text of a checkout says -> what the package says, in this order.
COMMANDS = {
    r"sh scripts/setup\.sh (export|serve|ray)": r"pip install 'ernie-m[\1]'",
    r"sh scripts/(small|base|large)/(\w+)\.sh": r"ernie-m recipe \1/\2",
    r"sh scripts/(?:data/)?(get_data|get_weights|train_vocab)\.sh": r"ernie-m \1",
    r"(?:\.venv/bin/)?python -m (?:pretrain|finetune)\.(\w+)": r"ernie-m \1",
    r"(?:\.venv/bin/)?python (?:scripts/data/)?(\w+)\.py": r"ernie-m \1",
    r"usage: \{program\.name\}": "usage: ernie-m {program.stem}",
}


class PackageHook(BuildHookInterface):
    """Makes the package in a temporary folder, from which hatchling makes the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version == "editable":
            raise SystemExit(
                "pip install -e does not work here, because the package has other imports than the checkout; "
                "sh scripts/setup.sh makes a .venv in which `import ernie_m` takes the files of the checkout"
            )
        self.temporary = tempfile.TemporaryDirectory()
        package = Path(self.temporary.name) / PACKAGE
        make_package(Path(self.root), package)
        build_data["force_include"][str(package)] = PACKAGE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.target_name == "wheel":
            self.temporary.cleanup()


def make_package(root: Path, package: Path) -> None:
    """Copy what the package has of `root`, with the package's imports and commands."""
    folders = {path.parent.name for path in root.glob("*/__init__.py")} - NOT_IN_PACKAGE
    for folder in folders:
        shutil.copytree(root / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in FILES:
        for path in root.glob(pattern):
            if path.name not in LEFT_OUT:
                target = package / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    (package / f"{PACKAGE}.py").rename(package / "__init__.py")
    shutil.copy(root / "install" / "command.py", package / "__main__.py")

    programs = [path.stem for path in package.glob("*.py")]
    own_names = "|".join([*folders, "scripts", *programs])
    own_import = re.compile(rf"^(\s*)from ({own_names})(?=[. ])", re.MULTILINE)
    for path in package.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = own_import.sub(rf"\1from {PACKAGE}.\2", text)
        for command, command_of_package in COMMANDS.items():
            text = re.sub(command, command_of_package, text)
        path.write_text(text, encoding="utf-8")
