"""scripts/base/ablation.sh: the command lines that it starts, and the tables that it shows."""

import json
import shutil
import subprocess
import sys

import pytest

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.utils.args import parse_options
from tests.launching import ROOT, clean_environment

# Instead of Python: it writes its arguments as a line of JSON.
RECORDER = f"""#!{sys.executable}
import json, sys
with open("lines.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def started(tmp_path):
    """The command lines that the script starts, in a copy of the repository's scripts."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(RECORDER)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "output/ablation/exp0/xnli").mkdir(parents=True)
    (tmp_path / "output/ablation/exp0/xnli/results.txt").write_text("mean  75.50")
    script = ["sh", str(tmp_path / "scripts/base/ablation.sh"), "--optimizer.steps", "7"]
    environment = clean_environment(NPROC="2")
    shown = subprocess.run(script, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.endswith("mean  75.50")
    return [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]


def test_the_command_lines(started, monkeypatch):
    """First XLM-R is converted, then each model is pre-trained and fine-tuned."""
    monkeypatch.chdir(ROOT)
    assert started[0] == [
        "-m",
        "ernie_m",
        "convert",
        "weights/xlm-roberta-base",
        "output/ablation/exp0/encoder",
        "--to",
        "ernie-m",
    ]
    objectives = {}  # output of each pre-training -> its objectives
    fine_tuned = []  # encoder and output of each fine-tuning
    for line in started[1:]:
        command = next(word for word in line if word.startswith("run_"))
        arguments = line[line.index(command) + 1 :]
        if command == "run_pretrain.py":
            config = parse_options(PretrainConfig, arguments)
            assert config.optimizer.steps == 7 and config.init.encoder == "weights/xlm-roberta-base"
            objectives[config.run.output] = set(config.objectives.names)
        else:
            flags = parse_options(FinetuneFlags, arguments)
            assert flags.random_seed == (1, 2, 3, 4, 5) and flags.do_test
            fine_tuned.append((flags.init_pretraining_params, flags.checkpoints))
    outputs = [f"output/ablation/exp{number}" for number in range(6)]
    assert list(objectives) == outputs[1:]  # exp0 is XLM-R itself
    assert objectives["output/ablation/exp5"] == {"mmlm", "tlm", "camlm", "btmlm"}
    expected = []
    for output in outputs:
        expected.append((f"{output}/encoder", f"{output}/xnli"))
        expected.append((f"{output}/encoder", f"{output}/conll"))
    assert fine_tuned == expected
