"""The documentation points at things that exist, and both READMEs show the same commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# sh scripts/test.sh, python run_classifier.py, .venv/bin/python scripts/data/prepare_xnli.py
COMMAND = re.compile(r"\b(?:sh|python3?) ((?:scripts/|benchmarks/|experiments/)?[\w/-]+\.(?:sh|py))\b")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def shown(pattern: re.Pattern, page: Path) -> set[str]:
    return set(pattern.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page):
    links = {link for link in shown(LINK, page) if "://" not in link}
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []
    assert [script for script in sorted(shown(COMMAND, page)) if not (ROOT / script).exists()] == []


def commands(page: Path) -> list[str]:
    """The command lines of a page, without their comments."""
    lines = "".join(BLOCK.findall(page.read_text(encoding="utf-8"))).splitlines()
    return [line.split("#")[0].rstrip() for line in lines]


def test_both_readmes_show_the_same_commands():
    english = commands(ROOT / "README.md")
    assert "sh scripts/demo.sh" in english and "sh scripts/test.sh" in english
    assert commands(ROOT / "README_zh.md") == english
