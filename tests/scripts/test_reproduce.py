"""scripts/reproduce.sh: its steps, each once, with stand-ins for the scripts that it calls."""

import shlex
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from ernie_m.finetune.score_tables import load_recipe_scores
from tests.launching import ROOT, clean_environment

# A script that writes down how it is called, and a report. FAILS: the name of a script that ends early, and
# its exit code.
STAND_IN = """#!/bin/sh
echo "$0$(printf " '%s'" "$@")" >>calls.txt
case "$FAILS" in "$(basename "$0") "*) exit "${FAILS#* }" ;; esac
case "${3-}" in --checkpoints) mkdir -p "$4" && : >"$4/results.txt" ;; esac
"""
STEPS = ["setup.sh", "data/get_weights.sh", "verify_weights.sh", "data/get_data.sh"]
XNLI = "xnli_cross_lingual_transfer"


@pytest.fixture
def checkout(tmp_path):
    """An empty clone, as far as the script reads it."""
    for name in ("scripts", "ernie_m/finetune"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.py*"))
    for path in (tmp_path / "scripts").rglob("*.sh"):
        path.write_text(STAND_IN)
    shutil.copy(ROOT / "scripts/reproduce.sh", tmp_path / "scripts")
    return tmp_path


def reproduce(
    folder: Path, *flags: str, fails: str = ""
) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """Run the script. Returns the process, and the calls of other scripts, each without scripts/."""
    command = ["sh", folder / "scripts/reproduce.sh", *flags]
    (folder / "calls.txt").write_text("")
    environment = clean_environment(FAILS=fails)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    lines = (folder / "calls.txt").read_text().splitlines()
    return process, [shlex.split(line.removeprefix("scripts/")) for line in lines]


def test_only_full_rows_of_the_paper(checkout):
    """Small has averages alone, and PAN-X is not in the paper: these are refused before any step."""
    rows = {recipe: in_paper["scores"].values() for recipe, in_paper in load_recipe_scores().items()}
    for size, recipe in product(("small", "base", "large"), [*rows, "panx_cross_lingual_transfer"]):
        is_full = any(isinstance(row.get(size), str) for row in rows.get(recipe, ()))
        task, setting = recipe.split("_", 1)
        process, calls = reproduce(checkout, "--size", size, "--task", task, "--setting", setting)
        is_run = is_full and recipe != "tatoeba_fine-tuning"  # needs a corpus
        assert (process.returncode, calls != []) == ((0, True) if is_run else (2, False))
        assert is_full or f" {size} {recipe} " in process.stderr


@pytest.mark.parametrize(
    ("flags", "named", "called"),
    [
        (["--task"], "--task: ", []),
        (["--tasks", "xnli"], "--tasks: ", []),
        (["--task", "xnli", "--seeds", "1;2"], "--seeds 1;2: ", []),
        (["--size", "large", "--task", "tatoeba", "--setting", "fine-tuning"], "data/corpus: ", []),
        (["--task", "conll"], "", ["setup.sh", "data/get_data.sh"]),  # the stand-in says nothing
    ],
)
def test_rejects_flags_and_missing_data_before_weights_are_downloaded(checkout, flags, named, called):
    process, calls = reproduce(checkout, *flags, fails="get_data.sh 2")
    assert (process.returncode, [call[0] for call in calls]) == (2, called)
    assert named in process.stderr


def test_each_step_is_done_once(checkout):
    """The run is interrupted in each step, and continues with this one; the set-up is always called."""
    steps = [*STEPS, f"base/{XNLI}.sh"]
    for before, name in zip((steps[0], *steps), steps):
        process, calls = reproduce(checkout, "--task", "xnli", fails=f"{Path(name).name} 130")
        assert process.returncode == 130
        assert [call[0] for call in calls] == list(dict.fromkeys(["setup.sh", before, name]))
        plan = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("  ")]
        assert plan == [f"scripts/{step}" for step in steps]


@pytest.mark.parametrize(
    ("code", "flags", "is_trained"),
    [("1", [], False), ("2", ["--accept_unverified"], False), ("1", ["--accept_unverified"], True)],
)
def test_unverified_weights_are_not_compared_with_the_paper(checkout, code, flags, is_trained):
    """Weights that are not those of the size (code 2) are never accepted."""
    process, calls = reproduce(checkout, *flags, "--task", "xnli", fails=f"verify_weights.sh {code}")
    assert process.returncode == (0 if is_trained else int(code))
    assert ("--accept_unverified" in process.stderr, len(calls)) == (not flags, 5 if is_trained else 3)
    assert (calls[-1][-2:] == ["--paper", ""]) == is_trained


@pytest.mark.parametrize(
    ("seeds", "run", "best"), [([], "1", "best"), (["--seeds", "3,1"], "3-1", "seed_%d/best")]
)
def test_tatoeba_starts_from_the_model_of_xnli(checkout, seeds, run, best):
    flags = ["--size", "large", "--task", "tatoeba", *seeds]
    process, calls = reproduce(checkout, *flags, fails=f"{XNLI}.sh 0")  # as after SIGTERM
    assert (process.returncode, calls[-1][0]) == (2, f"large/{XNLI}.sh")
    _, calls = reproduce(checkout, *flags)
    folder = f"output/reproduce/large/{XNLI}/{run}"
    assert [[name, *words[-2:]] for name, *words in calls[-2:]] == [
        [f"large/{XNLI}.sh", "--checkpoints", folder],
        ["large/tatoeba_cross_lingual_transfer.sh", "--init_pretraining_params", f"{folder}/{best}"],
    ]
