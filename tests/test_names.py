"""Each path and module of the project that a docstring, comment, message or page names is there.

It is there as it is read: a path from the root, from the package, or next to the file that names it.
A docstring describes arguments that exist.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_layers import PACKAGE, ROOT, tracked_files

# What is named and not there: a pattern -> why.
ELSEWHERE = {
    r"data/.*": "the data of the recipes, or of the user",
    r"(output|OUT|log|sentences|xnli-large|results|all|folder|script)/.*": "of a run, or of the user",
    r"(pretrain/objectives|utils)/\w+\.py": "the examples of docs/objectives.md; of the official code",
    r"(paddle|tests/transformers)/.*": "of Paddle and PaddleNLP",
}
PATH = re.compile(
    r"(?<![\w./<>{}%$~@:*\\-])(?:\.{1,2}/)*((?:[\w.*<>-]+/)+[\w.*<>-]+\.(?:py|sh|md|yaml))(?![\w%$\\])"
)
MODULE = re.compile(r"(?<![\w./<>@-])ernie_m(?:\.(?!py\b)\w+)+")


def read_prose(path: Path) -> Iterator[str]:
    """What a file says to people: a whole page; comments, and the docstrings of Python."""
    if path.suffix == ".md":
        yield path.read_text(encoding="utf-8")
    elif path.suffix in (".py", ".sh", ".yaml", ".toml", ".txt"):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"(?:^|\s)(#.*)", text)
        if path.suffix == ".py":
            yield from re.findall(r'"""(.+?)"""', text, re.DOTALL)


def path_is_there(name: str, location: Path) -> bool:
    """Whether a path is there for who reads it in the file `location`; <number> stands for anything."""
    pattern = re.sub(r"<\w+>", "*", name)
    folders = (ROOT, PACKAGE, location.parent)
    return any(any(folder.glob(pattern)) for folder in folders) or any(
        re.fullmatch(known, name) for known in ELSEWHERE
    )


def module_is_there(name: str) -> bool:
    """Whether a dotted name is a module or a folder, or the file of its module has the word that follows."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        location = ROOT.joinpath(*parts[:count])
        files = [file for file in (location.with_suffix(".py"), location / "__init__.py") if file.is_file()]
        if files or location.is_dir():
            words = [
                re.search(rf"\b{parts[count]}\b", file.read_text("utf-8"))
                for file in files
                if count < len(parts)
            ]
            return count == len(parts) or any(words)
    return False


def test_finds_each_path_and_module_that_prose_names():
    named = {}  # a file of text and what it names -> whether that is there
    for path in tracked_files():
        for text in read_prose(path):
            named |= {(path, name): path_is_there(name, path) for name in PATH.findall(text)}
            named |= {(path, name): module_is_there(name) for name in MODULE.findall(text)}
    assert len(named) > 300  # or the patterns find too little
    assert [
        f"{path.relative_to(ROOT)}: {name}" for (path, name), is_there in named.items() if not is_there
    ] == []


def list_arguments(node: ast.AST, classes: dict[str, ast.ClassDef]) -> set[str]:
    """The arguments of a function; of a class those of its constructor, or of the operation that it applies.

    Fields are arguments of the constructor of a dataclass.
    """
    if not isinstance(node, ast.ClassDef):
        return {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
    names = {statement.target.id for statement in node.body if isinstance(statement, ast.AnnAssign)}
    makers = [member for member in node.body if getattr(member, "name", "") in ("__init__", "forward")]
    words = [word.id for base in node.bases for word in ast.walk(base) if isinstance(word, ast.Name)]
    for part in (*makers, *(classes[word] for word in words if word in classes)):
        names |= list_arguments(part, classes)
    return names


def test_docstrings_describe_arguments_that_exist():
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    classes = {node.name: node for _, node in nodes if isinstance(node, ast.ClassDef)}
    errors = []
    for path, node in nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
            lines = re.findall(r"^ {4}(\w+(?:, \w+)*):\s", section[1] if section else "", re.MULTILINE)
            described = {name for line in lines for name in line.split(", ")}
            errors += [(f"{path}:{node.lineno}", name) for name in described - list_arguments(node, classes)]
    assert errors == []
