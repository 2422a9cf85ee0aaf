"""The website: its pages are in the navigation, and the reference is what the code says."""

import re
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from scripts.site import make_pages
from tests.launching import ROOT

MADE = re.compile(r"(docs|reference)/.*\.md")
PAGE = re.compile(r"[\w./-]+\.md\b")
KINDS = ("Lessons", "Guides", "Reference", "Background")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder of all pages."""
    folder = tmp_path_factory.mktemp("pages")
    # A process of its own, as `format_help` is replaced in it.
    subprocess.run([sys.executable, "scripts/site/make_pages.py", folder], cwd=ROOT, check=True)
    return folder


def test_navigation_has_each_page_once(pages):
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = PAGE.findall(navigation)
    assert all((pages / name).exists() for name in named), named
    made = [str(path.relative_to(pages)) for path in pages.rglob("*.md") if "." not in path.stem]
    assert sorted(name for name in named if MADE.fullmatch(name)) == sorted(
        name for name in made if MADE.fullmatch(name) and name != "docs/results/files.md"
    )


def test_list_of_kinds_has_the_pages_of_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for kind in KINDS:
        section = re.search(rf"^  - {kind}:\n((?:   .*\n)+)", navigation, re.MULTILINE)[1]
        row = re.search(rf"^\| {kind} \|.*", listed, re.MULTILINE)[0]
        assert re.findall(r"docs/(\w+\.md)", section) == re.findall(r"\]\((\w+\.md)\)", row), kind


def test_names_of_the_python_reference_exist():
    for _title, _sentence, names in make_pages.PYTHON.values():
        for name in names:
            assert resolve_name(name)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("reference/commands/run_pretrain", "\n## `--data.corpus` {#data.corpus}\n\n*string; required*\n"),
        ("reference/commands/fit", "\n## `TABLE` {#table}\n\n*string; required*\n"),
        ("reference/commands/build_corpus", "existing corpus in [`--output`](#output)."),
        ("reference/commands/download_text", "# download text\n"),
        ("reference/files", "| `[MASK]` | 250,001 | `<mask>` |\n"),
        ("docs/results/pairs.tsv", " |\n| --- | --- |"),
        ("docs/results/files", "- [pairs.tsv](pairs.tsv.md)\n"),
        ("README_zh", '<div lang="zh-CN" markdown>'),
    ],
)
def test_pages_have_what_the_files_say(pages, page, expected):
    assert expected in (pages / f"{page}.md").read_text(encoding="utf-8")
