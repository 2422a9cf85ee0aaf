"""scripts/base/ablation.sh: the command lines that it starts, and the tables that it shows."""

import json
import shutil
import subprocess
import sys

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.utils.args import parse_options
from tests.helpers.files import write_file
from tests.launching import ROOT, clean_environment
from tests.toys import write_lines

# Instead of Python: it writes its arguments as a line of JSON.
RECORDER = f"""#!{sys.executable}
import json, sys
with open("lines.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def test_each_model_is_trained(tmp_path, monkeypatch):
    """First XLM-R is converted, then each model is pre-trained and fine-tuned."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    python = tmp_path / ".venv/bin/python"
    write_file(python, RECORDER)
    python.chmod(0o755)
    results = tmp_path / "output/ablation/exp0/xnli/results.txt"
    write_lines(results, ["mean  75.50"])
    script = ["sh", str(tmp_path / "scripts/base/ablation.sh"), "--optimizer.steps", "7"]
    environment = clean_environment(NPROC="2")
    shown = subprocess.run(script, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.endswith("mean  75.50\n")
    monkeypatch.chdir(ROOT)
    first, *lines = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    encoders = [f"output/ablation/exp{number}/encoder" for number in range(6)]  # exp0 is XLM-R itself
    assert first == ["-m", "ernie_m", "convert", "weights/xlm-roberta-base", encoders[0], "--to", "ernie-m"]
    pretrained = {}  # output of each pre-training -> its objectives
    fine_tuned = []  # encoder and output of each fine-tuning
    for line in lines:
        program = next(word for word in line if word.startswith("run_"))
        flags = line[line.index(program) + 1 :]
        if program == "run_pretrain.py":
            config = parse_options(PretrainConfig, flags)
            assert (config.optimizer.steps, config.init.encoder) == (7, "weights/xlm-roberta-base")
            pretrained[f"{config.run.output}/encoder"] = {*config.objectives.names}
        else:
            flags = parse_options(FinetuneFlags, flags)
            assert (flags.random_seed, flags.do_test) == ((1, 2, 3, 4, 5), True)
            fine_tuned.append((flags.init_pretraining_params, flags.checkpoints))
    assert [*pretrained] == encoders[1:] and pretrained[encoders[5]] == {"mmlm", "tlm", "camlm", "btmlm"}
    assert fine_tuned == [
        (encoder, encoder.replace("encoder", task)) for encoder in encoders for task in ("xnli", "conll")
    ]
