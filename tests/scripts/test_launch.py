"""The recipes run as scripts: overrides, the total batch on fewer devices, mistakes, several in a folder."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import command_lines, toys
from tests.helpers.checkpoints import changed_copy
from tests.helpers.files import write_file
from tests.launching import (
    ROOT,
    as_flags,
    check_error,
    check_refusal,
    check_success,
    clean_environment,
    read_log,
)
from tests.toys import write_lines

XNLI = "xnli_cross_lingual_transfer.sh"


def test_without_an_environment_the_script_says_how_to_make_one(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    # The script finds a python3 without the project's packages: one that fails.
    python = write_file(tmp_path / "python3", "#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = clean_environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    command = ["sh", f"scripts/base/{XNLI}"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    check_error(check_refusal(process), "sh scripts/setup.sh", start="error: missing .venv")


def sh(script: str, cwd: Path, *more, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the repository itself with flags `more`; its logs go to `cwd/log`."""
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / script), *map(str, more)],
        env=clean_environment(LOG_DIR=str(cwd / "log"), **environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_recipe_runs_on_two_processes(toy_folder, tmp_path):
    """Its log says that a step has the 4 x 2 examples of the recipe's two devices."""
    few = {"batch_size": 4, "max_steps": 3, "init_pretraining_params": ""}
    overrides = command_lines.classification(toy_folder, tmp_path / "out", **few)
    completed = check_success(sh(f"base/{XNLI}", tmp_path, *overrides, NPROC="2"))
    assert "8 examples (batch 4 x accumulation 1 x processes 2)" in read_log(tmp_path)
    assert "acc, " in completed.stdout and "seed 1" in completed.stdout
    assert json.loads((tmp_path / "out" / "results.json").read_text())["metric"] == "acc"


def test_a_mistake_ends_a_recipe_with_2(tmp_path):
    for rank in range(3):  # logs of an earlier run
        write_file(tmp_path / f"log/workers/workerlog.{rank}", "error: an old one\n")
    completed = sh(f"base/{XNLI}", tmp_path, "--learning_rte", "1", NPROC="2")
    assert completed.returncode == 2 and "error: --learning_rte: " in completed.stderr
    assert not re.search("error: an old one|Traceback", completed.stderr)


@pytest.mark.parametrize("number", ["x", "0", "2.5"])
def test_reject_invalid_nproc(number, tmp_path):
    assert check_refusal(sh(f"base/{XNLI}", tmp_path, NPROC=number)).startswith(f"error: NPROC={number}: ")


def test_tatoeba_recipe_uses_the_best_xnli_model(random_encoder, tmp_path):
    """It is where XNLI's recipe leaves it. The toy's has another size than the recipe's."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("configs", "launch.py", "run_retrieval.py", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    changed_copy(random_encoder, folder / "checkpoints/best", task="classification")
    pairs = tmp_path / "pairs"
    for side in ("de", "en"):
        write_lines(pairs / f"de-en.{side}", [row.text_a for row in toys.labeled_texts(9, seed=3)])
    flags = {"pairs": pairs, "max_seq_len": 64, "use_cuda": "false", "ernie_config_path": ""}
    command = ["sh", "scripts/small/tatoeba_cross_lingual_transfer.sh", *as_flags(flags)]
    check_success(
        subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True)
    )
    assert json.loads((folder / "output" / "tatoeba" / "retrieval.json").read_text())["tables"]
