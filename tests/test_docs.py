"""The documentation: links, files, functions and pictures exist, and both READMEs show the same commands."""

import re
from pathlib import Path

import pytest

import ernie_m
from ernie_m.__main__ import PROGRAMS
from tests.helpers.pages import commands_on, manuals, pages
from tests.launching import ROOT
from tests.test_border import CORE
from tests.test_names import missing

PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# sh scripts/test.sh, python run_classifier.py, .venv/bin/ernie-m prepare
SCRIPT = re.compile(r"\b(?:sh|python3?) ((?:scripts/|benchmarks/)?[\w/-]+\.(?:sh|py))\b")
BARE_PYTHON = re.compile(r"(?<!\.venv/bin/)\b(?:python3?|pip) ")
# 1. `ernie_m/pretrain/build_corpus/text_units.py`, `read_units`: ...
STEP = re.compile(r"^\d+\. `([\w/]+\.py)`, `(?:\w+\.)?(\w+)`", re.MULTILINE)


def matches(pattern: re.Pattern, page: Path) -> list[str]:
    """The texts that the group of a pattern matches on a page, each once."""
    return sorted(set(pattern.findall(page.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_and_scripts_exist(page):
    for link in matches(LINK, page):
        assert "://" in link or (page.parent / link).exists(), link
    for script in matches(SCRIPT, page):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_python_commands_name_the_environment(page):
    for line in commands_on(page):
        in_own_environment = line.startswith("pip install ")  # of the user, who has no clone
        assert line.startswith(".venv/bin/python ") or in_own_environment or not BARE_PYTHON.search(line)


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    pages_in_folder = {page.name for page in ROOT.glob("docs/*.md")}
    assert {index.name, *matches(LINK, index)} == pages_in_folder


def test_every_picture_is_on_a_page():
    pictures = set()
    for page in pages():
        pictures.update((page.parent / link).resolve() for link in matches(PICTURE, page))
    assert pictures == set(ROOT.glob("docs/images/*"))
    assert all(path.stat().st_size < 200_000 for path in pictures)


def test_the_architecture_names_files_and_functions_that_exist():
    """A step of a walk names a file and a function or class in it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {name for name in re.findall(r"`([\w/-]+\.py)`", text) if "/" in name or (ROOT / name).exists()}
    assert len(files) > 30  # or the pattern finds too little
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    steps = STEP.findall(text)
    assert len(steps) > 25  # likewise
    for file, name in steps:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"\b(?:def|class) {name}\b", code), name


def test_the_architecture_begins_with_the_core():
    """Its block names the files of tests/test_border.py: in folders, and each with what it is."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set()
    for part in re.split(r"^ernie_m/", text.partition("## The core")[2].split("```")[1], flags=re.MULTILINE)[
        1:
    ]:
        room, *lines = part.splitlines()
        folder = ""
        for line in lines:
            first = re.match(r"    (\S*)", line)[1]
            folder = first if first.endswith("/") else folder if not first else ""
            names = [first] if first.endswith(".py") else re.findall(r"\w+\.py", line)
            named |= {f"{room}{folder}{name}".removesuffix(".py") for name in names}
    assert named == {name for name in CORE if not name.endswith("__init__")}


def test_the_walks_are_short():
    """A walk has at most 12 steps, and a reader opens few files: those that are named outside of brackets."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = dict(walk.split("\n", 1) for walk in text.split("\n## From ")[1:])
    most_files = {  # the first two are one way
        "a text file to a corpus": 4,
        "a pair of sentences to an optimizer step": 16,
        "an XNLI row to the report": 15,
        "a weights folder to a model": 7,
        "a request to the server to its answer": 8,
        "a query to its hits": 9,  # and three of the walk before it
    }
    assert walks.keys() == most_files.keys()
    for name, most in most_files.items():
        walk = walks[name].split("\n## ")[0]
        assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 12
        files = set(re.findall(r"`([\w/-]+\.(?:py|sh))`", re.sub(r"\([^()]*\)", "", walk)))
        assert 3 <= len(files) <= most, (name, sorted(files))


def test_a_page_is_short():
    """The README has at most 1,000 words, a page 2,500, and all for users with the changelog 27,000."""
    words = {page: len(page.read_text(encoding="utf-8").split()) for page in pages()}
    assert words[ROOT / "README.md"] <= 1000
    assert {page.name: number for page, number in words.items() if number > 2500} == {}
    assert sum(words[page] for page in [*manuals(), ROOT / "CHANGELOG.md"]) <= 27_000


def test_both_readmes_show_the_same_commands():
    english = commands_on(ROOT / "README.md")
    assert "sh scripts/demo.sh --quick" in english and "sh scripts/test.sh" in english
    assert commands_on(ROOT / "README_zh.md") == english


def test_what_has_another_name_now():
    """The changelog has a table, and its new names are there."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^  (\| `.*\|)$", text, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        now = row.split(" | ")[1]
        assert missing(now) == [], row
        programs = re.findall(r"`(?:ernie-m )?(\w+)`", now) if "`ernie-m " in now else []
        assert {*programs} <= {*PROGRAMS}, row


def test_own_labels_and_own_pairs_take_few_flags():
    """At most three; and the READMEs show the way from a table to labels, and from pairs to a model."""
    commands = [line for page in pages() for line in commands_on(page)]
    own = [line for line in commands if re.search(r"ernie-m (fit|label|train) ", line)]
    assert {re.search(r"ernie-m (\w+)", line)[1] for line in own} == {"fit", "label", "train"}
    assert max(len(re.findall(r" --\w", line)) for line in own) <= 3


def test_the_version_has_its_changes():
    """In the form of Keep a Changelog. The version between two releases is that of the next one."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", section) for section in sections[1:])
    number, _, date = sections[0].partition(" - ")
    assert number == f"[{ernie_m.__version__.removesuffix('.dev0')}]"
    assert (date == "Unreleased") is ernie_m.__version__.endswith(".dev0")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {*re.findall(r"^### (.*)$", changes, re.MULTILINE)} <= kinds
