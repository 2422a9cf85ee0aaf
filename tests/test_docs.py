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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_commands_name_the_environment(page):
    lines = [line for line in commands(page) if not line.startswith(".venv/bin/python ")]
    assert [line for line in lines if re.search(r"(?<!\.venv/bin/)\b(?:python3?|pip) ", line)] == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    assert shown(LINK, index) == {page.name for page in ROOT.glob("docs/*.md")} - {index.name}


def test_the_documentation_is_short():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in pages) <= 20_000


def test_the_architecture_names_files_and_functions_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {name for name in re.findall(r"`([\w/-]+\.py)`", text) if "/" in name or (ROOT / name).exists()}
    assert len(files) > 30
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    # 1. `pretrain/corpus/units.py`, `read_units`: ...
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`, `(?:\w+\.)?(\w+)`", text, re.M)
    assert len(steps) > 25
    missing = [
        (file, name)
        for file, name in steps
        if not re.search(rf"\b(?:def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
    for walk in text.split("\n## From ")[1:]:
        assert len(re.findall(r"^\d+\. ", walk.split("\n## ")[0], re.M)) <= 12


def commands(page: Path) -> list[str]:
    """The command lines of a page, without their comments."""
    lines = "".join(BLOCK.findall(page.read_text(encoding="utf-8"))).splitlines()
    return [line.split("#")[0].rstrip() for line in lines]


def test_both_readmes_show_the_same_commands():
    english = commands(ROOT / "README.md")
    assert "sh scripts/demo.sh" in english and "sh scripts/test.sh" in english
    assert commands(ROOT / "README_zh.md") == english
