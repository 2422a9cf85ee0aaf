"""The documentation: links and files exist, and the tree of the package is complete."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.pages import compile_python, pages
from tests.launching import ROOT

RESULTS = sorted((ROOT / "docs" / "results").glob("*.tsv"))
COMMIT = re.compile(r"\b(?:[Cc]ommit|successor|since) `?([0-9a-f]{7,40})\b")
LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")  # a file and an anchor in it
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# Items of a list: a line with "+" or, below a line of a paragraph, a dash, an asterisk or a number.
ITEM = re.compile(r"^ *\+ |^(?![-*+|#>]|\d+\. )\S.*[^:\n]\n(?:[-*]|\d+[.)]) ", re.MULTILINE)
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


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_line_of_a_paragraph_becomes_an_item_of_a_list(page):
    item = ITEM.search(CODE.sub("", page.read_text(encoding="utf-8")))
    assert not item, item[0]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_file_of_results_says_which_commit_and_machine(path):
    head = "\n".join(re.findall("^#.*", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert COMMIT.search(head) or "Commit: not recorded" in head
    assert re.search("Xeon|AMD|[Mm]achine|one core", head)


def test_commits_that_docs_name_are_in_the_history():
    git = ["git", "-C", str(ROOT)]
    is_shallow = subprocess.run(
        [*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True
    )
    if is_shallow.stdout.strip() != "false":
        pytest.skip("no history (git fetch --unshallow)")
    texts = [path.read_text(encoding="utf-8") for path in (*pages(), *RESULTS)]
    commits = sorted({commit for text in texts for commit in COMMIT.findall(text)})
    assert len(commits) > 5
    for commit in commits:
        assert subprocess.run([*git, "merge-base", "--is-ancestor", commit, "HEAD"]).returncode == 0, commit


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


def test_the_tour_names_what_the_files_define():
    """The first cell of a row of its tables: a file, then functions, classes and methods of that file."""
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    stops = [re.findall("`(.+?)`", row) for row in re.findall(r"^\| (`.+?) \|", tour, re.MULTILINE)]
    assert len(stops) == 23
    for file, *names in stops:
        defined = set()
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
            name = getattr(node, "name", "")
            methods = (
                [getattr(part, "name", "") for part in node.body] if isinstance(node, ast.ClassDef) else []
            )
            defined |= {name, *(f"{name}.{method}" for method in methods)}
        assert set(names) <= defined, file


def test_the_tour_prints_what_it_shows(capsys):
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    exec(compile_python("tour.md"), {})
    assert capsys.readouterr().out == re.search(r"^```text\n(.*?)^```", tour, re.DOTALL | re.MULTILINE)[1]
