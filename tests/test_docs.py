"""The documentation: links and files exist, and both READMEs show the same commands."""

import re
from pathlib import Path

import pytest

from tests.helpers.pages import commands_on, pages
from tests.launching import ROOT

LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")  # a file and an anchor in it
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# sh scripts/test.sh, python run_classifier.py, .venv/bin/ernie-m prepare
SCRIPT = re.compile(r"\b(?:sh|python3?) ((?:scripts/|benchmarks/)?[\w/-]+\.(?:sh|py))\b")


def anchors(page: Path) -> list[str]:
    """Those that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_and_scripts_exist(page):
    for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        assert "://" in link or target.exists(), link
        assert "://" in link or not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for script in SCRIPT.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / script).exists(), script


def test_the_tree_has_each_folder_once():
    """With what it holds; a file that a line names is in the folder."""
    tree = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    folders = []  # those around a line, by their indents of four blanks
    listed = []
    for line in tree.strip().splitlines():
        name, *words = line.split()
        folders[(len(line) - len(line.lstrip())) // 4 :] = [name]
        listed.append(ROOT / "".join(folders))
        assert words, f"{name}: what does it hold?"
        for file in re.findall(r"\w+\.py\b", line):
            assert (listed[-1] / file).exists(), line
    assert sorted(listed) == sorted({path.parent for path in (ROOT / "ernie_m").rglob("*.py")})


def test_page_results_are_in_their_files():
    """Each file begins with what proves it, is a table, and is on a page; a page shows no other decimals."""
    text = "".join(
        (ROOT / f"docs/{page}.md").read_text(encoding="utf-8") for page in ("results", "performance")
    )
    files = sorted((ROOT / "docs/results").iterdir())
    assert sorted(set(re.findall(r"\(results/(\w+\.tsv)\)", text))) == [path.name for path in files]
    known = set()
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        known |= set(re.findall(r"\d[\d,.]*\d", "\n".join(lines)))
        rows = [line.split("\t") for line in lines if not line.startswith("# ")]
        assert lines[0].startswith("# ") and len({len(row) for row in rows}) == 1, path.name
    assert set(re.findall(r"\d+\.\d+", text)) <= known


def test_both_readmes_show_the_same_commands():
    english = commands_on(ROOT / "README.md")
    assert "sh scripts/demo.sh --quick" in english and "sh scripts/test.sh" in english
    assert commands_on(ROOT / "README_zh.md") == english
