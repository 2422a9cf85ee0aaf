"""The pages of the documentation, and the command lines that they show."""

import re
from pathlib import Path
from types import CodeType

from tests.launching import ROOT

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)  # the lines of a block of commands
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(^|\s)#.*")
CONTINUED = re.compile(r"\s*\\\n\s*")  # a backslash at the end of a line


def pages() -> list[Path]:
    """All pages, with those for contributors."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def manuals() -> list[Path]:
    """The pages for users."""
    return [ROOT / "README.md", ROOT / "README_zh.md", *sorted(ROOT.glob("docs/*.md"))]


def compile_python(name: str, heading: str | None = None) -> CodeType:
    """The compiled first block of Python on a page of docs/, or below one of its headings."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2]
    return compile(PYTHON.search(text)[1], f"docs/{name}", "exec")


def find_commands(text: str) -> list[str]:
    """The command lines of a page, without comments. One over several lines, with backslashes, is joined."""
    blocks = CONTINUED.sub(" ", "".join(BLOCK.findall(text)))
    lines = [COMMENT.sub("", line).strip() for line in blocks.splitlines()]
    return [line for line in lines if line]


def commands_on(page: Path) -> list[str]:
    """`find_commands` the file of a page."""
    return find_commands(page.read_text(encoding="utf-8"))
