"""Each path and module of the project that a docstring, comment, message or page names is there.

It is there as it is read: a path from the root, from the package, or next to the file that names it.
"""

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


def test_what_the_texts_name_is_there():
    named = {}  # a file of text and what it names -> whether that is there
    for path in tracked_files():
        for text in read_prose(path):
            named |= {(path, name): path_is_there(name, path) for name in PATH.findall(text)}
            named |= {(path, name): module_is_there(name) for name in MODULE.findall(text)}
    assert len(named) > 300  # or the patterns find too little
    assert [
        f"{path.relative_to(ROOT)}: {name}" for (path, name), is_there in named.items() if not is_there
    ] == []
