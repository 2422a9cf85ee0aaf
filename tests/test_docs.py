"""The documentation: links, files, functions and pictures exist, and both READMEs show the same commands."""

import re
from pathlib import Path

import pytest

import ernie_m
from ernie_m.__main__ import PROGRAMS
from tests.helpers.pages import commands_on, pages
from tests.launching import ROOT
from tests.test_names import missing

PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# sh scripts/test.sh, python run_classifier.py, .venv/bin/ernie-m prepare
SCRIPT = re.compile(r"\b(?:sh|python3?) ((?:scripts/|benchmarks/)?[\w/-]+\.(?:sh|py))\b")
BARE_PYTHON = re.compile(r"(?<!\.venv/bin/)\b(?:python3?|pip) ")
# 1. `ernie_m/pretrain/build_corpus/text_units.py`, `read_units`: ...
STEP = re.compile(r"^\d+\. `([\w/]+\.py)`, `(?:\w+\.)?(\w+)`", re.MULTILINE)

# Of the official repository, but for the recipes in scripts/.
OFFICIAL_FILES = """
    encode_vector.py finetune/classifier.py finetune/mrc.py finetune/sequence_label.py launch.py
    model/ernie.py model/optimization.py reader/batching.py reader/task_reader.py reader/tokenization.py
    requirements.txt run_classifier.py run_mrc.py run_sequence_labeling.py scripts/base/ scripts/large/
    utils/eval_mlqa.py utils/finetune_args.py
"""


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


def test_each_official_file_has_its_place():
    """What is named for it is there, by the test of names."""
    text = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## The official files")[2]
    )
    named = re.findall(
        r"[\w/]+\.py|[\w/]+\.txt|\w+/\w+/", "".join(re.findall(r"^\| .*? \|", text, re.MULTILINE))
    )
    assert sorted(named) == OFFICIAL_FILES.split()


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
