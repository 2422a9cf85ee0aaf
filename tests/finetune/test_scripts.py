"""The recipes as scripts: overrides, the total batch on fewer devices, and real runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import launch
from finetune.flags import FinetuneFlags
from tests.finetune import tagging_toy, toy
from tests.launching import ROOT, clean_environment
from utils.command_line import parse_args
from utils.errors import UserError
from utils.runtime import Cpu

XNLI = "xnli_cross_lingual_transfer.sh"


def test_without_an_environment_the_script_says_how_to_make_one(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    environment = clean_environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    command = ["sh", f"scripts/base/{XNLI}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no .venv") and "sh scripts/setup.sh" in done.stderr


@pytest.mark.parametrize(
    ("given", "recipe", "processes", "steps", "total"),
    [
        (["--batch_size", "16"], 2, 1, "2", 32),
        (["--batch_size", "16"], 8, 2, "4", 128),
        (["--batch_size", "16"], 8, 3, "3", 144),
        (["--batch_size", "16", "--batch_size=2"], 2, 1, "2", 4),
        (["--batch_size", "16", "--batch_size", "", "--gradient_accumulation_steps", ""], 2, 1, "2", 64),
        (["--batch_size", "16", "--gradient_accumulation_steps", "1"], 2, 1, "1", 16),
    ],
)
def test_the_total_batch_is_kept(given, recipe, processes, steps, total):
    arguments, line = launch.keep_total(given, recipe, processes)
    assert arguments[-1] == steps or arguments == given
    assert f"= {total} in all" in line
    assert str(parse_args(FinetuneFlags, arguments).gradient_accumulation_steps) == steps


def parsed(*line: str):
    return launch.make_parser().parse_args([*line, "run_classifier.py", "--epoch", "1"])


def test_processes_follow_the_gpus():
    assert launch.choose_processes(parsed(), gpus=0) == 1
    assert launch.choose_processes(parsed(), gpus=4) == 4
    assert launch.choose_processes(parsed("--recipe_devices", "2"), gpus=4) == 2
    assert launch.choose_processes(parsed("--selected_gpus", "1,3"), gpus=4) == 2
    with pytest.raises(UserError, match="--selected_gpus 7: there are only the GPUs 0,1"):
        launch.choose_processes(parsed("--selected_gpus", "0,7"), gpus=2)
    assert launch.choose_processes(parsed("--nproc_per_node", "3"), gpus=0) == 3
    for number in ("-1", "2"):
        with pytest.raises(UserError, match=f"--node_id {number}: --node_ips has 0 to 1"):
            launch.command(parsed("--node_ips", "10.0.0.1,10.0.0.2", "--node_id", number), 1, 0)
    for count, message in (("2", "only 1 GPUs"), ("0", "there must be at least 1")):
        with pytest.raises(UserError, match=f"{count} processes, but {message}"):
            launch.choose_processes(parsed("--nproc_per_node", count), gpus=1)


def test_the_command_of_the_official_flags(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = "--node_ips 10.0.0.1,10.0.0.2 --node_id 1 --current_node_ip 10.0.0.2 --nproc_per_node 2"
    flags += " --selected_gpus 2,3 --log_prefix xnli_ --split_log_path logs"
    line, environment = launch.command(parsed(*flags.split()), 2, 4)
    text = " ".join(line)
    assert "-m paddle.distributed.launch --nproc_per_node 2" in text
    assert "--log_dir logs/workers-node1" in text
    found = re.search(r"--devices 2,3 --master (10.0.0.1:2\d{4}) --nnodes 2 --rank 1 --host 10.0.0.2", text)
    assert text.endswith("run_classifier.py --epoch 1")
    assert environment == {"LOG_DIR": "logs", "LOG_PREFIX": "xnli_"}

    other, _ = launch.command(parsed(*flags.replace("--node_id 1", "--node_id 0").split()), 2, 4)
    assert found[1] in other and "workers-node0" in " ".join(other)
    line, _ = launch.command(parsed(*flags.split(), "--master_port", "7000"), 2, 4)
    assert "--master 10.0.0.1:7000" in " ".join(line)


def test_threads_are_divided_among_the_processes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "read_cpu", lambda: Cpu("GenuineIntel", frozenset(), 16, 0))
    assert launch.command(parsed(), 4, 0)[1]["OMP_NUM_THREADS"] == "4"


def sh(script: str, cwd: Path, *more, **environment: str) -> subprocess.CompletedProcess:
    """Run a script of the repository itself; its logs go to `cwd/log`."""
    environment = clean_environment(LOG_DIR=str(cwd / "log"), **environment)
    command = ["sh", str(ROOT / "scripts" / script), *map(str, more)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_recipe_runs_on_two_processes(toy_folder, tmp_path):
    few = {"batch_size": 4, "max_steps": 3, "init_pretraining_params": ""}
    overrides = toy.flags(toy_folder, tmp_path / "out", **few)
    done = sh(f"base/{XNLI}", tmp_path, *overrides, NPROC="2")
    assert done.returncode == 0, done.stderr
    assert "batch: 4 x accumulation 1 x processes 2 = 8 in all" in done.stdout
    log = (tmp_path / "log" / "job.log.0").read_text()
    assert "8 examples (batch 4 x accumulation 1 x processes 2)" in log
    assert "batch: 4 x accumulation 1 x processes 2 = 8 in all (the recipe is for 2 devices)" in log
    assert "acc, " in done.stdout and "seed 1" in done.stdout
    assert json.loads((tmp_path / "out" / "results.json").read_text())["metric"] == "acc"


def test_a_mistake_ends_a_recipe_with_2(tmp_path):
    (tmp_path / "log/workers").mkdir(parents=True)
    for rank in range(3):  # of an earlier run
        (tmp_path / f"log/workers/workerlog.{rank}").write_text("error: an old one\n")
    done = sh(f"base/{XNLI}", tmp_path, "--learning_rte", "1", NPROC="2")
    assert done.returncode == 2 and "error: an old one" not in done.stderr
    assert "error: unknown flag --learning_rte; did you mean --learning_rate?" in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_in_one_folder(toy_folder, tmp_path):
    """XNLI; PAN-X is refused in the same ./checkpoints; Tatoeba takes XNLI's best."""
    folder, tagging, pairs = (tmp_path / name for name in ("repository", "tagging", "pairs"))
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("launch.py", "run_classifier.py", "run_sequence_labeling.py", "run_retrieval.py", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    tagging.mkdir()
    tagging_toy.make(tagging)
    pairs.mkdir()
    for side in ("de", "en"):
        (pairs / f"de-en.{side}").write_text("".join(f"{row[1]}\n" for row in toy.rows(9, 3)))

    def recipe(name: str, *flags) -> subprocess.CompletedProcess:
        command = ["sh", f"scripts/small/{name}.sh", *map(str, flags)]
        return subprocess.run(
            command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
        )

    few = {"checkpoints": "./checkpoints", "max_steps": 2}
    assert recipe("xnli_cross_lingual_transfer", *toy.flags(toy_folder, folder, **few)).returncode == 0
    refused = recipe("panx_cross_lingual_transfer", *tagging_toy.flags(tagging, folder, **few))
    assert refused.returncode == 2
    assert "checkpoints holds another run (task: classification -> " in refused.stderr
    search = ["--pairs", pairs, "--max_seq_len", 64, "--use_cuda", "false"]
    found = recipe("tatoeba_cross_lingual_transfer", *search)
    assert found.returncode == 0, found.stderr
    assert json.loads((folder / "output" / "tatoeba" / "retrieval.json").read_text())["tables"]
