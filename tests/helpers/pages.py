"""The pages of the documentation, and the command lines that they show."""

import re
from pathlib import Path

from tests.launching import ROOT

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)  # the lines of a block of commands
COMMENT = re.compile(r"(^|\s)#.*")
CONTINUED = re.compile(r"\s*\\\n\s*")  # a backslash at the end of a line


def pages() -> list[Path]:
    """All pages, with those for contributors."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def manuals() -> list[Path]:
    """The pages for users."""
    return [ROOT / "README.md", ROOT / "README_zh.md", *sorted(ROOT.glob("docs/*.md"))]


def commands_of(text: str) -> list[str]:
    """The command lines of a page, without comments. One over several lines, with backslashes, is joined."""
    blocks = CONTINUED.sub(" ", "".join(BLOCK.findall(text)))
    lines = [COMMENT.sub("", line).strip() for line in blocks.splitlines()]
    return [line for line in lines if line]


def commands_on(page: Path) -> list[str]:
    """`commands_of` the file of a page."""
    return commands_of(page.read_text(encoding="utf-8"))
