"""scripts/mutants.py: what it plants, which tests it runs, what it says; the survivors that are explained."""

from collections import Counter

import pytest

from scripts import mutants
from scripts.mutants import EXPLAINED, ROOT, Reach, chosen, mutants_of
from tests.launching import run_script

CODE = """LIMIT = 3


def count(words: list[int], most: int = 9) -> int:
    total = 0
    for word in words:
        if word in (1, 2) and not total > LIMIT:
            total += 2 * word
        if words:
            raise ValueError(f"{word + 1}")
    print(total + 1)
    words.clear()
    return sorted(
        words,
        reverse=True,
    )
"""
# line -> what is changed there
CHANGES = {
    5: {"0 -> 1"},
    7: {
        "word in (1, 2) and not total > LIMIT -> word in (1, 2) or not total > LIMIT",
        "word in (1, 2) -> word not in (1, 2)",
        "not total > LIMIT -> total > LIMIT",
        "total > LIMIT -> total >= LIMIT",
        "1 -> 2",
        "2 -> 3",
    },
    8: {"total += 2 * word -> pass", "2 * word -> 2 + word", "2 -> 3"},
    9: {"words -> not words"},
    12: {"words.clear() -> pass"},
    13: {"sorted( words, reverse=True, ) -> sorted(words)", "True -> False"},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in the place of the checkout."""
    (tmp_path / "ernie_m").mkdir()
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return tmp_path


def test_what_is_changed(project):
    """Neither types nor errors, nor what is said; the other lines stay where they are."""
    (project / "ernie_m/a.py").write_text(CODE)
    found = mutants_of("ernie_m/a.py")
    assert {line: {mutant.change for mutant in planted} for line, planted in found.items()} == CHANGES
    before = CODE.splitlines()
    for line, planted in found.items():
        for mutant in planted:
            compile(mutant.source, mutant.path, "exec")
            after = mutant.source.splitlines()
            assert after[: line - 1] == before[: line - 1] and after != before
            assert after[line:][::-1][: len(before) - mutant.last_line] == before[mutant.last_line :][::-1]


def test_which_tests_are_run(project):
    """The most specific first, as many as there is time for, and one in any case."""
    (project / "ernie_m/a.py").write_text(CODE)
    mutant = mutants_of("ernie_m/a.py")[13][0]
    seconds = {"slow": 50.0, "broad": 1.0, "narrow": 2.0, "broken": 1.0}
    tests_of = {
        "ernie_m/a.py": {"13": ["broad", "slow"], "14": ["broad", "narrow", "broken"], "16": ["slow"]}
    }
    reach = Reach(seconds, Counter(slow=40, broad=30, narrow=1, broken=2), tests_of)
    assert chosen(mutant, reach, 40, {"broken": False}) == ["narrow", "broad"]
    assert chosen(mutant, reach, 2.5, {"broken": False}) == ["narrow"]
    assert chosen(mutant, reach, 0.5, {"broken": False}) == ["narrow"]
    in_files = Reach({"a.py::test_1": 1.0}, {"a.py::test_1": 1}, {"ernie_m/a.py": {"13": ["a.py::test_1"]}})
    assert chosen(mutant, in_files, 40, {}) == ["a.py::test_1"]
    assert chosen(mutant, in_files, 40, {"a.py": False}) == []  # the file cannot be imported


# Runs in a process of its own, because a process of pytest cannot fork one.
DRIVER = """
import json, sys
from pathlib import Path
from scripts import mutants
mutants.ROOT = Path(sys.argv[1])
mutants.WORK = mutants.ROOT / ".mutants"
mutants.prepare = lambda quiet: None  # no Paddle
tests = [f"tests/test_a.py::test_{name}" for name in ("broken", "of_two", "of_three")]
addition, three = mutants.mutants_of("ernie_m/a.py")[2]
for mutant, reaching in ((addition, tests[:2]), (addition, tests[1:]), (three, tests[1:2]), (three, [])):
    reach = mutants.Reach(dict.fromkeys(tests, 1.0), dict.fromkeys(tests, 1), {mutant.path: {"2": reaching}})
    for _, result in mutants.results_of([mutant], reach, mutants.MutantFlags(processes=1)):
        print(mutant.change, result, sep=": ")
"""


def test_what_is_said_of_a_mutant(tmp_path):
    """A test that fails in the copy without a fault, too, kills nothing."""
    for folder in ("ernie_m", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ernie_m/__init__.py").touch()
    (tmp_path / "ernie_m/a.py").write_text("def double(number):\n    return number * 2\n")
    (tmp_path / "tests/test_a.py").write_text(
        "from ernie_m.a import double\n\n\n"
        "def test_of_two():\n    assert double(2) == 4\n\n\n"
        "def test_of_three():\n    assert double(3) == 6\n\n\n"
        "def test_broken():\n    assert double(3) == 7\n"
    )
    process = run_script(["-c", DRIVER, tmp_path], ROOT)
    assert process.returncode == 0, process.stderr
    *_, broken, survived, killed, by_number, unreached = process.stdout.splitlines()
    assert broken.endswith(": tests/test_a.py::test_broken")
    assert [survived, killed] == ["number * 2 -> number + 2: survived", "number * 2 -> number + 2: killed"]
    assert [by_number, unreached] == ["2 -> 3: killed", "2 -> 3: not reached"]


def test_the_explained_survivors_are_there():
    """A row whose line has changed goes, or is explained anew."""
    rows = [line.split("\t") for line in EXPLAINED.read_text(encoding="utf-8").splitlines()[1:]]
    for path, text, change, why in rows:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        changes = {
            m.change
            for planted in mutants_of(path).values()
            for m in planted
            if lines[m.line - 1].strip() == text
        }
        assert change in changes, (path, text, change)
        assert why
